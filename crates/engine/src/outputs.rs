//! The channel of a request's outputs, which knows how much of it nobody has read yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use moesaic_scheduler::{SampledToken, TokenLogprob, TokenLogprobs};
use tokio::sync::mpsc;

use crate::EngineOutput;

/// Bytes that may wait in a request's channel, about: as many tokens as a long answer has, with log-probabilities fewer.
const MAX_UNREAD: usize = 8 << 20;

/// The engine's end.
#[derive(Debug, Clone)]
pub struct OutputSender {
    outputs: mpsc::UnboundedSender<EngineOutput>,
    unread: Arc<AtomicUsize>,
}

/// The client's end.
#[derive(Debug)]
pub struct OutputReceiver {
    outputs: mpsc::UnboundedReceiver<EngineOutput>,
    unread: Arc<AtomicUsize>,
}

/// A channel of its own for a request.
pub fn output_channel() -> (OutputSender, OutputReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let unread = Arc::new(AtomicUsize::new(0));
    (OutputSender { outputs: sender, unread: Arc::clone(&unread) }, OutputReceiver { outputs: receiver, unread })
}

impl OutputSender {
    /// Sends without waiting.
    pub fn send(&self, output: EngineOutput) {
        self.unread.fetch_add(num_bytes(&output), Ordering::Relaxed);
        // A closed channel: the client is gone and its abort is on the way.
        let _ = self.outputs.send(output);
    }

    /// Whether so much waits that the client cannot be reading.
    pub fn is_full(&self) -> bool {
        self.unread.load(Ordering::Relaxed) > MAX_UNREAD
    }
}

impl OutputReceiver {
    /// The next output; `None` when the engine is gone.
    pub async fn recv(&mut self) -> Option<EngineOutput> {
        let output = self.outputs.recv().await?;
        self.unread.fetch_sub(num_bytes(&output), Ordering::Relaxed);
        Some(output)
    }
}

/// About what an output takes.
fn num_bytes(output: &EngineOutput) -> usize {
    let logprobs = |logprobs: &TokenLogprobs| logprobs.top.len() * size_of::<TokenLogprob>();
    let tokens =
        output.tokens.iter().map(|token| size_of::<SampledToken>() + token.logprobs.as_ref().map_or(0, logprobs));
    let prompt = output.prompt_logprobs.iter().map(|position| size_of::<TokenLogprobs>() + logprobs(position));
    size_of::<EngineOutput>() + tokens.sum::<usize>() + prompt.sum::<usize>()
}
