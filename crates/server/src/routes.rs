//! One file per endpoint.

pub mod chat_completions;
pub mod completions;
pub mod embeddings;
pub mod messages;
pub mod models;
pub mod page;
pub mod responses;
pub mod status;
pub mod tokenize;

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time in seconds.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
