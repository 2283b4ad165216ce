//! The client's end of a request.

use std::sync::mpsc;
use std::time::Instant;

use moesaic_scheduler::{FailureCause, FinishReason, SampledToken, SequenceId, TokenLogprobs};

use crate::handle::Command;
use crate::outputs::OutputReceiver;

/// How one choice ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEnd {
    /// Regularly.
    Finished(FinishReason),
    /// It could not go on.
    Failed(FailureCause),
    /// Its client read so slowly that too much waited for it.
    Unread,
    /// The server is shutting down and the time for finishing is over.
    Shutdown,
}

/// What happened to one choice of a request in one step.
#[derive(Debug, Clone)]
pub struct EngineOutput {
    /// Which choice.
    pub choice: u32,
    /// Tokens added, in order.
    pub tokens: Vec<SampledToken>,
    /// Log-probabilities of further prompt tokens, from the second on, each once.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Prompt tokens that came from the prefix cache.
    pub num_cached_tokens: usize,
    /// When the choice first ran.
    pub first_scheduled: Option<Instant>,
    /// Present in a choice's last output.
    pub end: Option<StreamEnd>,
}

/// Outputs of all choices of a request. Dropping it aborts what still runs.
///
/// Where too much of it stays unread, what runs ends with [`StreamEnd::Unread`].
#[derive(Debug)]
pub struct RequestStream {
    ids: Vec<SequenceId>,
    open: Vec<bool>,
    outputs: OutputReceiver,
    commands: mpsc::Sender<Command>,
}

impl RequestStream {
    pub(crate) fn new(ids: Vec<SequenceId>, outputs: OutputReceiver, commands: mpsc::Sender<Command>) -> Self {
        Self { open: vec![true; ids.len()], ids, outputs, commands }
    }

    /// The next output; `None` once every choice has ended. Every choice gets exactly one end.
    pub async fn next(&mut self) -> Option<EngineOutput> {
        loop {
            let still_open = self.open.iter().position(|open| *open)?;
            let output = self.outputs.recv().await.unwrap_or_else(|| EngineOutput {
                choice: still_open as u32,
                tokens: Vec::new(),
                prompt_logprobs: Vec::new(),
                num_cached_tokens: 0,
                first_scheduled: None,
                end: Some(StreamEnd::Failed(FailureCause::Stopped("the engine has stopped".to_owned()))),
            });
            let open = &mut self.open[output.choice as usize];
            // Outputs that were under way when the choice was given up are not news any more.
            if std::mem::replace(open, *open && output.end.is_none()) {
                return Some(output);
            }
        }
    }

    /// Gives up one choice (its text has reached a stop string). No output of it follows.
    pub fn abort_choice(&mut self, choice: u32) {
        if std::mem::replace(&mut self.open[choice as usize], false) {
            self.send_abort(vec![self.ids[choice as usize]]);
        }
    }

    fn send_abort(&self, ids: Vec<SequenceId>) {
        // A closed channel means that the engine has ended and nothing runs.
        let _ = self.commands.send(Command::Abort(ids));
    }
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        let running: Vec<SequenceId> =
            self.ids.iter().zip(&self.open).filter(|(_, open)| **open).map(|(id, _)| *id).collect();
        if !running.is_empty() {
            self.send_abort(running);
        }
    }
}
