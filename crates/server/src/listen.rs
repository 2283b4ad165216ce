//! Our own accept loop: bounded connections, each with bounds on its time, told to close when the server leaves.

mod activity;
mod patient;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{Interest, Ready};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

use crate::error::ApiError;
use crate::holding_body::HoldingBody;
use crate::listen::activity::Activity;
use crate::listen::patient::PatientStream;
use crate::state::AppState;

/// Connections that the system keeps for us until we take them. The system's own bound may be lower.
const BACKLOG: u32 = 1024;
/// Bytes of a request's head, or of an answer, that a connection holds. Heads that are shorter get an answer in our shape.
const BUFFER: usize = 128 << 10;
/// How often a connection's time is looked at: while it answers, and while it waits.
const LOOK: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(500)];
/// After what cannot be accepted.
const PAUSE: Duration = Duration::from_millis(50);
/// Complaints that may repeat are logged this often.
const COMPLAINT: Duration = Duration::from_secs(10);
/// Connections beyond the bound that are told so, at once and for so long.
const REFUSALS: usize = 64;
const REFUSAL_TIME: Duration = Duration::from_millis(500);
/// What a client still sends after its last answer is taken for so long, and so many bytes of it.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 << 20;
/// Files for all but connections: model, logs, helpers.
const OTHER_FILES: usize = 64;

/// Listens where the configuration says.
///
/// # Errors
/// When the address cannot be had.
pub fn bind(host: IpAddr, port: u16) -> Result<TcpListener> {
    let address = SocketAddr::new(host, port);
    let listen = || {
        let socket = if host.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    match listen() {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!("port {port} on {host} is in use: choose another with --port")
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {address}")),
    }
}

/// Serves connections until `stop` holds true; then those that answer nothing are closed, and the others when they have
/// answered. Returns when all are gone.
pub async fn serve(listener: TcpListener, router: Router, state: AppState, mut stop: watch::Receiver<bool>) {
    let max = max_connections(state.config.limits.max_connections);
    let (places, refusals) = (Arc::new(Semaphore::new(max)), Arc::new(Semaphore::new(REFUSALS)));
    let mut complaints = Complaints::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = told(&mut stop) => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                state.metrics.accept_failed();
                complaints.make(|| format!("cannot accept connections: {error}"));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            // Tokens are small and must not wait for each other (Nagle's algorithm, delayed acknowledgements: 40 ms).
            drop(stream.set_nodelay(true));
            let activity = Arc::new(Activity::new(Arc::clone(&state.metrics), place));
            tokio::spawn(converse(stream, router.clone(), Arc::clone(&state), activity, stop.clone()));
            continue;
        }
        state.metrics.connection_refused();
        complaints.make(|| format!("{max} connections are open, as many as may be: refusing more"));
        if let Ok(turn) = Arc::clone(&refusals).try_acquire_owned() {
            tokio::spawn(async move {
                drop(tokio::time::timeout(REFUSAL_TIME, refuse(stream)).await);
                drop(turn);
            });
        }
    }
    drop(listener);
    drop(places.acquire_many(max as u32).await);
}

/// Waits until the server is told to stop.
async fn told(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a reason to stop as well.
    drop(stop.wait_for(|stop| *stop).await);
}

/// Says the same thing now and then, not each time.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    unsaid: u64,
}

impl Complaints {
    fn make(&mut self, text: impl FnOnce() -> String) {
        if self.last.is_some_and(|last| last.elapsed() < COMPLAINT) {
            self.unsaid += 1;
            return;
        }
        let since = std::mem::take(&mut self.unsaid);
        tracing::warn!(since, "{}", text());
        self.last = Some(Instant::now());
    }
}

/// Answers one connection's requests, to its end.
async fn converse(
    stream: TcpStream,
    router: Router,
    state: AppState,
    activity: Arc<Activity>,
    mut stop: watch::Receiver<bool>,
) {
    let limits = &state.config.limits;
    let stream = Arc::new(stream);
    let io = TokioIo::new(PatientStream::new(Arc::clone(&stream), Arc::clone(&activity), limits.write_timeout));
    let (counted, answering) = (Arc::clone(&activity), Arc::clone(&state));
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = activity::begin(&counted);
        let (router, state) = (router.clone(), Arc::clone(&answering));
        async move {
            let mut response: Response<Body> = match router.oneshot(request.map(Body::new)).await {
                Ok(response) => response,
                Err(impossible) => match impossible {},
            };
            if state.is_leaving() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| Body::new(HoldingBody::new(body, answer))))
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.max_buf_size(BUFFER).header_read_timeout(None);
    let mut connection = pin!(http.serve_connection(io, service).with_upgrades());
    let mut goes_on = true;
    loop {
        let look = tokio::time::sleep(LOOK[usize::from(!activity.is_answering())]);
        tokio::select! {
            // What ends a connection is the client's affair.
            _ = &mut connection => break,
            () = told(&mut stop), if goes_on => {
                connection.as_mut().graceful_shutdown();
                goes_on = false;
            }
            () = look => {
                if activity.is_overdue(limits) || (activity.is_answering() && is_gone(&stream).await) {
                    return;
                }
            }
        }
    }
    // Another protocol may go on with it.
    if goes_on && Arc::strong_count(&stream) == 1 {
        drop(tokio::time::timeout(LINGER_TIME, linger(&stream)).await);
    }
}

/// Takes what the client still sends: bytes that stay unread would reset the connection, and with it an answer that says
/// why they were not wanted.
async fn linger(stream: &TcpStream) {
    let (mut waste, mut left) = (vec![0; 16 << 10], LINGER_BYTES);
    while left > 0 && stream.readable().await.is_ok() {
        match stream.try_read(&mut waste) {
            Ok(0) => return,
            Ok(num_bytes) => left = left.saturating_sub(num_bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Whether the client has closed the connection, also behind bytes that nobody has read yet.
async fn is_gone(stream: &TcpStream) -> bool {
    tokio::select! {
        biased;
        ready = stream.ready(Interest::READABLE) => ready.map_or(true, Ready::is_read_closed),
        () = std::future::ready(()) => false,
    }
}

/// Answers whatever comes with 503.
async fn refuse(stream: TcpStream) -> io::Result<()> {
    stream.readable().await?;
    // Bytes that stay unread would reset the connection before the answer is read.
    drop(stream.try_read(&mut [0; 16 << 10]));
    let error = ApiError::busy("with other connections").to_body();
    let body = serde_json::to_string(&error).expect("wire types always serialise");
    let length = body.len();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
    );
    stream.writable().await?;
    stream.try_write((head + &body).as_bytes())?;
    Ok(())
}

/// As many connections as the system's files allow, of those that are wanted: what else needs files gets some as well.
fn max_connections(wanted: usize) -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = getrlimit(Resource::Nofile);
        }
    }
    let files = limit.current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    wanted.min(files.saturating_sub(OTHER_FILES).max(files / 2)).max(1)
}
