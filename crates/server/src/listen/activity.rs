//! What a connection does with its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use crate::config::Limits;
use crate::metrics::Metrics;

/// What a connection does, in milliseconds since it began.
pub struct Activity {
    began: Instant,
    /// Requests whose answers are not whole yet.
    answering: AtomicU64,
    /// When it last had nothing to answer.
    idle_since: AtomicU64,
    /// When the first byte of a request's head came; 0 before.
    head_since: AtomicU64,
    metrics: Arc<Metrics>,
    _place: OwnedSemaphorePermit,
}

impl Activity {
    /// Of a connection that begins, in its place.
    pub fn new(metrics: Arc<Metrics>, place: OwnedSemaphorePermit) -> Self {
        metrics.connection_opened();
        Self {
            began: Instant::now(),
            answering: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            metrics,
            _place: place,
        }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64 + 1
    }

    /// Whether a request is being answered.
    pub fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Acquire) > 0
    }

    /// Notes that bytes came.
    pub fn received(&self) {
        if !self.is_answering() {
            // The first one counts: later ones change nothing.
            let _ = self.head_since.compare_exchange(0, self.now(), Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Whether the client takes longer than it may: for a request's head, or between requests.
    pub fn is_overdue(&self, limits: &Limits) -> bool {
        if self.is_answering() {
            return false;
        }
        let now = self.now();
        let is_over = |since: u64, limit: Duration| now.saturating_sub(since) > limit.as_millis() as u64;
        match self.head_since.load(Ordering::Acquire) {
            0 => is_over(self.idle_since.load(Ordering::Acquire), limits.idle_timeout),
            since => is_over(since, limits.header_timeout),
        }
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.metrics.connection_closed();
    }
}

/// A request being answered.
pub struct Answering(Arc<Activity>);

/// Notes that a request's head is whole.
pub fn begin(activity: &Arc<Activity>) -> Answering {
    activity.answering.fetch_add(1, Ordering::AcqRel);
    activity.head_since.store(0, Ordering::Release);
    activity.metrics.answer_begun();
    Answering(Arc::clone(activity))
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Ordering::Release);
        self.0.answering.fetch_sub(1, Ordering::AcqRel);
        self.0.metrics.answer_ended();
    }
}
