//! Rendering of errors: in the format and the language that the client accepts.

use std::panic::AssertUnwindSafe;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, LOCATION, VARY};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use hyper::body::Body as _;
use lockstock_http::Language;
use tracing::error;

use crate::error::ApiError;
use crate::error::negotiate::{ErrorFormat, accepts_events};
use crate::forwarding::{Forwarding, PublicUrl};
use crate::http::paths::EVENTS;
use crate::http::routes::Route;

/// What the client of a request accepts.
pub(super) struct Renderer {
    format: Option<ErrorFormat>,
    language: Language,
    is_head: bool,
    is_write: bool,
}

impl Renderer {
    pub(super) fn of(request: &Request) -> Self {
        Self {
            format: ErrorFormat::accepted(request.headers()),
            language: Language::preferred(request.headers()),
            is_head: request.method() == Method::HEAD,
            is_write: !request.method().is_safe(),
        }
    }

    /// Rejects a client that does not accept the format of the route.
    pub(super) fn require_acceptable(
        &self,
        route: &Route,
        headers: &HeaderMap,
    ) -> Result<(), ApiError> {
        let is_acceptable = match &*route.pattern {
            EVENTS => accepts_events(headers),
            _ => self.format.is_some(),
        };
        match is_acceptable {
            true => Ok(()),
            false => Err(ApiError::not_acceptable()),
        }
    }

    /// Renders the error that a response carries, if it carries one.
    pub(super) fn render_errors(&self, mut response: Response) -> Response {
        let Some(error) = response.extensions_mut().remove::<ApiError>() else {
            return response;
        };
        let error = if self.is_write {
            error.of_write()
        } else {
            error
        };
        let format = self.format.unwrap_or(ErrorFormat::Json);
        let rendered = error.render(format, self.language);
        if self.is_head {
            // The headers of the response to GET, without the body.
            let (mut parts, body) = rendered.into_parts();
            if let Some(length) = body.size_hint().exact() {
                parts.headers.insert(CONTENT_LENGTH, length.into());
            }
            return Response::from_parts(parts, Body::empty());
        }
        rendered
    }
}

/// Turns a panic into a 500 response.
pub(super) async fn catch_panic(
    respond: impl Future<Output = Result<Response, ApiError>>,
) -> Response {
    match AssertUnwindSafe(respond).catch_unwind().await {
        Ok(result) => result.into_response(),
        Err(_) => {
            error!("a request panicked");
            ApiError::internal().into_response()
        }
    }
}

/// Completes a `Location` that is a path by the path of the public URL, which a proxy has removed
/// from the request.
pub(super) fn add_public_path(response: &mut Response, forwarding: &Forwarding) {
    let prefix = forwarding.public_url.as_ref().map_or("", PublicUrl::path);
    if prefix.is_empty() {
        return;
    }
    let location = response.headers().get(LOCATION);
    let path = location.and_then(|location| location.to_str().ok());
    let path = path.filter(|path| path.starts_with('/'));
    let completed = path.and_then(|path| HeaderValue::try_from(format!("{prefix}{path}")).ok());
    if let Some(completed) = completed {
        response.headers_mut().insert(LOCATION, completed);
    }
}

/// Forbids a cache between the server and its clients to return the response to a client without a
/// key. Caches know `Authorization`, and not `X-API-Key`.
pub(super) fn keep_from_shared_caches(response: &mut Response) {
    response
        .headers_mut()
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("private"));
}

/// Adds the headers that Django REST framework sends with every response of a route.
pub(super) fn add_route_headers(response: &mut Response, route: Option<&Route>) {
    if let Some(route) = route {
        let headers = response.headers_mut();
        headers.insert(ALLOW, route.allow.clone());
        headers
            .entry(VARY)
            .or_insert(HeaderValue::from_static("Accept"));
    }
}
