//! The chat page, the API reference and their parts: files inside the program, nothing from elsewhere.

use axum::extract::Path;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;

/// Only this server's own files run, and only this server is called.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const FILES: &[(&str, &str, &str)] = &[
    ("page.css", "text/css; charset=utf-8", include_str!("../../page/page.css")),
    ("chat.js", "text/javascript; charset=utf-8", include_str!("../../page/chat.js")),
    ("api.js", "text/javascript; charset=utf-8", include_str!("../../page/api.js")),
    ("docs.js", "text/javascript; charset=utf-8", include_str!("../../page/docs.js")),
    ("inline.js", "text/javascript; charset=utf-8", include_str!("../../page/inline.js")),
    ("markdown.js", "text/javascript; charset=utf-8", include_str!("../../page/markdown.js")),
    ("icon.svg", "image/svg+xml", include_str!("../../page/icon.svg")),
];

/// `GET /`
pub async fn index() -> Response {
    file("text/html; charset=utf-8", include_str!("../../page/index.html"))
}

/// `GET /docs`
pub async fn docs() -> Response {
    file("text/html; charset=utf-8", include_str!("../../page/docs.html"))
}

/// `GET /assets/{name}`
pub async fn asset(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(known, _, _)| *known == name) {
        Some((_, kind, text)) => file(kind, text),
        None => ApiError::unknown_route("GET", &format!("/assets/{name}")).into_response(),
    }
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // A new binary may bring a new page.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
