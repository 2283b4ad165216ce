//! Server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderValue, header};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde::Serialize;

/// An event, whatever carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name, in the APIs that name their events.
    pub name: Option<&'static str>,
    /// JSON, or the word that ends a stream.
    pub data: String,
}

const DONE: &str = "[DONE]";

/// The line that ends every stream of ours.
pub fn done() -> Event {
    Event { name: None, data: DONE.to_owned() }
}

/// One JSON event.
pub fn json(value: &impl Serialize) -> Event {
    Event { name: None, data: serde_json::to_string(value).expect("wire types always serialise") }
}

/// One JSON event of a name, which stands before its data.
pub fn named(name: &'static str, value: &impl Serialize) -> Event {
    Event { name: Some(name), ..json(value) }
}

/// The response. Comments keep it alive through proxies while there is nothing to say.
pub fn response(
    events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
    keep_alive: Duration,
) -> Response {
    let events = events.map(|event| {
        event.map(|Event { name, data }| {
            let event = axum::response::sse::Event::default();
            name.map_or(event.clone(), |name| event.event(name)).data(data)
        })
    });
    let mut response =
        Sse::new(events).keep_alive(KeepAlive::new().interval(keep_alive).text("keep-alive")).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would otherwise collect the events before it passes them on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text that ends lines, in any of the ways that readers of events know, ends no event.
    #[tokio::test]
    async fn any_text_is_one_line_of_data() {
        let every = ('\0'..='\u{3fff}').chain('\u{1f600}'..='\u{1f64f}').collect::<String>();
        let texts = [every.as_str(), "", "\n\n", "\r\r", "\r\n\r\n", "data: [DONE]\n\n", ": comment", "\u{feff}"];
        let events: Vec<_> = texts.iter().map(|text| Ok(json(text))).chain([Ok(done())]).collect();
        let response = response(futures::stream::iter(events), Duration::from_mins(1));
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let body = std::str::from_utf8(&body).unwrap();
        let lines: Vec<&str> = body.split(['\n', '\r']).filter(|line| !line.is_empty()).collect();
        let read: Vec<String> = lines[..texts.len()]
            .iter()
            .map(|line| serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap())
            .collect();
        assert_eq!(read, texts);
        assert_eq!(lines[texts.len()..], ["data: [DONE]"]);
    }
}
