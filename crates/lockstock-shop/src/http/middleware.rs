//! What every request meets first and every answer last: a request id, the form and
//! language of refusals, the headers that DRF sends, a limit to how much is done at once
//! and for how long, and a line in the log and in the metrics.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ALLOW, CONNECTION, HOST, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use metrics::{counter, gauge, histogram};
use tracing::{Instrument, error, error_span, info};

use crate::error::ApiError;
use crate::error::negotiate::{ErrorFormat, Language};
use crate::http::request_context::RequestId;
use crate::http::routes::{self, Route};
use crate::state::AppState;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Treats a request to anywhere. Never answers with anything that is not ours.
pub(crate) async fn handle(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route_entry = routes::find(&path);
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("(none)", |_| route_of(&path, route_entry));
    let form = ErrorFormat::accepted(request.headers());
    let language = Language::preferred(request.headers());
    // Of the highest level, so that a warning has its request's id whatever is logged.
    let span = error_span!("request", id = id.to_str().unwrap_or_default(), %method, path);

    request
        .extensions_mut()
        .insert(RequestId(id.to_str().unwrap_or_default().into()));
    let is_api = path.starts_with("/api/");
    let mut response = async {
        let work = async {
            if !is_api {
                return next.run(request).await;
            }
            let Some(_permit) = RequestPermit::take(&state.in_flight, state.settings.max_in_flight)
            else {
                return ApiError::overloaded().into_response();
            };
            if !names_one_host(&request) {
                return ApiError::bad_request("A request must name exactly one Host.")
                    .into_response();
            }
            if form.is_none() && route_entry.is_some() {
                return ApiError::not_acceptable().into_response();
            }
            tokio::time::timeout(state.settings.request_timeout, next.run(request))
                .await
                .unwrap_or_else(|_| ApiError::timeout().into_response())
        };
        let response = AssertUnwindSafe(work).catch_unwind().await;
        let response = response.unwrap_or_else(|_| {
            error!("a request panicked");
            ApiError::internal().into_response()
        });
        render_errors(
            response,
            form.unwrap_or(ErrorFormat::Json),
            language,
            &method,
        )
    }
    .instrument(span.clone())
    .await;

    let status = response.status();
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    if let Some(route_entry) = route_entry {
        headers.insert(ALLOW, HeaderValue::from_static(route_entry.allow));
        headers
            .entry(VARY)
            .or_insert(HeaderValue::from_static("Accept"));
    }
    // What the client still sends of such a request is not read any more.
    let unread = matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE
    );
    // And while the server drains, the client's next request belongs elsewhere.
    if unread || state.draining.load(Ordering::Relaxed) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let took = begun.elapsed();
    let _entered = span.enter();
    info!(
        status = status.as_u16(),
        // Whole microseconds, so that it reads 1.322 and not 1.3220000000000001.
        milliseconds = took.as_micros() as f64 / 1000.0,
        "answered"
    );
    record(&method, route, status, took.as_secs_f64());
    response
}

fn render_errors(
    response: Response,
    form: ErrorFormat,
    language: Language,
    method: &Method,
) -> Response {
    let (mut parts, body) = response.into_parts();
    let Some(error) = parts.extensions.remove::<ApiError>() else {
        return Response::from_parts(parts, body);
    };
    let rendered = error.render(form, language);
    if method == Method::HEAD {
        // The headers that GET would have, and no body: hyper sees to the latter.
        let (parts, _) = rendered.into_parts();
        return Response::from_parts(parts, axum::body::Body::empty());
    }
    rendered
}

/// RFC 9112, section 3.2: with none or two, a proxy in front may have meant another one.
fn names_one_host(request: &Request) -> bool {
    let hosts = request.headers().get_all(HOST).iter().count();
    hosts == 1 || hosts == 0 && request.version() < Version::HTTP_11
}

/// The caller's own id if it is harmless in a log, or a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    headers
        .get(REQUEST_ID)
        .filter(|id| {
            (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
        })
        .cloned()
        .unwrap_or_else(|| {
            let id = format!("{:032x}", rand::random::<u128>());
            HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("none"))
        })
}

/// The route's name in the metrics.
fn route_of(path: &str, route_entry: Option<Route>) -> &'static str {
    match route_entry {
        Some(route_entry) => route_entry.pattern,
        None => match path {
            "/healthz" => "/healthz",
            "/readyz" => "/readyz",
            "/metrics" => "/metrics",
            "/openapi.json" => "/openapi.json",
            _ => "/docs",
        },
    }
}

fn record(method: &Method, route: &'static str, status: StatusCode, seconds: f64) {
    let method = match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        // Whatever a client thinks up must not become a time series.
        _ => "other",
    };
    let status = status.as_str().to_owned();
    counter!("lockstock_http_requests_total", "method" => method, "route" => route, "status" => status)
        .increment(1);
    histogram!("lockstock_http_request_seconds", "method" => method, "route" => route)
        .record(seconds);
}

/// One of the seats for requests under way; free again when dropped.
struct RequestPermit<'a>(&'a AtomicUsize);

impl<'a> RequestPermit<'a> {
    fn take(taken: &'a AtomicUsize, most: usize) -> Option<Self> {
        if taken.fetch_add(1, Ordering::Relaxed) >= most {
            taken.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        gauge!("lockstock_http_requests_in_flight").increment(1);
        Some(Self(taken))
    }
}

impl Drop for RequestPermit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        gauge!("lockstock_http_requests_in_flight").decrement(1);
    }
}
