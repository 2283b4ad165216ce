//! `GET /v1/models` and `GET /v1/models/{id}`

use axum::Json;
use axum::extract::State;
use moesaic_protocol::{ErrorResponse, Model, ModelList};

use crate::error::ApiError;
use crate::extract::ApiPath;
use crate::state::{AppState, Serving};

/// Lists the served model under each of its names.
#[utoipa::path(get, path = "/v1/models", responses(
    (status = 200, description = "The served models", body = ModelList),
    (status = "4XX", description = "Not allowed", body = ErrorResponse),
    (status = "5XX", description = "Still loading", body = ErrorResponse),
))]
pub async fn list_models(State(state): State<AppState>) -> Result<Json<ModelList>, ApiError> {
    let serving = state.serving()?;
    let data = serving.model_names.iter().map(|name| model(serving, name)).collect();
    Ok(Json(ModelList { object: "list".to_owned(), data }))
}

/// One of the names.
#[utoipa::path(get, path = "/v1/models/{id}", params(("id" = String, Path, description = "Name of the model")), responses(
    (status = 200, description = "The model", body = Model),
    (status = "4XX", description = "Not served, or not allowed", body = ErrorResponse),
    (status = "5XX", description = "Still loading", body = ErrorResponse),
))]
pub async fn get_model(State(state): State<AppState>, ApiPath(id): ApiPath<String>) -> Result<Json<Model>, ApiError> {
    find(&state, &id)
}

/// A name with a slash in it, such as `deepseek-ai/DeepSeek-V3`.
pub async fn get_model_of_owner(
    State(state): State<AppState>,
    ApiPath((owner, name)): ApiPath<(String, String)>,
) -> Result<Json<Model>, ApiError> {
    find(&state, &format!("{owner}/{name}"))
}

fn find(state: &AppState, id: &str) -> Result<Json<Model>, ApiError> {
    let serving = state.serving()?;
    serving.check_model(Some(id))?;
    Ok(Json(model(serving, id)))
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
