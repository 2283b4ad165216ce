//! How the rest of the program talks to the engine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use moesaic_scheduler::{SamplingParams, SequenceId};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::outputs::{OutputSender, output_channel};
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

/// Places reserved for a request's choices; each is given back when its choice has ended.
#[derive(Debug)]
pub struct Admission {
    permit: OwnedSemaphorePermit,
}

impl Admission {
    /// One of the places.
    pub(crate) fn take(&mut self) -> Option<OwnedSemaphorePermit> {
        self.permit.split(1)
    }
}

/// A cheap, cloneable way to the engine.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) places: Arc<Semaphore>,
    pub(crate) num_places: usize,
    pub(crate) next_id: Arc<AtomicU64>,
    pub(crate) stats: Arc<EngineStats>,
}

impl EngineHandle {
    /// Reserves places for a request, before the work of rendering and tokenising it.
    ///
    /// # Errors
    /// [`SubmitError::Overloaded`] at once when there is no place.
    pub fn admit(&self, num_choices: usize) -> Result<Admission, SubmitError> {
        let wanted = u32::try_from(num_choices).unwrap_or(u32::MAX);
        match Arc::clone(&self.places).try_acquire_many_owned(wanted) {
            Ok(permit) => Ok(Admission { permit }),
            Err(_) => Err(SubmitError::Overloaded { limit: self.num_places }),
        }
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

    /// Sequences that can be admitted at once.
    pub fn num_places(&self) -> usize {
        self.num_places
    }

    /// Sequences that are admitted and have not ended.
    pub fn num_admitted(&self) -> usize {
        self.num_places - self.places.available_permits()
    }

    /// Ends all requests with [`crate::StreamEnd::Shutdown`] and stops the thread.
    pub fn shutdown(&self) {
        // A closed channel means that it has stopped already.
        let _ = self.commands.send(Command::Shutdown);
    }
}
