//! `GET /v1/responses`, upgraded: responses one after the other over a WebSocket.

mod connection;
mod turn;

use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request};
use axum::http::{HeaderMap, Method, header};
use axum::response::Response;
use uuid::Uuid;

use crate::auth::ClientKey;
use crate::error::ApiError;
use crate::heavy::in_name_of;
use crate::response_store::Owner;
use crate::state::AppState;

/// The route, whose other method is that of requests over HTTP.
const PATH: &str = "/v1/responses";
/// Bytes that a connection holds for reading, and about as many for writing.
const BUFFER: usize = 16 << 10;
/// The subprotocol that pages name beside their key.
const SUBPROTOCOL: &str = "realtime";

/// Whether a request wants a WebSocket here.
pub fn is_wanted(request: &Request) -> bool {
    request.method() == Method::GET && request.uri().path() == PATH && request.headers().contains_key(header::UPGRADE)
}

/// Opens a WebSocket. It is not in the OpenAPI document, which cannot describe one.
///
/// # Errors
/// When the request opens none, its page may not, or there are too many.
pub async fn connect(state: AppState, client: ClientKey, request: Request) -> Result<Response, ApiError> {
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await.map_err(|rejection| {
        ApiError::bad_request(format!("The request opens no WebSocket: {}.", rejection.body_text()))
    })?;
    check_origin(&parts.headers, &state.config.cors_allow_origins)?;
    // Neither while loading nor while shutting down.
    state.serving()?;
    let place = Arc::clone(&state.websockets).try_acquire_owned();
    let place = place.map_err(|_| ApiError::busy("with other WebSockets"))?;
    let max_bytes = state.config.limits.max_body_bytes;
    let owner = Owner { client, connection: Some(Uuid::new_v4()) };
    let upgrade = upgrade
        .protocols([SUBPROTOCOL])
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_frame_size(max_bytes)
        .max_message_size(max_bytes);
    Ok(upgrade.on_upgrade(async move |socket| {
        in_name_of(client, connection::run(state, owner, socket)).await;
        drop(place);
    }))
}

/// Browsers let any page open a WebSocket anywhere: whether it may is for the server to say.
fn check_origin(headers: &HeaderMap, allowed: &[String]) -> Result<(), ApiError> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = String::from_utf8_lossy(origin.as_bytes());
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let is_own = origin.split_once("://").zip(host).is_some_and(|((_, own), host)| own.eq_ignore_ascii_case(host));
    if is_own || allowed.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(&origin)) {
        return Ok(());
    }
    Err(ApiError::origin_not_allowed(&origin))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn origins() {
        let check = |origin: Option<&str>, allowed: &[&str]| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("api.example:8000"));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
            }
            let allowed: Vec<String> = allowed.iter().map(|&origin| origin.to_owned()).collect();
            check_origin(&headers, &allowed).map_err(|error| error.status().as_u16())
        };
        for (origin, allowed, expected) in [
            (None, &[] as &[&str], Ok(())),
            (Some("https://evil.example"), &["*"], Ok(())),
            (Some("https://chat.example"), &["https://other.example", "https://chat.example"], Ok(())),
            (Some("https://API.example:8000"), &[], Ok(())),
            (Some("https://api.example"), &[], Err(403)),
            (Some("http://chat.example"), &["https://chat.example"], Err(403)),
            (Some("https://chat.example.evil.example"), &["https://chat.example"], Err(403)),
            (Some("null"), &["https://chat.example"], Err(403)),
            (Some(""), &["https://chat.example"], Err(403)),
        ] {
            assert_eq!(check(origin, allowed), expected, "{origin:?} {allowed:?}");
        }
    }
}
