//! A turn: from a client's message to the events that answer it.

use axum::body::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use moesaic_protocol::Usage;
use moesaic_protocol::responses::ClientEvent;
use serde_json::json;

use crate::api::responses::answer::ResponseAnswer;
use crate::api::responses::begin;
use crate::api::responses::request::Asker;
use crate::error::ApiError;
use crate::event_stream::{EventStream, StreamedAnswer};
use crate::generation::Delta;
use crate::request_id;
use crate::response_store::Owner;
use crate::sse::{self, Event};
use crate::state::AppState;
use crate::validate::response::ResponseSettings;

/// The events of a turn, as JSON. Dropping it ends what is being generated.
pub type Turn = BoxStream<'static, String>;

/// Answers a message.
pub fn turn(state: AppState, owner: Owner, message: Bytes) -> Turn {
    let events = async move {
        let mut continued = None;
        let events = begin_turn(&state, owner, message, &mut continued).await.unwrap_or_else(|error| {
            state.metrics.refused(error.status());
            let failure = Event { name: Some("error"), data: error_event(&error) };
            stream::iter([failure]).boxed()
        });
        events.map(move |event| {
            // A continuation that fails takes what it went on from with it: another attempt says so.
            if matches!(event.name, Some("error" | "response.failed"))
                && let Some(id) = &continued
            {
                state.responses.delete(owner, id);
            }
            event.data
        })
    };
    stream::once(events).flatten().boxed()
}

/// An error as WebSockets tell it.
pub fn error_event(error: &ApiError) -> String {
    let body = error.to_body().error;
    // Clients of Open Responses expect a code of every error.
    let code = body.code.as_ref().unwrap_or(&body.kind);
    let inner = json!({"type": body.kind, "code": code, "message": body.message, "param": body.param});
    json!({"type": "error", "status": error.status().as_u16(), "error": inner}).to_string()
}

/// `continued`: the response that the message goes on from, known also where it is refused.
async fn begin_turn(
    state: &AppState,
    owner: Owner,
    message: Bytes,
    continued: &mut Option<String>,
) -> Result<BoxStream<'static, Event>, ApiError> {
    let num_bytes = message.len();
    let read = move || ClientEvent::from_json(&message).map(|event| (event.request(&message), event));
    let (request, event) = state.lanes.work(num_bytes, read).await??;
    match event.kind.as_deref() {
        Some("response.create") => {}
        // Of Codex, which tells that it has read a response.
        Some("response.processed") => return Ok(stream::empty().boxed()),
        _ => return Err(ApiError::invalid("type", "must be \"response.create\"")),
    }
    continued.clone_from(&event.previous_response_id);
    let mut request = request?;
    if request.background == Some(true) {
        return Err(ApiError::invalid("background", "is not available over a WebSocket"));
    }
    // Every answer is streamed here, whatever a client says of it.
    (request.sampling.stream, request.sampling.stream_options) = (Some(true), None);
    let warms_up = event.generate == Some(false);
    let begun = begin(state, Asker { owner, warms_up }, request_id::fresh(), request, num_bytes);
    let (answer, generation) = Box::pin(begun).await?;
    Ok(if warms_up {
        told(EventStream::new(WarmUp(answer), generation).events()).boxed()
    } else {
        told(EventStream::new(answer, generation).events()).boxed()
    })
}

/// What is told of a stream's events: nothing after the one that ends the response, and one that ends it.
fn told(events: impl Stream<Item = Event> + Send + 'static) -> impl Stream<Item = Event> + Send + 'static {
    events.filter(|event| std::future::ready(*event != sse::done() && event.name != Some("error")))
}

/// A response whose prompt is prepared: what is generated for that is left out.
struct WarmUp(ResponseAnswer);

impl StreamedAnswer for WarmUp {
    fn settings(&self) -> &ResponseSettings {
        self.0.settings()
    }

    fn opening(&self, usage: Usage) -> Vec<Event> {
        self.0.opening(usage)
    }

    fn chunks(&mut self, _delta: Delta, _usage: Option<Usage>) -> Vec<Event> {
        Vec::new()
    }

    fn closing(&mut self, usage: Usage) -> Vec<Event> {
        let Usage { prompt_tokens, prompt_tokens_details, .. } = usage;
        let told = Usage { prompt_tokens, prompt_tokens_details, total_tokens: prompt_tokens, ..Usage::default() };
        self.0.closing(told)
    }

    fn failure(&mut self, error: &ApiError) -> Vec<Event> {
        self.0.failure(error)
    }
}
