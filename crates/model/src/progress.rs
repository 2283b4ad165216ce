//! How far loading has come, shared between loading threads and whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of weights read so far and in all.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    pub(crate) fn add_total(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes read and bytes in all (0 before the files were opened).
    pub fn bytes(&self) -> (u64, u64) {
        let total = self.total.load(Ordering::Relaxed);
        // What is read twice counts once.
        (self.done.load(Ordering::Relaxed).min(total), total)
    }
}
