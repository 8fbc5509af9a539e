//! `/`: where to begin.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{ACCEPT, VARY};
use axum::response::{IntoResponse, Redirect, Response};
use serde_json::json;

use crate::forwarding::Forwarding;

/// Redirects a browser to the documentation, and lists the entry points for other clients.
pub(crate) async fn index(State(forwarding): State<Arc<Forwarding>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let accept = parts.headers.get(ACCEPT).map(HeaderValue::as_bytes);
    let is_browser = accept.is_some_and(|accept| accept.starts_with(b"text/html"));
    let base = forwarding.base_url(&parts);
    let mut response = if is_browser {
        Redirect::temporary(&format!("{base}/docs/")).into_response()
    } else {
        let entry_points = json!({
            "products": format!("{base}/api/products/"),
            "docs": format!("{base}/docs/"),
            "openapi": format!("{base}/openapi.json"),
            "health": format!("{base}/healthz"),
            "readiness": format!("{base}/readyz"),
        });
        Json(entry_points).into_response()
    };
    let vary = HeaderValue::from_static("Accept");
    response.headers_mut().insert(VARY, vary);
    response
}
