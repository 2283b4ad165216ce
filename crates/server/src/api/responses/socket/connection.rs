//! A WebSocket from its opening to its end: one turn at a time, and the limits that end it.
//!
//! Reading and serving run side by side, so that a client that leaves is noticed in the midst of a turn; whichever ends
//! first ends the other, and with it the turn.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures::stream::SplitStream;
use futures::{Sink, SinkExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use crate::api::responses::socket::turn::{Turn, error_event, turn};
use crate::error::ApiError;
use crate::response_store::Owner;
use crate::state::AppState;

/// A client that answers no ping for so long in the midst of a turn has gone. Between turns it may be busy with
/// something else: there only messages count.
const SILENCE: Duration = Duration::from_mins(5);
/// For the last words to each other.
const PARTING: Duration = Duration::from_secs(1);

/// Why a connection ends.
enum Farewell {
    /// There is nobody to say anything to.
    Gone,
    /// The client sent more than it may.
    TooLarge,
    /// It has been open for as long as it may be.
    Aged,
    /// The server leaves.
    Away(&'static str),
}

/// Serves a connection to its end.
pub async fn run(state: AppState, owner: Owner, socket: WebSocket) {
    let (sink, mut stream) = socket.split();
    let limits = &state.config.limits;
    let mut outbox = Outbox { sink, patience: limits.write_timeout };
    let farewell = {
        let _local = Local { state: Arc::clone(&state), owner };
        let (messages, waiting) = mpsc::channel(1);
        let (refuse, refused) = mpsc::channel(1);
        let (hear, heard) = watch::channel(Instant::now());
        let inbox = Inbox { messages, refuse, hear };
        let desk = Desk { state: Arc::clone(&state), owner, waiting, refused, heard };
        tokio::select! {
            farewell = inbox.read(&mut stream) => farewell,
            farewell = desk.serve(&mut outbox) => farewell,
        }
    };
    let last = match &farewell {
        Farewell::Gone => None,
        Farewell::TooLarge => {
            Some((1009, "The message is too large.", Some(ApiError::too_large(limits.max_body_bytes))))
        }
        Farewell::Aged => {
            let error = ApiError::websocket_limit(limits.websocket_max.as_secs());
            Some((1001, "This WebSocket has reached its limit.", Some(error)))
        }
        Farewell::Away(reason) => Some((1001, *reason, None)),
    };
    outbox.patience = outbox.patience.min(PARTING);
    if let Some((code, reason, error)) = last {
        let mut is_heard = true;
        if let Some(error) = error {
            is_heard = outbox.send(Message::text(error_event(&error))).await;
        }
        if is_heard {
            outbox.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
        }
    }
    // A connection that is cut while the other side still sends may lose what was said last.
    if matches!(farewell, Farewell::TooLarge) {
        sleep(PARTING).await;
    }
    let answer = async { while stream.next().await.is_some_and(|message| message.is_ok()) {} };
    drop(timeout(PARTING, answer).await);
}

/// What is kept for a connection goes with it.
struct Local {
    state: AppState,
    owner: Owner,
}

impl Drop for Local {
    fn drop(&mut self) {
        self.state.responses.forget(self.owner);
    }
}

/// Where messages arrive.
struct Inbox {
    /// Holds the one that waits for its turn.
    messages: mpsc::Sender<Bytes>,
    /// One for each that was sent although another one waits.
    refuse: mpsc::Sender<()>,
    /// When anything was last heard.
    hear: watch::Sender<Instant>,
}

impl Inbox {
    async fn read(self, stream: &mut SplitStream<WebSocket>) -> Farewell {
        loop {
            let message = match stream.next().await {
                Some(Ok(message)) => message,
                // The library has no other sign for it.
                Some(Err(error)) if error.to_string().contains("Message too long") => return Farewell::TooLarge,
                Some(Err(_)) | None => return Farewell::Gone,
            };
            self.hear.send_replace(Instant::now());
            match message {
                Message::Text(_) | Message::Binary(_) => {
                    if self.messages.try_send(message.into_data()).is_err() {
                        // While the refusal waits nothing is read: what a client sends cannot pile up here.
                        let _ = self.refuse.send(()).await;
                    }
                }
                // Those are answered by the library.
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Close(_) => return Farewell::Gone,
            }
        }
    }
}

/// Where messages are answered.
struct Desk {
    state: AppState,
    owner: Owner,
    waiting: mpsc::Receiver<Bytes>,
    refused: mpsc::Receiver<()>,
    heard: watch::Receiver<Instant>,
}

impl Desk {
    async fn serve<S: Sink<Message> + Unpin>(mut self, outbox: &mut Outbox<S>) -> Farewell {
        let state = Arc::clone(&self.state);
        let limits = &state.config.limits;
        let mut drained = pin!(state.drained());
        let mut aged = pin!(sleep(limits.websocket_max));
        let mut idle = pin!(sleep(limits.websocket_idle));
        let mut pings = interval_at(Instant::now() + limits.keep_alive, limits.keep_alive);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut current: Option<Turn> = None;
        loop {
            let is_idle = current.is_none();
            let message = tokio::select! {
                biased;
                () = &mut drained, if is_idle => return Farewell::Away("The server is shutting down."),
                () = &mut aged, if is_idle => return Farewell::Aged,
                _ = pings.tick() => {
                    if !is_idle && self.heard.borrow().elapsed() > SILENCE {
                        return Farewell::Away("No ping was answered for too long.");
                    }
                    Message::Ping(Bytes::new())
                }
                Some(()) = self.refused.recv() => Message::text(error_event(&ApiError::response_in_flight())),
                event = next(&mut current), if !is_idle => {
                    let Some(event) = event else {
                        current = None;
                        idle.as_mut().reset(Instant::now() + limits.websocket_idle);
                        continue;
                    };
                    Message::text(event)
                }
                Some(message) = self.waiting.recv(), if is_idle => {
                    current = Some(turn(Arc::clone(&state), self.owner, message));
                    continue;
                }
                () = &mut idle, if is_idle => return Farewell::Away("No message came for too long."),
            };
            if !outbox.send(message).await {
                return Farewell::Gone;
            }
        }
    }
}

/// The next event of a turn.
async fn next(turn: &mut Option<Turn>) -> Option<String> {
    turn.as_mut()?.next().await
}

/// Where messages leave.
struct Outbox<S> {
    sink: S,
    /// For a message to be taken.
    patience: Duration,
}

impl<S: Sink<Message> + Unpin> Outbox<S> {
    /// Whether the message was taken in time.
    async fn send(&mut self, message: Message) -> bool {
        matches!(timeout(self.patience, self.sink.send(message)).await, Ok(Ok(())))
    }
}
