//! What is read again while the server runs: the keys, on SIGHUP and when their file changes.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::state::AppState;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Reads again until dropped. What cannot be read changes nothing.
pub async fn run(state: AppState) {
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => return tracing::error!(%error, "cannot listen for SIGHUP"),
    };
    let source = state.config.keys.clone();
    let mut known = Ok(state.config.api_keys.clone());
    loop {
        let is_asked = tokio::select! {
            hangup = hangups.recv() => hangup.is_some(),
            () = tokio::time::sleep(LOOK), if source.may_change() => false,
        };
        if !source.may_change() {
            tracing::info!("SIGHUP: there is nothing to read again");
            continue;
        }
        let file = source.clone();
        // A file may be on a slow disk.
        let Ok(read) = tokio::task::spawn_blocking(move || file.read()).await else { continue };
        if read == known && !is_asked {
            continue;
        }
        match &read {
            Ok(keys) => {
                state.set_api_keys(keys);
                tracing::info!("{} keys are accepted now", keys.len());
            }
            Err(error) => tracing::error!("the accepted keys stay as they were: {error}"),
        }
        known = read;
    }
}
