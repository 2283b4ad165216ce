//! How the rest of the program talks to the engine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use moesaic_scheduler::{SamplingParams, SequenceId};
use thiserror::Error;

use crate::outputs::{OutputSender, output_channel};
use crate::places::{Admission, Places};
use crate::{EngineStats, RequestStream, TokenConstraint};

/// One choice of a request.
#[derive(Debug, Clone)]
pub struct EngineChoice {
    /// Index into the request's prompts.
    pub prompt: usize,
    /// Its settings.
    pub sampling: SamplingParams,
}

/// One request of a client: prompts and one or more choices of their continuations.
pub struct EngineRequest {
    /// Each at least one id, inside the vocabulary, shorter than the context.
    pub prompts: Vec<Vec<u32>>,
    /// At least one.
    pub choices: Vec<EngineChoice>,
    /// Lower runs first.
    pub priority: i32,
    /// Whose it is: clients take turns.
    pub client: u64,
    /// Requests with different salts never share cached blocks.
    pub cache_salt: u64,
    /// What every choice may say, if not everything.
    pub constraint: Option<Box<dyn TokenConstraint>>,
}

impl std::fmt::Debug for EngineRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EngineRequest({} prompts, {} choices)", self.prompts.len(), self.choices.len())
    }
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// Too many sequences run and wait already.
    #[error("{limit} sequences are running or waiting already")]
    Overloaded {
        /// The configured bound.
        limit: usize,
    },
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
}

/// The closed set of things that one can tell the engine.
pub(crate) enum Command {
    Submit(Submission),
    Abort(Vec<SequenceId>),
    Shutdown,
}

pub(crate) struct Submission {
    pub ids: Vec<SequenceId>,
    pub request: EngineRequest,
    pub outputs: OutputSender,
    pub admission: Admission,
}

/// A cheap, cloneable way to the engine.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) places: Arc<Places>,
    pub(crate) next_id: Arc<AtomicU64>,
    pub(crate) stats: Arc<EngineStats>,
}

impl EngineHandle {
    /// Reserves places for a client's request, before the work of rendering and tokenising it.
    ///
    /// # Errors
    /// [`SubmitError::Overloaded`] at once when there is no place.
    pub fn admit(&self, client: u64, num_choices: usize) -> Result<Admission, SubmitError> {
        self.places.take(client, num_choices).map_err(|limit| SubmitError::Overloaded { limit })
    }

    /// Hands a request to the engine.
    ///
    /// # Errors
    /// [`SubmitError::Stopped`] when the engine has ended.
    pub fn submit(&self, admission: Admission, request: EngineRequest) -> Result<RequestStream, SubmitError> {
        let first = self.next_id.fetch_add(request.choices.len() as u64, Ordering::Relaxed);
        let ids: Vec<SequenceId> = (first..first + request.choices.len() as u64).map(SequenceId).collect();
        let (outputs, receiver) = output_channel();
        let submission = Submission { ids: ids.clone(), request, outputs, admission };
        self.commands.send(Command::Submit(submission)).map_err(|_| SubmitError::Stopped)?;
        Ok(RequestStream::new(ids, receiver, self.commands.clone()))
    }

    /// What the engine tells about itself.
    pub fn stats(&self) -> &Arc<EngineStats> {
        &self.stats
    }

    /// Sequences of one client that can be admitted at once.
    pub fn num_places(&self) -> usize {
        self.places.num_per_client()
    }

    /// Sequences that are admitted and have not ended.
    pub fn num_admitted(&self) -> usize {
        self.places.num_taken()
    }

    /// Ends all requests with [`crate::StreamEnd::Shutdown`] and stops the thread.
    pub fn shutdown(&self) {
        // A closed channel means that it has stopped already.
        let _ = self.commands.send(Command::Shutdown);
    }
}
