//! The life of the server: bind, load, serve, drain, stop.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use moesaic_engine::Executor;
use tokio::signal::unix::{SignalKind, signal};

use crate::app;
use crate::config::Config;
use crate::startup::{self, Loaded};
use crate::state::{AppState, State};
use crate::{listen, reload};

/// After the grace period, connections get this long to take their last bytes.
const LAST_BYTES: Duration = Duration::from_secs(1);
/// How long requests are taken after SIGTERM where other machines send them: balancers look every few seconds.
const DRAIN_DELAY: Duration = Duration::from_secs(5);
/// How often a draining or broken engine is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Serves until told to stop.
///
/// # Errors
/// When the address cannot be had, the model cannot be loaded or the engine dies.
pub async fn run(config: Config) -> Result<()> {
    run_on(config, None).await
}

/// As [`run`], with something else than the model's weights where there is an `executor`: for measuring all but them.
///
/// # Errors
/// As [`run`].
pub async fn run_on(config: Config, executor: Option<Box<dyn Executor>>) -> Result<()> {
    let started = Instant::now();
    let listener = listen::bind(config.host, config.port)?;
    let address = listener.local_addr()?;
    warn_if_open(&config, address);
    let state: AppState = Arc::new(State::new(config));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let server = tokio::spawn(listen::serve(listener, app::router(Arc::clone(&state)), Arc::clone(&state), stopped));
    let reloading = tokio::spawn(reload::run(Arc::clone(&state)));
    let loading = Arc::clone(&state);
    let (sender, load) = tokio::sync::oneshot::channel();
    // A thread of its own: the runtime would wait for a blocking task even after SIGTERM.
    std::thread::Builder::new().name("load".to_owned()).spawn(move || {
        // Nobody listens any more when the server was told to stop while loading.
        let _ = sender.send(startup::load(&loading, executor));
    })?;
    let loaded = tokio::select! {
        loaded = load => loaded.context("loading panicked")??,
        signal = stop_signal() => {
            tracing::info!("{signal} while loading: stopping");
            return Ok(());
        }
    };
    let Loaded { engine, serving, kv_tokens, weights } = loaded;
    let ready_line = ready_line(&serving, address, kv_tokens, &weights, started.elapsed());
    state.set_serving(serving);
    tracing::info!("{ready_line}");

    let handle = engine.handle();
    let died = async {
        while !handle.stats().is_dead() {
            tokio::time::sleep(POLL).await;
        }
    };
    let outcome = tokio::select! {
        signal = stop_signal() => {
            leave(&state, &handle, signal, address).await;
            Ok(())
        }
        () = died => Err(anyhow::anyhow!("the engine died of a bug; see the log above")),
    };
    state.drain();
    // Those who listen have gone only if the server task has ended already.
    let _ = stop.send(true);
    let closed = async { tokio::join!(server, state.websockets_closed()) };
    if tokio::time::timeout(LAST_BYTES, closed).await.is_err() {
        tracing::warn!("some connections did not take their last bytes in time");
    }
    reloading.abort();
    drop(engine);
    outcome
}

fn warn_if_open(config: &Config, address: SocketAddr) {
    if !address.ip().is_loopback() && config.api_keys.is_empty() {
        tracing::warn!(
            "listening on {} without an API key: everybody who reaches this address can use the model; \
             set one with --api-key or --api-key-file",
            address.ip()
        );
    }
}

fn ready_line(
    serving: &crate::state::Serving,
    address: SocketAddr,
    kv_tokens: usize,
    weights: &str,
    elapsed: Duration,
) -> String {
    let host = match address.ip() {
        ip if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        ip => ip,
    };
    let url = format!("http://{}", SocketAddr::new(host, address.port()));
    let call = if serving.renderer.is_some() {
        format!(
            "curl {url}/v1/chat/completions -H 'content-type: application/json' \
             -d '{{\"messages\":[{{\"role\":\"user\",\"content\":\"Hello!\"}}]}}'"
        )
    } else {
        format!("curl {url}/v1/completions -H 'content-type: application/json' -d '{{\"prompt\":[1,2,3]}}'")
    };
    format!(
        "ready in {:.1} s at {url} | model {} | dialect {} | context {} | KV {kv_tokens} tokens | {weights} | try: {call}",
        elapsed.as_secs_f64(),
        serving.model_names[0],
        serving.dialect.name(),
        serving.max_model_len,
    )
}

/// Leaves without losing a request: balancers are told first, requests are taken until they had time to notice, what
/// runs then gets its time to finish. A second signal shortens every wait.
async fn leave(state: &AppState, engine: &moesaic_engine::EngineHandle, signal: &str, address: SocketAddr) {
    let limits = &state.config.limits;
    let mut again = std::pin::pin!(stop_signal());
    let at_once = signal == "SIGINT" || address.ip().is_loopback();
    let delay = limits.drain_delay.unwrap_or(if at_once { Duration::ZERO } else { DRAIN_DELAY });
    state.leave();
    if !delay.is_zero() {
        tracing::info!("{signal}: leaving, requests are taken for {} s more", delay.as_secs());
        if let Some(signal) = within(delay, &mut again).await {
            tracing::warn!("{signal} again: not waiting any longer");
            state.drain();
            return engine.shutdown();
        }
    }
    state.drain();
    tracing::info!(
        "{signal}: taking no further requests, {} in flight",
        engine.num_admitted().max(state.metrics.num_answers())
    );
    let deadline = Instant::now() + limits.shutdown_grace;
    // Also what is generated but not taken yet.
    let in_flight = || engine.num_admitted().max(state.metrics.num_answers());
    while in_flight() > 0 && Instant::now() < deadline {
        if let Some(signal) = within(POLL, &mut again).await {
            tracing::warn!("{signal} again: not waiting any longer");
            break;
        }
    }
    if in_flight() > 0 {
        tracing::warn!("ending {} requests that did not finish in time", in_flight());
    }
    engine.shutdown();
}

/// The signal that came within a time.
async fn within(time: Duration, signal: impl Future<Output = &'static str>) -> Option<&'static str> {
    tokio::time::timeout(time, signal).await.ok()
}

/// The name of the signal that came.
async fn stop_signal() -> &'static str {
    let wait = |kind: SignalKind| async move {
        match signal(kind) {
            Ok(mut stream) => drop(stream.recv().await),
            Err(error) => {
                tracing::error!(%error, "cannot listen for a signal");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => "SIGTERM",
        () = wait(SignalKind::interrupt()) => "SIGINT",
    }
}
