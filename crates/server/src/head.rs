//! What every request's head must be like.

use axum::extract::Request;
use axum::http::{Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;

/// Most bytes of a request's headers and address.
const MAX_HEAD: usize = 64 << 10;

/// Refuses a head that is too long, and HTTP/1.1 that names no host or several.
pub async fn layer(request: Request, next: Next) -> Response {
    match check(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check(request: &Request) -> Result<(), ApiError> {
    let headers = request.headers();
    // As they are sent: with a colon, a space and the end of the line.
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    if fields + path > MAX_HEAD {
        return Err(ApiError::head_too_large(MAX_HEAD));
    }
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Err(ApiError::bad_request("An HTTP/1.1 request must have one Host header."));
    }
    Ok(())
}
