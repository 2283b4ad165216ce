//! Server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use serde::Serialize;

/// The line that ends every stream of ours.
pub fn done() -> Event {
    Event::default().data("[DONE]")
}

/// One JSON event.
pub fn json(value: &impl Serialize) -> Event {
    Event::default().data(serde_json::to_string(value).expect("wire types always serialise"))
}

/// The response. Comments keep it alive through proxies while there is nothing to say.
pub fn response(
    events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
    keep_alive: Duration,
) -> Response {
    let mut response =
        Sse::new(events).keep_alive(KeepAlive::new().interval(keep_alive).text("keep-alive")).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would otherwise collect the events before it passes them on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
