//! One line in the log for each request, once its answer is sent or given up. It holds no word of a prompt or an answer.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode};

use crate::auth::ClientKey;

/// Characters of a path that are told: lines wait in memory, and a path is as long as its client likes.
const MAX_PATH: usize = 256;

tokio::task_local! {
    static CURRENT: Arc<Access>;
}

/// What the line tells of a request. It is written when the last who knows more of the request has let it go.
#[derive(Debug)]
pub struct Access {
    started: Instant,
    id: String,
    method: Method,
    path: String,
    status: OnceLock<StatusCode>,
    client: OnceLock<Option<ClientKey>>,
    generation: OnceLock<Generation>,
}

/// What was generated for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// Tokens of the prompts.
    pub num_prompt_tokens: usize,
    /// Of these, those found in the prefix cache.
    pub num_cached_tokens: usize,
    /// Tokens of all choices.
    pub num_output_tokens: usize,
    /// From arrival to the first step.
    pub queued: Option<Duration>,
    /// From arrival to the first token.
    pub first_token: Option<Duration>,
    /// How it ended.
    pub finish_reason: &'static str,
}

impl Access {
    /// Of a request that begins.
    pub fn new(id: &str, method: &Method, path: &str) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            id: id.to_owned(),
            method: method.clone(),
            path: path.chars().take(MAX_PATH).collect(),
            status: OnceLock::new(),
            client: OnceLock::new(),
            generation: OnceLock::new(),
        })
    }

    /// That of the request which the present task answers.
    pub fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// The id of the request that the present task answers.
    pub fn current_id() -> Option<String> {
        CURRENT.try_with(|access| access.id.clone()).ok()
    }

    /// Answers its request.
    pub async fn during<T>(self: &Arc<Self>, answer: impl Future<Output = T>) -> T {
        CURRENT.scope(Arc::clone(self), answer).await
    }

    /// Does something for its request, in whatever task.
    pub fn in_its_name<T>(self: &Arc<Self>, what: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(Arc::clone(self), what)
    }

    /// Notes how it is answered.
    pub fn set_status(&self, status: StatusCode) {
        // Only the first answer is sent.
        let _ = self.status.set(status);
    }

    /// Notes that it needs a key, and whose it has, if it has a right one.
    pub fn set_client(&self, client: Option<ClientKey>) {
        let _ = self.client.set(client);
    }

    /// Notes what was generated.
    pub fn set_generation(&self, generation: Generation) {
        let _ = self.generation.set(generation);
    }

    /// The client's name in the log: of a key only what does not give it away.
    fn client_name(&self) -> Option<String> {
        let [a, b, c, d, ..] = self.client.get().copied().flatten()?.0?;
        Some(format!("{a:02x}{b:02x}{c:02x}{d:02x}"))
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let milliseconds = |duration: Duration| duration.as_micros() as f64 / 1000.0;
        let (request_id, method, path) = (&self.id, &self.method, &self.path);
        let status = self.status.get().map(StatusCode::as_u16);
        let (client, total_ms) = (self.client_name(), milliseconds(self.started.elapsed()));
        match self.generation.get() {
            Some(of) => tracing::info!(
                request_id,
                client,
                %method,
                path,
                status,
                prompt_tokens = of.num_prompt_tokens,
                cached_tokens = of.num_cached_tokens,
                output_tokens = of.num_output_tokens,
                queue_ms = of.queued.map(milliseconds),
                first_token_ms = of.first_token.map(milliseconds),
                total_ms,
                finish_reason = of.finish_reason,
                "answered"
            ),
            None if self.client.get().is_some() => {
                tracing::info!(request_id, client, %method, path, status, total_ms, "answered");
            }
            // Pages and probes come every few seconds.
            None => tracing::debug!(request_id, %method, path, status, total_ms, "answered"),
        }
    }
}
