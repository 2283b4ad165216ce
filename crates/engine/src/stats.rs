//! What the engine tells about itself.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Gauges and totals, written by the engine thread after every step and when it goes idle.
#[derive(Debug)]
pub struct EngineStats {
    started: Instant,
    pub(crate) num_running: AtomicUsize,
    pub(crate) num_waiting: AtomicUsize,
    pub(crate) used_blocks: AtomicUsize,
    pub(crate) num_preemptions: AtomicU64,
    pub(crate) prefix_cache_queries: AtomicU64,
    pub(crate) prefix_cache_hits: AtomicU64,
    pub(crate) num_draft_tokens: AtomicU64,
    pub(crate) num_accepted_tokens: AtomicU64,
    pub(crate) progress_ms: AtomicU64,
    pub(crate) dead: AtomicBool,
}

impl Default for EngineStats {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            num_running: AtomicUsize::new(0),
            num_waiting: AtomicUsize::new(0),
            used_blocks: AtomicUsize::new(0),
            num_preemptions: AtomicU64::new(0),
            prefix_cache_queries: AtomicU64::new(0),
            prefix_cache_hits: AtomicU64::new(0),
            num_draft_tokens: AtomicU64::new(0),
            num_accepted_tokens: AtomicU64::new(0),
            progress_ms: AtomicU64::new(0),
            dead: AtomicBool::new(false),
        }
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident: $type:ty),* $(,)?) => {
        $($(#[$doc])* pub fn $name(&self) -> $type { self.$name.load(Ordering::Relaxed) })*
    };
}

impl EngineStats {
    getters! {
        /// Sequences that hold blocks.
        num_running: usize,
        /// Sequences that wait.
        num_waiting: usize,
        /// Blocks held by sequences.
        used_blocks: usize,
        /// Sequences sent back to wait for memory.
        num_preemptions: u64,
        /// Prompt tokens looked up in the prefix cache.
        prefix_cache_queries: u64,
        /// Prompt tokens found there.
        prefix_cache_hits: u64,
        /// Draft tokens verified.
        num_draft_tokens: u64,
        /// Draft tokens accepted.
        num_accepted_tokens: u64,
    }

    /// Whether the engine thread has died of a bug.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// How long work has waited without a step being finished; zero while idle.
    pub fn stalled_for(&self) -> Duration {
        if self.num_running() + self.num_waiting() == 0 {
            return Duration::ZERO;
        }
        self.started.elapsed().saturating_sub(Duration::from_millis(self.progress_ms.load(Ordering::Relaxed)))
    }

    pub(crate) fn mark_progress(&self) {
        self.progress_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

/// One finished step.
#[derive(Debug, Clone, Copy)]
pub struct StepStats {
    /// Tokens computed.
    pub num_tokens: usize,
    /// Sequences in the step.
    pub num_sequences: usize,
    /// From planning, or from the results of the step before where these came later, to results.
    pub duration: Duration,
}
