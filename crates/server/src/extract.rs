//! Reading a JSON body with exact errors.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use moesaic_protocol::FromJson;

use crate::error::ApiError;
use crate::state::AppState;

/// A request body of type `T`.
#[derive(Debug)]
pub struct ApiJson<T>(pub T);

impl<T: FromJson> FromRequest<AppState> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !content_type.is_some_and(is_json) {
            return Err(ApiError::unsupported_media_type());
        }
        let max_bytes = state.config.limits.max_body_bytes;
        let body = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                ApiError::too_large(max_bytes)
            } else {
                ApiError::bad_request("The request body could not be read.")
            }
        })?;
        let value = serde_json::from_slice(&body)
            .map_err(|error| ApiError::bad_request(format!("The request body is not valid JSON: {error}")))?;
        Ok(Self(T::from_json(&value)?))
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}
