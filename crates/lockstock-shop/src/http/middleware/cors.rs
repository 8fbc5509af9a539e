//! Cross-origin requests (CORS): which pages of other origins may call the API from a browser.
//!
//! Not tower-http's layer, which answers every OPTIONS request: here OPTIONS without
//! `Access-Control-Request-Method` is Django REST framework's description of a route.

use std::str::FromStr;

use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use url::{Origin, Url};

/// The request headers that the API reads.
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "Accept, Accept-Language, Authorization, Content-Type, Idempotency-Key, If-Match, \
     If-None-Match, Traceparent, Tracestate, X-API-Key, X-Request-Id",
);
/// The response headers that a page cannot read without permission.
const RESPONSE_HEADERS: HeaderValue = HeaderValue::from_static(
    "Allow, ETag, Idempotent-Replayed, Location, RateLimit, RateLimit-Policy, Retry-After, \
     X-Request-Id",
);
const METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
/// How long a browser may reuse the response to a preflight request.
const MAX_AGE_SECS: HeaderValue = HeaderValue::from_static("600");

/// An origin whose pages may call the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CorsOrigin {
    Any,
    Only(HeaderValue),
}

impl FromStr for CorsOrigin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let url = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https") && url.path() == "/" && url.query().is_none()
        });
        let origin = url.as_ref().map(Url::origin).filter(Origin::is_tuple);
        // Without the default port and the slash, as browsers send it.
        origin
            .and_then(|origin| HeaderValue::try_from(origin.ascii_serialization()).ok())
            .map(Self::Only)
            .ok_or_else(|| "expected an origin, like https://shop.example.com, or *".to_owned())
    }
}

/// The origin of a request from a page that may call the API.
pub(super) struct AllowedOrigin {
    value: HeaderValue,
    is_preflight: bool,
}

impl AllowedOrigin {
    /// Returns `None` unless the request comes from a page of one of the `origins`.
    pub(super) fn of(origins: &[CorsOrigin], method: &Method, headers: &HeaderMap) -> Option<Self> {
        let origin = headers.get(ORIGIN)?;
        let allowed = origins.iter().find_map(|allowed| match allowed {
            CorsOrigin::Any => Some(HeaderValue::from_static("*")),
            CorsOrigin::Only(only) => (only == origin).then(|| only.clone()),
        });
        Some(Self {
            value: allowed?,
            is_preflight: method == Method::OPTIONS
                && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD),
        })
    }

    pub(super) fn is_preflight(&self) -> bool {
        self.is_preflight
    }

    /// Returns the response to a preflight request, `None` for other requests.
    pub(super) fn preflight(&self) -> Option<Response> {
        let headers = [
            (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
            (ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECS),
        ];
        self.is_preflight
            .then(|| (StatusCode::NO_CONTENT, headers).into_response())
    }

    /// Permits the page to read the response.
    pub(super) fn add_headers(self, response: &mut Response) {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.value);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
    }
}

/// Marks a response that depends on the origin of the request, for caches in between.
pub(super) fn vary_by_origin(origins: &[CorsOrigin], response: &mut Response) {
    if origins.iter().any(|origin| *origin != CorsOrigin::Any) {
        let vary = HeaderValue::from_static("Origin");
        response.headers_mut().append(VARY, vary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_scheme_a_host_and_a_port() {
        let only = |text| CorsOrigin::Only(HeaderValue::from_static(text));
        for (text, origin) in [
            ("*", CorsOrigin::Any),
            ("https://shop.example", only("https://shop.example")),
            ("https://shop.example:443/", only("https://shop.example")),
            ("http://localhost:3000", only("http://localhost:3000")),
        ] {
            assert_eq!(text.parse(), Ok(origin), "{text}");
        }
        for text in [
            "",
            "shop.example",
            "https://shop.example/api",
            "null",
            "file:///",
        ] {
            assert!(text.parse::<CorsOrigin>().is_err(), "{text}");
        }
    }
}
