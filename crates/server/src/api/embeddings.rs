//! `POST /v1/embeddings`

use axum::Json;
use axum::extract::State;
use moesaic_protocol::{EmbeddingsRequest, ErrorResponse};

use crate::error::ApiError;
use crate::extract::ApiJson;
use crate::state::AppState;

/// Always refused: the served model generates text.
#[utoipa::path(post, path = "/v1/embeddings", request_body = EmbeddingsRequest, responses(
    (status = "4XX", description = "Models served here make no embeddings", body = ErrorResponse),
    (status = "5XX", description = "Still loading", body = ErrorResponse),
))]
pub async fn embeddings(
    State(state): State<AppState>,
    ApiJson(request): ApiJson<EmbeddingsRequest>,
) -> Result<Json<()>, ApiError> {
    let model = state.serving()?.check_model(request.model.as_deref())?;
    Err(ApiError::invalid("model", format!("The model `{model}` generates text and makes no embeddings.")))
}
