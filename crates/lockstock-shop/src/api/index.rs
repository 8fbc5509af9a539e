//! `/`: where to begin.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{ACCEPT, VARY};
use axum::response::{IntoResponse, Redirect, Response};
use serde_json::{Map, Value};

use crate::forwarding::Forwarding;

/// What the listener of a request serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    Everything,
    /// Without metrics and documentation.
    Api,
    /// Everything, under another address than clients of the API use.
    Operation,
}

/// Redirects a browser to the documentation, if it is served, and lists the entry points for other
/// clients.
pub(crate) async fn index(
    served: Served,
    State(forwarding): State<Arc<Forwarding>>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let accept = parts.headers.get(ACCEPT).map(HeaderValue::as_bytes);
    let is_browser = accept.is_some_and(|accept| accept.starts_with(b"text/html"));
    // The public URL is that of the API.
    let base = match served {
        Served::Operation => Cow::Borrowed(""),
        Served::Everything | Served::Api => forwarding.base_url(&parts),
    };
    let mut response = if is_browser && served != Served::Api {
        let page = match served {
            Served::Operation => "docs/".to_owned(),
            Served::Everything | Served::Api => format!("{base}/docs/"),
        };
        Redirect::temporary(&page).into_response()
    } else {
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
    let vary = HeaderValue::from_static("Accept");
    response.headers_mut().insert(VARY, vary);
    response
}
