//! A log line and metrics for each request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Method, StatusCode};
use metrics::{SharedString, counter, histogram};
use tracing::field::Empty;
use tracing::{Span, error_span, info};

use crate::http::routes::Route;
use crate::logging::REQUEST_SPAN;
use crate::traces::{RequestAttributes, RequestTrace};

/// The label of requests to other paths than those of routes.
const NO_ROUTE: &str = "(none)";

/// A request in progress.
pub(super) struct AccessLog {
    started: Instant,
    span: Span,
    method: &'static str,
    route: SharedString,
    /// Unknown on a Unix socket, unless a trusted proxy reports it.
    client: Option<IpAddr>,
    /// The name of the API key.
    key: Option<Arc<str>>,
    trace: RequestTrace,
}

impl AccessLog {
    pub(super) fn begin(
        request: &Request,
        id: &HeaderValue,
        client: Option<IpAddr>,
        route: Option<&Route>,
        key: Option<Arc<str>>,
    ) -> Self {
        let (method, path) = (request.method(), request.uri().path());
        let id = id.to_str().unwrap_or_default();
        let started = Instant::now();
        // At the highest level, so that a warning has the id of its request at any log level.
        let span = error_span!(REQUEST_SPAN, id, %method, path, trace_id = Empty, span_id = Empty);
        let route = route_label(request, route);
        let attributes = RequestAttributes {
            route: (*route != *NO_ROUTE).then_some(&*route),
            client,
            caller: key.as_deref(),
        };
        Self {
            trace: RequestTrace::begin(&span, request.headers(), attributes),
            started,
            span,
            method: method_label(method),
            route,
            client,
            key,
        }
    }

    /// Returns the span of the request.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Logs and counts the response. `code` is that of its error.
    pub(super) fn end(self, status: StatusCode, code: Option<&'static str>) {
        let Self {
            started,
            span,
            method,
            route,
            client,
            key,
            trace,
        } = self;
        let elapsed = started.elapsed();
        let _entered = span.enter();
        info!(
            status = status.as_u16(),
            code,
            key = key.as_deref(),
            client = client.map(tracing::field::display),
            // From whole microseconds: 1.322 and not 1.3220000000000001.
            milliseconds = elapsed.as_micros() as f64 / 1000.0,
            "answered"
        );
        trace.end(status, code);
        let labels = [("method", method.into()), ("route", route.clone())];
        histogram!("lockstock_http_request_seconds", &labels).record(elapsed.as_secs_f64());
        if let Some(key) = key {
            // The names are those of the key file: their number is bounded.
            let class = status_class(status);
            counter!("lockstock_key_requests_total", "key" => SharedString::from_shared(key), "status" => class)
                .increment(1);
        }
        let status = status.as_str().to_owned();
        counter!("lockstock_http_requests_total", "method" => method, "route" => route, "status" => status)
            .increment(1);
    }
}

fn status_class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        ..400 => "success",
        400..500 => "client_error",
        _ => "server_error",
    }
}

/// Returns the label of a method. An unknown method must not become a time series.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn route_label(request: &Request, route: Option<&Route>) -> SharedString {
    if let Some(route) = route {
        return SharedString::from_shared(Arc::clone(&route.pattern));
    }
    if request.extensions().get::<MatchedPath>().is_none() {
        return NO_ROUTE.into();
    }
    match request.uri().path() {
        "/healthz" => "/healthz".into(),
        "/readyz" => "/readyz".into(),
        "/metrics" => "/metrics".into(),
        "/openapi.json" => "/openapi.json".into(),
        // A malformed id: DRF's router knows no such route.
        path if path.starts_with("/api/") => NO_ROUTE.into(),
        "/" => "/".into(),
        path if path.starts_with("/board/") => "/board".into(),
        path if path.starts_with("/products/") => "/products".into(),
        _ => "/docs".into(),
    }
}
