//! The middleware around all routes.
//!
//! It is one function and not a stack of layers, because each `axum::middleware::from_fn` boxes
//! its future. The steps are in the order in which a request passes them.

mod access_log;
mod host;
mod load_shed;
mod render;
mod request_id;
mod unread_body;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, EXPECT};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use tokio::time::timeout;
use tracing::Instrument;

use self::access_log::AccessLog;
use self::render::Renderer;
use crate::error::ApiError;
use crate::http::preconditions;
use crate::http::routes::{Route, Routes};
use crate::state::AppState;

/// The state of the middleware.
#[derive(Clone)]
pub(crate) struct Middleware {
    pub(crate) state: AppState,
    pub(crate) routes: Arc<Routes>,
}

/// Handles a request to any path.
pub(crate) async fn handle(
    State(Middleware { state, routes }): State<Middleware>,
    mut request: Request,
    next: Next,
) -> Response {
    let request_id = request_id::assign(&mut request);
    let route = routes.of(&request);
    let expects_continue = request.headers().contains_key(EXPECT);
    let log = AccessLog::begin(&request, &request_id, route);
    let renderer = Renderer::of(&request);
    let respond = async {
        let limited = limit(&state, route, &renderer, request, next);
        let response = render::catch_panic(limited).await;
        renderer.render_errors(response)
    };
    let mut response = respond.instrument(log.span()).await;
    request_id::add_header(&mut response, request_id);
    render::add_route_headers(&mut response, route);
    close_connection(&mut response, &state, expects_continue);
    log.end(response.status());
    response
}

/// Applies the limits of the API.
async fn limit(
    state: &AppState,
    route: Option<&Route>,
    renderer: &Renderer,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let expects_continue = request.headers().contains_key(EXPECT);
    if !request.uri().path().starts_with("/api/") {
        return Ok(next.run(request).await);
    }
    let request =
        request.map(|body| unread_body::discard(body, expects_continue, state.settings.body));
    let _permit = load_shed::admit(state)?;
    host::require_one(&request)?;
    let respond = async {
        let Some(route) = route else {
            return Ok(next.run(request).await);
        };
        renderer.require_acceptable()?;
        preconditions::evaluate(state, route, request, next).await
    };
    let response = timeout(state.settings.request_timeout, respond).await;
    response.map_err(|_| ApiError::timeout())?
}

/// Closes the connection if the rest of the request will not be read, and while the server
/// drains: the next request of the client belongs on another server. A client that waits for
/// `100 Continue` and is rejected may send the body or not (RFC 9110, section 10.1.1).
fn close_connection(response: &mut Response, state: &AppState, expects_continue: bool) {
    let status = response.status();
    let is_unread = expects_continue && (status.is_client_error() || status.is_server_error())
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE
        );
    if is_unread || state.draining.load(Ordering::Relaxed) {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
}
