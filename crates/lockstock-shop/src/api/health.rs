//! Health and metrics, for operators: `/healthz`, `/readyz` and `/metrics`.

use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::health::{Condition, Status};
use crate::state::AppState;

/// The readiness of the server and of its dependencies.
#[derive(Debug, Serialize, ToSchema)]
struct Readiness {
    /// `ready`, `not ready`, or `draining` once the shutdown has begun.
    #[schema(example = "ready")]
    status: &'static str,
    /// `up`, `read-only` (no write succeeds) or `down`. If it is down, reads and writes fail with
    /// 503.
    #[schema(example = "up")]
    database: &'static str,
    /// The store of the locks: `up`, `read-only` or `down`. Unless it is up, updates of products
    /// fail with 503; reads and purchases continue.
    #[schema(example = "up")]
    store: &'static str,
    /// Why a backend is not up.
    reasons: Reasons,
}

/// Why a backend is not up. Members of backends that are up are missing.
#[derive(Debug, Serialize, ToSchema)]
struct Reasons {
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<String>,
}

/// Returns the routes of probes with their operations in the OpenAPI document.
pub(crate) fn probes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
}

/// Returns the route of the metrics with its operation in the OpenAPI document.
pub(crate) fn metrics_route() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(metrics))
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
///
/// Ready means that a write would succeed now: of the database and of the store of the locks.
#[utoipa::path(get, path = "/readyz", tag = "operation", responses(
    (status = 200, description = "The server can handle requests", body = Readiness),
    (status = 503, description = "Requests should go to another server", body = Readiness),
))]
async fn readyz(State(state): State<AppState>) -> Response {
    state.backends.check().await;
    let database = state.backends.database_health().status();
    let store = state.backends.store_health.status();
    let is_up = |status: &Status| status.condition == Condition::Up;
    let (code, status) = if state.draining.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if is_up(&database) && is_up(&store) {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    let readiness = Readiness {
        status,
        database: database.condition.as_str(),
        store: store.condition.as_str(),
        reasons: Reasons {
            database: Some(database.reason).filter(|reason| !reason.is_empty()),
            store: Some(store.reason).filter(|reason| !reason.is_empty()),
        },
    };
    (code, Json(readiness)).into_response()
}

/// Export metrics for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "operation", responses(
    (status = 200, description = "Metrics in the text format of Prometheus", body = String,
        content_type = "text/plain"),
))]
async fn metrics(State(state): State<AppState>) -> Response {
    let text = state.metrics.render(&*state.storage);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
