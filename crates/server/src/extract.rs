//! Reading a JSON body, compressed or not, with exact errors.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use moesaic_protocol::FromJson;
use serde::de::DeserializeOwned;

use crate::body::Coding;
use crate::error::ApiError;
use crate::heavy::SMALL_WORK;
use crate::state::AppState;

/// A client that takes longer to send its request has gone or means no good.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// A request body of type `T`.
#[derive(Debug)]
pub struct ApiJson<T>(pub T);

/// As [`ApiJson`], with the length of the body in bytes, for routes that have more to do with it.
#[derive(Debug)]
pub struct SizedJson<T>(pub T, pub usize);

impl<T: FromJson + Send + 'static> FromRequest<AppState> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        SizedJson::from_request(request, state).await.map(|SizedJson(value, _)| Self(value))
    }
}

impl<T: FromJson + Send + 'static> FromRequest<AppState> for SizedJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !content_type.is_some_and(is_json) {
            return Err(ApiError::unsupported_media_type());
        }
        let coding = Coding::of(request.headers())?;
        let max_bytes = state.config.limits.max_body_bytes;
        let body = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await;
        let body = body.map_err(|_| ApiError::slow_body(BODY_TIMEOUT.as_secs()))?.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                ApiError::too_large(max_bytes)
            } else {
                ApiError::bad_request("The request body could not be read.")
            }
        })?;
        if let Some(coding) = coding {
            // Small bodies may become large ones: ten times as large is usual.
            let num_bytes = (10 * body.len()).max(SMALL_WORK + 1);
            let read = move || {
                let body = coding.decode(&body, max_bytes)?;
                Ok::<_, ApiError>(Self(T::from_json(&body)?, body.len()))
            };
            return state.lanes.work(num_bytes, read).await?;
        }
        let num_bytes = body.len();
        if num_bytes <= SMALL_WORK {
            return Ok(Self(T::from_json(&body)?, num_bytes));
        }
        let request = state.lanes.work(num_bytes, move || T::from_json(&body)).await??;
        Ok(Self(request, num_bytes))
    }
}

/// The variable part of a path.
#[derive(Debug)]
pub struct ApiPath<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<AppState> for ApiPath<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let unknown = ApiError::unknown_route(parts.method.as_str(), parts.uri.path());
        let Path(path) = Path::from_request_parts(parts, state).await.map_err(|_| unknown)?;
        Ok(Self(path))
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}
