//! `GET /v1/models` and `GET /v1/models/{id}`, in OpenAI's shape or, for Anthropic's clients, in theirs.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use moesaic_protocol::anthropic::{ModelInfo, ModelPage};
use moesaic_protocol::{ErrorResponse, Model, ModelList};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::anthropic::models::{PageQuery, info, is_for_anthropic, page};
use crate::error::ApiError;
use crate::extract::ApiPath;
use crate::state::{AppState, Serving};

/// An answer, or with the header `anthropic-version` the same in Anthropic's shape.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Either<O, A> {
    /// In OpenAI's shape.
    OpenAi(O),
    /// In Anthropic's shape.
    Anthropic(A),
}

/// Lists the served model under each of its names.
#[utoipa::path(
    get,
    path = "/v1/models",
    params(
        ("anthropic-version" = Option<String>, Header, description = "Answer in Anthropic's shape, in pages"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most models on a page (20)"),
        ("after_id" = Option<String>, Query, description = "The model before the page"),
        ("before_id" = Option<String>, Query, description = "The model behind the page"),
    ),
    responses(
        (status = 200, description = "The served models", body = Either<ModelList, ModelPage>),
        (status = "4XX", description = "Not allowed", body = ErrorResponse),
        (status = "5XX", description = "Still loading", body = ErrorResponse),
    )
)]
pub async fn list_models(
    State(state): State<AppState>,
    headers: HeaderMap,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<Either<ModelList, ModelPage>>, ApiError> {
    let serving = state.serving()?;
    if is_for_anthropic(&headers) {
        let Query(query) = query.map_err(|_| ApiError::bad_request("The query of the URL could not be read."))?;
        return Ok(Json(Either::Anthropic(page(serving, &query)?)));
    }
    let data = serving.model_names.iter().map(|name| model(serving, name)).collect();
    Ok(Json(Either::OpenAi(ModelList { object: "list".to_owned(), data })))
}

/// One of the names.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    params(
        ("id" = String, Path, description = "Name of the model"),
        ("anthropic-version" = Option<String>, Header, description = "Answer in Anthropic's shape"),
    ),
    responses(
        (status = 200, description = "The model", body = Either<Model, ModelInfo>),
        (status = "4XX", description = "Not served, or not allowed", body = ErrorResponse),
        (status = "5XX", description = "Still loading", body = ErrorResponse),
    )
)]
pub async fn get_model(
    State(state): State<AppState>,
    headers: HeaderMap,
    ApiPath(id): ApiPath<String>,
) -> Result<Json<Either<Model, ModelInfo>>, ApiError> {
    find(&state, &headers, &id)
}

/// A name with a slash in it, such as `deepseek-ai/DeepSeek-V3`.
pub async fn get_model_of_owner(
    State(state): State<AppState>,
    headers: HeaderMap,
    ApiPath((owner, name)): ApiPath<(String, String)>,
) -> Result<Json<Either<Model, ModelInfo>>, ApiError> {
    find(&state, &headers, &format!("{owner}/{name}"))
}

fn find(state: &AppState, headers: &HeaderMap, id: &str) -> Result<Json<Either<Model, ModelInfo>>, ApiError> {
    let serving = state.serving()?;
    serving.check_model(Some(id))?;
    if is_for_anthropic(headers) {
        return Ok(Json(Either::Anthropic(info(serving, id))));
    }
    Ok(Json(Either::OpenAi(model(serving, id))))
}

fn model(serving: &Serving, name: &str) -> Model {
    Model {
        id: name.to_owned(),
        object: "model".to_owned(),
        created: serving.created,
        owned_by: "moesaic".to_owned(),
        root: serving.root.clone(),
        max_model_len: serving.max_model_len as u32,
        dialect: serving.dialect.name().to_owned(),
    }
}
