//! Health and metrics, for operators: `/healthz`, `/readyz` and `/metrics`.

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

/// How long a ping of the database may take.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// The readiness of the server and of its dependencies.
#[derive(Debug, Serialize, ToSchema)]
struct Readiness {
    /// `ready`, `not ready`, or `draining` once the shutdown has begun.
    #[schema(example = "ready")]
    status: &'static str,
    /// `up` or `down`. If it is down, reads and writes fail with 503.
    #[schema(example = "up")]
    database: &'static str,
    /// The store of the locks: `up` or `down`. If it is down, updates of products fail with
    /// 503; reads and purchases continue.
    #[schema(example = "up")]
    store: &'static str,
}

/// Returns the routes with their operations in the OpenAPI document.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
}

/// Check liveness
///
/// Independent of the database and the store: a restart would not repair those.
#[utoipa::path(get, path = "/healthz", tag = "operation", responses(
    (status = 200, description = "The process is alive", body = Object),
))]
async fn healthz() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "alive" }))
}

/// Check readiness
#[utoipa::path(get, path = "/readyz", tag = "operation", responses(
    (status = 200, description = "The server can handle requests", body = Readiness),
    (status = 503, description = "Requests should go to another server", body = Readiness),
))]
async fn readyz(State(state): State<AppState>) -> Response {
    // A load balancer has a short timeout of its own.
    let database = timeout(PING_TIMEOUT, state.storage.ping());
    let (database, store) = tokio::join!(database, state.store.ping());
    let database = database.map_err(|_| format!("no response within {PING_TIMEOUT:?}"));
    let database = database.and_then(|pong| pong.map_err(|error| error.to_string()));
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

/// Export metrics for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "operation", responses(
    (status = 200, description = "Metrics in the text format of Prometheus", body = String,
        content_type = "text/plain"),
))]
async fn metrics(State(state): State<AppState>) -> Response {
    let text = state.metrics.render();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
