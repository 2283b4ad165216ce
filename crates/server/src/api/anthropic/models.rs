//! `/v1/models` as Anthropic's clients know it: pages of models.

use axum::http::HeaderMap;
use moesaic_protocol::anthropic::{ModelInfo, ModelPage};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::ApiError;
use crate::state::Serving;

/// Where the routes begin that answer in this shape too.
pub const PATH: &str = "/v1/models";
const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 1000;

/// Whether a request is from one of Anthropic's clients, all of which name the version of the API that they know.
pub fn is_for_anthropic(headers: &HeaderMap) -> bool {
    headers.contains_key("anthropic-version")
}

/// Which page of the models.
#[derive(Debug, Default, Deserialize)]
pub struct PageQuery {
    /// Most models on it.
    limit: Option<String>,
    /// The model before the page.
    after_id: Option<String>,
    /// The model behind it.
    before_id: Option<String>,
}

/// A page of the served models.
///
/// # Errors
/// Names the parameter that is wrong.
pub fn page(serving: &Serving, query: &PageQuery) -> Result<ModelPage, ApiError> {
    let names = &serving.model_names;
    let limit = match query.limit.as_deref() {
        None => DEFAULT_LIMIT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=MAX_LIMIT).contains(limit))
            .ok_or_else(|| ApiError::invalid("limit", format!("must be a whole number from 1 to {MAX_LIMIT}")))?,
    };
    let place = |param: &str, id: &String| {
        let place = names.iter().position(|name| name == id);
        place.ok_or_else(|| ApiError::invalid(param, "must be the id of a served model"))
    };
    let (page, has_more) = match (&query.after_id, &query.before_id) {
        (Some(_), Some(_)) => return Err(ApiError::conflict("after_id", "before_id")),
        (None, Some(id)) => {
            let before = &names[..place("before_id", id)?];
            let start = before.len().saturating_sub(limit);
            (&before[start..], start > 0)
        }
        (after, None) => {
            let start = after.as_ref().map(|id| place("after_id", id)).transpose()?.map_or(0, |place| place + 1);
            let after = &names[start..];
            (&after[..limit.min(after.len())], after.len() > limit)
        }
    };
    Ok(ModelPage {
        data: page.iter().map(|name| info(serving, name)).collect(),
        has_more,
        first_id: page.first().cloned(),
        last_id: page.last().cloned(),
    })
}

/// A served model under one of its names.
pub fn info(serving: &Serving, name: &str) -> ModelInfo {
    let created = OffsetDateTime::from_unix_timestamp(serving.created as i64).ok();
    let created = created.and_then(|time| time.format(&Rfc3339).ok());
    ModelInfo {
        kind: "model".to_owned(),
        id: name.to_owned(),
        display_name: name.to_owned(),
        // Clients read a time; the clock of a machine may be anywhere.
        created_at: created.unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned()),
        lifecycle: "active".to_owned(),
        max_input_tokens: serving.max_model_len as u32 - 1,
        max_tokens: serving.max_model_len as u32 - 1,
    }
}
