//! The life of the server: bind, load, serve, drain, stop.

use axum::serve::ListenerExt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use moesaic_engine::Executor;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::app;
use crate::config::Config;
use crate::startup::{self, Loaded};
use crate::state::{AppState, State};

/// After the grace period, connections get this long to take their last bytes.
const LAST_BYTES: Duration = Duration::from_secs(5);
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
    let listener = bind(&config).await?;
    let address = listener.local_addr()?;
    warn_if_open(&config, address);
    let state: AppState = Arc::new(State::new(config));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let server = tokio::spawn(serve(listener, Arc::clone(&state), stopped));
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
            tracing::info!("{signal}: taking no further requests, {} in flight", handle.num_admitted());
            drain(&state, &handle).await;
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
    drop(engine);
    outcome
}

async fn bind(config: &Config) -> Result<TcpListener> {
    let address = SocketAddr::new(config.host, config.port);
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("port {} on {} is in use: choose another with --port", config.port, config.host)
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {address}")),
    }
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

async fn serve(listener: TcpListener, state: AppState, mut stopped: tokio::sync::watch::Receiver<bool>) {
    let router = app::router(state);
    // Tokens are small and must not wait for each other (Nagle's algorithm and delayed acknowledgements: 40 ms).
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let stop = async move {
        // An error means that the sender is gone, which is a reason to stop as well.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
        tracing::error!(%error, "serving failed");
    }
}

/// Waits for the requests in flight, then ends what is left with an error.
async fn drain(state: &AppState, engine: &moesaic_engine::EngineHandle) {
    state.drain();
    let deadline = Instant::now() + state.config.limits.shutdown_grace;
    let mut again = std::pin::pin!(stop_signal());
    while engine.num_admitted() > 0 && Instant::now() < deadline {
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            signal = &mut again => {
                tracing::warn!("{signal} again: not waiting any longer");
                break;
            }
        }
    }
    if engine.num_admitted() > 0 {
        tracing::warn!("ending {} sequences that did not finish in time", engine.num_admitted());
    }
    engine.shutdown();
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
