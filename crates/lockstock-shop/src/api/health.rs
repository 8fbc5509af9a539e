//! For those who run the server: is it alive, is it ready, what does it do.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::state::AppState;

/// How long the database may take to say that it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether the server can do its work, and if not, what is missing.
#[derive(Debug, Serialize, ToSchema)]
struct Readiness {
    /// `ready`, `not ready`, or `draining` once the server was told to stop.
    #[schema(example = "ready")]
    status: &'static str,
    /// `up` or `down`: without it reads and writes answer 503.
    #[schema(example = "up")]
    database: &'static str,
    /// `up` or `down`: without it writes under a lock answer 503, reads go on.
    #[schema(example = "up")]
    store: &'static str,
}

/// The routes, and what the document says of them.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
}

/// Is the process alive
///
/// Asks nothing of the database or the store: a restart would not bring those back.
#[utoipa::path(get, path = "/healthz", tag = "operation", responses(
    (status = 200, description = "It is", body = Object),
))]
async fn healthz() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "alive" }))
}

/// Can it do its work
#[utoipa::path(get, path = "/readyz", tag = "operation", responses(
    (status = 200, description = "Send requests", body = Readiness),
    (status = 503, description = "Send them elsewhere", body = Readiness),
))]
async fn readyz(State(state): State<AppState>) -> Response {
    // A balancer asks often and waits little: no answer in time is an answer.
    let database = timeout(PING_TIMEOUT, state.storage.ping());
    let (database, store) = tokio::join!(database, state.store.ping());
    let database = database.map_err(|_| format!("no answer within {PING_TIMEOUT:?}"));
    let database = database.and_then(|answer| answer.map_err(|why| why.to_string()));
    if let Err(why) = &database {
        tracing::warn!(why, "the database is down");
    }
    if let Err(why) = &store {
        tracing::warn!(%why, "the store is down");
    }
    let up = |up: bool| if up { "up" } else { "down" };
    let ready = database.is_ok() && store.is_ok();
    let (code, status) = if state.draining.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if ready {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    let readiness = Readiness {
        status,
        database: up(database.is_ok()),
        store: up(store.is_ok()),
    };
    (code, Json(readiness)).into_response()
}

/// What it does, for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "operation", responses(
    (status = 200, description = "Metrics in Prometheus' text format", body = String,
        content_type = "text/plain"),
))]
async fn metrics(State(state): State<AppState>) -> Response {
    let text = state.metrics.render();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
