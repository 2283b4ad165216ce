//! How the server stands: for load balancers, orchestrators and Prometheus.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::state::AppState;

/// Whether the process is sound: fails on a fatal engine error, or when work waits and no step
/// finishes.
#[utoipa::path(get, path = "/live", responses(
    (status = 200, description = "Alive"),
    (status = 500, description = "Restart it", body = moesaic_protocol::ErrorResponse),
))]
pub async fn live(State(state): State<AppState>) -> Response {
    let stalled = state.loaded().is_some_and(|serving| {
        let stats = serving.engine.stats();
        stats.is_dead() || stats.stalled_for() > state.config.limits.stall
    });
    if stalled {
        return ApiError::internal("the engine makes no progress").into_response();
    }
    StatusCode::OK.into_response()
}

/// Whether requests are welcome: not while loading, not while shutting down.
#[utoipa::path(get, path = "/ready", responses(
    (status = 200, description = "Send requests"),
    (status = 503, description = "Send none", body = moesaic_protocol::ErrorResponse),
))]
pub async fn ready(State(state): State<AppState>) -> Result<StatusCode, ApiError> {
    if state.is_leaving() {
        return Err(ApiError::draining());
    }
    state.serving().map(|_| StatusCode::OK)
}

/// The same as /ready, under vLLM's name.
#[utoipa::path(get, path = "/health", responses(
    (status = 200, description = "Send requests"),
    (status = 503, description = "Send none", body = moesaic_protocol::ErrorResponse),
))]
pub async fn health(state: State<AppState>) -> Result<StatusCode, ApiError> {
    ready(state).await
}

/// The program's version.
#[utoipa::path(get, path = "/version", responses((status = 200, description = "The version")))]
pub async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "The metrics", body = String)))]
pub async fn metrics(State(state): State<AppState>) -> Response {
    let stats = state.loaded().map(|serving| serving.engine.stats().as_ref());
    let text = state.metrics.render(stats);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
