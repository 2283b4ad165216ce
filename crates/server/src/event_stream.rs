//! A generation as server-sent events: the same order of events for every kind of answer.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::response::Response;
use futures::{Stream, StreamExt};
use moesaic_protocol::Usage;

use crate::error::ApiError;
use crate::generation::{Delta, Generation};
use crate::sse::{self, Event};
use crate::state::AppState;
use crate::validate::response::ResponseSettings;

/// What differs between endpoints: the shape of their chunks.
pub trait StreamedAnswer: Send + 'static {
    /// How the request wants it reported.
    fn settings(&self) -> &ResponseSettings;
    /// Events before the first delta.
    fn opening(&self, usage: Usage) -> Vec<Event>;
    /// Events of one delta; `usage` where every chunk is to carry the counts.
    fn chunks(&mut self, delta: Delta, usage: Option<Usage>) -> Vec<Event>;
    /// Events after the last delta.
    fn closing(&mut self, usage: Usage) -> Vec<Event>;
    /// Events in the place of what did not come.
    fn failure(&mut self, error: &ApiError) -> Vec<Event> {
        vec![sse::json(&error.to_body()), sse::done()]
    }
}

/// Streams an answer: opening, chunks, closing. A failure becomes an error event in the place of what did not come.
pub fn respond(answer: impl StreamedAnswer, generation: Generation, state: &AppState) -> Response {
    let events = EventStream::new(answer, generation).events();
    sse::response(events.map(Ok::<_, Infallible>), state.config.limits.keep_alive)
}

/// The events of an answer. The generation is gone once the last ones are pending.
pub struct EventStream<A> {
    answer: A,
    generation: Option<Generation>,
    pending: VecDeque<Event>,
}

impl<A: StreamedAnswer> EventStream<A> {
    /// Begins with the opening.
    pub fn new(answer: A, generation: Generation) -> Self {
        let pending = answer.opening(generation.usage()).into();
        Self { answer, generation: Some(generation), pending }
    }

    /// All of them.
    pub fn events(self) -> impl Stream<Item = Event> {
        futures::stream::unfold(self, |mut stream| async move { stream.next().await.map(|event| (event, stream)) })
    }

    /// The next event. Safe to cancel: nothing is lost.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            let generation = self.generation.as_mut()?;
            match generation.next().await {
                Ok(Some(delta)) => {
                    let usage = self.answer.settings().continuous_usage.then(|| generation.usage());
                    self.pending.extend(self.answer.chunks(delta, usage));
                }
                Ok(None) => {
                    let usage = generation.usage();
                    self.generation = None;
                    self.pending.extend(self.answer.closing(usage));
                }
                Err(error) => {
                    self.generation = None;
                    self.pending.extend(self.answer.failure(&error));
                }
            }
        }
    }
}
