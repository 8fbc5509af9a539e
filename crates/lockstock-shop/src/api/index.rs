//! `/`: where to begin.

use std::borrow::Cow;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::VARY;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use crate::board;
use crate::error::negotiate::prefers_html;
use crate::state::AppState;

/// What the listener of a request serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    Everything,
    /// Without metrics and documentation.
    Api,
    /// Everything, under another address than clients of the API use.
    Operation,
}

/// Returns the board to a browser, if it is served, and lists the entry points for other clients.
pub(crate) async fn index(
    served: Served,
    State(state): State<AppState>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let mut response = if served != Served::Api && prefers_html(&parts.headers) {
        board::board(&state, &parts).await.into_response()
    } else {
        // The public URL is that of the API.
        let base = match served {
            Served::Operation => Cow::Borrowed(""),
            Served::Everything | Served::Api => state.forwarding.base_url(&parts),
        };
        let api = [("products", "/api/products/"), ("locks", "/api/locks/")];
        let operation = [("docs", "/docs/"), ("openapi", "/openapi.json")];
        let probes = [("health", "/healthz"), ("readiness", "/readyz")];
        let (api, operation) = match served {
            Served::Everything | Served::Operation => (&api[..], &operation[..]),
            Served::Api => (&api[..], &[][..]),
        };
        let entry_points = api.iter().chain(operation).chain(&probes);
        let entry_points = entry_points
            .map(|(name, path)| ((*name).to_owned(), format!("{base}{path}").into()))
            .collect::<Map<_, _>>();
        Json(Value::Object(entry_points)).into_response()
    };
    response
        .headers_mut()
        .entry(VARY)
        .or_insert(HeaderValue::from_static("Accept"));
    response
}
