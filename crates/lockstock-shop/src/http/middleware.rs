//! The middleware around all routes.
//!
//! It is one function and not a stack of layers, because each `axum::middleware::from_fn` boxes
//! its future. The steps are in the order in which a request passes them.

mod access_log;
pub(crate) mod cors;
mod host;
mod load_shed;
mod render;
mod request_id;
mod unread_body;
mod unsent_body;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CONNECTION, EXPECT, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode, Version};
use axum::middleware::Next;
use axum::response::Response;
use tokio::time::timeout;
use tracing::Instrument;

use self::access_log::AccessLog;
use self::cors::{AllowedOrigin, CorsOrigin};
use self::render::Renderer;
use crate::access::{Access, Admission, Authenticated, Requirement, WritesNeedKey};
use crate::error::negotiate::prefers_html;
use crate::error::{ApiError, ErrorCode};
use crate::http::preconditions;
use crate::http::routes::{Route, Routes};
use crate::replicas::RELAY_PATH;
use crate::state::AppState;

/// The state of the middleware.
#[derive(Clone)]
pub(crate) struct Middleware {
    pub(crate) state: AppState,
    pub(crate) routes: Arc<Routes>,
    /// Origins whose pages may call the API.
    pub(crate) cors_origins: Arc<[CorsOrigin]>,
    pub(crate) access: Access,
    /// Whether `/` is a page for browsers.
    pub(crate) has_pages: bool,
}

/// Handles a request to any path.
pub(crate) async fn handle(
    State(middleware): State<Middleware>,
    mut request: Request,
    next: Next,
) -> Response {
    let Middleware {
        state,
        routes,
        cors_origins,
        access,
        has_pages,
    } = middleware;
    let request_id = request_id::assign(&mut request);
    let route = routes.of(&request);
    let expects_continue = request.headers().contains_key(EXPECT);
    let version = request.version();
    let client = state
        .forwarding
        .client(request.extensions(), request.headers());
    let origin = AllowedOrigin::of(&cors_origins, request.method(), request.headers());
    let is_preflight = origin.as_ref().is_some_and(AllowedOrigin::is_preflight);
    let requirement = if is_preflight {
        // It never has credentials, and reaches no handler.
        Requirement::Nothing
    } else {
        requirement(&request, has_pages)
    };
    let Admission { key, rate, verdict } = {
        let (method, headers) = (request.method(), request.headers());
        access.admit(requirement, method, headers, client)
    };
    let key_name = key.as_ref().map(|key| key.name.clone());
    let log = AccessLog::begin(&request, &request_id, client, route, key_name);
    let renderer = Renderer::of(&request);
    if has_pages && access.keys.is_some() {
        request.extensions_mut().insert(WritesNeedKey);
    }
    if let Some(key) = key {
        request.extensions_mut().insert(Authenticated(key));
    }
    let respond = async {
        if let Some(response) = origin.as_ref().and_then(AllowedOrigin::preflight) {
            return response;
        }
        let limited = limit(&state, route, &renderer, verdict, request, next);
        let response = render::catch_panic(limited).await;
        renderer.render_errors(response)
    };
    let mut response = respond.instrument(log.span()).await;
    request_id::add_header(&mut response, request_id);
    render::add_route_headers(&mut response, route);
    if access.keys.is_some() {
        render::keep_from_shared_caches(&mut response);
    }
    if let Some(rate) = rate {
        rate.add_headers(response.headers_mut());
    }
    render::add_public_path(&mut response, &state.forwarding);
    cors::vary_by_origin(&cors_origins, &mut response);
    if let Some(origin) = origin {
        origin.add_headers(&mut response);
    }
    let no_sniffing = HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, no_sniffing);
    if version < Version::HTTP_2 {
        close_connection(&mut response, &state, expects_continue);
    }
    let code = response.extensions().get::<ErrorCode>();
    let span = log.span();
    log.end(response.status(), code.map(|code| code.0));
    unsent_body::drop_unread(response, state.settings.unread_timeout, span)
}

fn requirement(request: &Request, has_pages: bool) -> Requirement {
    if has_pages && request.uri().path() == "/" && prefers_html(request.headers()) {
        return Requirement::Page;
    }
    let is_routed = request.extensions().get::<MatchedPath>().is_some();
    Requirement::of(request.method(), request.uri().path(), is_routed)
}

/// Applies the limits of the API.
async fn limit(
    state: &AppState,
    route: Option<&Route>,
    renderer: &Renderer,
    verdict: Result<(), ApiError>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let expects_continue = request.headers().contains_key(EXPECT);
    let path = request.uri().path();
    let is_relayed = path.starts_with(RELAY_PATH);
    if !path.starts_with("/api/") && !is_relayed {
        verdict?;
        return Ok(next.run(request).await);
    }
    let request =
        request.map(|body| unread_body::discard(body, expects_continue, state.settings.body));
    let _permit = load_shed::admit(state)?;
    host::require_one(&request)?;
    if is_relayed {
        // Its timeouts are those of the body and of the other server.
        verdict?;
        return Ok(next.run(request).await);
    }
    let respond = async {
        let Some(route) = route else {
            verdict?;
            return Ok(next.run(request).await);
        };
        // In the order of DRF.
        renderer.require_acceptable(route, request.headers())?;
        verdict?;
        preconditions::evaluate(state, route, request, next).await
    };
    let response = timeout(state.settings.request_timeout, respond).await;
    response.map_err(|_| ApiError::timeout())?
}

/// Closes a connection of HTTP/1 if the rest of the request will not be read, and while the server
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
