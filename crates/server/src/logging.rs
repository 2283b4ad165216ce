//! The log: lines to standard error, written by a thread of their own, so that nothing ever waits for who reads them.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, ConfigError, LogFormat};

/// Lines that wait to be written; further ones are dropped and counted.
const MAX_LINES: usize = 8192;

/// One log per process.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Starts to log. What waits when the guard is dropped gets a second to be written.
///
/// # Errors
/// When the filter is wrong.
pub fn start(config: &Config) -> Result<WorkerGuard, ConfigError> {
    let filter = EnvFilter::builder()
        .parse(&config.log_level)
        .map_err(|error| ConfigError(format!("log_level is {:?}: {error}", config.log_level)))?;
    let stderr = std::io::stderr();
    let colours = stderr.is_terminal();
    let lossy = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MAX_LINES).thread_name("log");
    let (writer, guard) = lossy.finish(stderr);
    DROPPED.get_or_init(|| writer.error_counter());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(writer);
    match config.log {
        LogFormat::Pretty => logs.with_target(false).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
    Ok(guard)
}

/// Lines that were not written since too many waited.
pub fn num_dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |dropped| dropped.dropped_lines() as u64)
}
