//! Conditional requests: `ETag`, `If-Match`, `If-None-Match`, 428
//! ([RFC 9110, section 13](https://www.rfc-editor.org/rfc/rfc9110#section-13)).
//!
//! Guarantees: tags are compared as the headers require, strongly for `If-Match` and weakly for
//! `If-None-Match`; an invalid entity tag matches nothing.
//!
//! Not guaranteed: that a tag which matched before the handler ran still matches when the handler
//! writes. Compare it in the transaction that writes, or under a lock that all writers take
//! ([`LockLayer`](crate::LockLayer), outside of this layer).
//!
//! Not here: `If-Match` of a GET; `If-Modified-Since`, `If-Unmodified-Since` and `If-Range`, whose
//! dates have a resolution of one second.

mod tags;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tower_service::Service;

use self::tags::{ETagCondition, Tag};
use crate::middleware::{Handle, impl_layer};
use crate::opaque::Opaque;
use crate::rejection::{Rejection, RejectionHandler};

/// Version that a client requires: an extension of requests that write. For handlers that compare
/// it in the transaction that writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// The header is missing.
    Absent,
    /// `*`: any version of a resource that exists.
    Any,
    /// One of these strong entity tags, as in an `ETag` header. If the list is empty, the client
    /// sent no tag that can match, and no version matches.
    OneOf(Vec<String>),
}

impl IfMatch {
    fn parse(headers: &HeaderMap) -> Self {
        match ETagCondition::parse(headers, &IF_MATCH) {
            ETagCondition::Absent => Self::Absent,
            ETagCondition::Any => Self::Any,
            ETagCondition::OneOf(tags) => {
                Self::OneOf(tags.iter().filter_map(Tag::strong).collect())
            }
        }
    }

    /// Whether a resource with the entity tag `current` (`"3"`, quotes included) may be changed. A
    /// weak tag (`W/"3"`) never matches.
    ///
    /// ```
    /// use lockstock_http::IfMatch;
    ///
    /// let if_match = IfMatch::OneOf(vec!["\"3\"".to_owned()]);
    /// assert!(if_match.matches("\"3\"") && !if_match.matches("\"4\""));
    /// assert!(IfMatch::Any.matches("\"4\"") && IfMatch::Absent.matches("\"4\""));
    /// ```
    pub fn matches(&self, current: &str) -> bool {
        match self {
            Self::Absent | Self::Any => true,
            Self::OneOf(tags) => tags.iter().any(|tag| tag == current),
        }
    }
}

/// Returns the entity tag of the requested resource, `None` if it does not exist.
type Current =
    dyn Fn(&Parts) -> BoxFuture<'static, Result<Option<String>, Response<Bytes>>> + Send + Sync;

/// Handles conditional requests.
///
/// - GET and HEAD: if the client has the version of the response (`If-None-Match`), the response
///   becomes 304 without a body. The handler runs in any case; only the transfer is saved.
/// - PUT, PATCH and DELETE: the handler finds [`IfMatch`] in the extensions of the request and
///   compares it in its transaction. With [`current`](Self::current), the layer compares before the
///   handler runs, and rejects with 412 and the current `ETag`. With [`require`](Self::require), a
///   request without `If-Match` is rejected with 428.
///
/// An invalid entity tag matches nothing.
///
/// ```
/// use axum::{Extension, Router, http::StatusCode, routing::get};
/// use lockstock_http::{IfMatch, PreconditionsLayer};
/// # use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let read = async || ([("etag", "\"3\"")], "shoes");
/// let write = async |Extension(if_match): Extension<IfMatch>| {
///     // UPDATE … WHERE id = 1 AND version = $version
///     match if_match.matches("\"3\"") {
///         true => StatusCode::NO_CONTENT,
///         false => StatusCode::PRECONDITION_FAILED,
///     }
/// };
/// let app = Router::new()
///     .route("/products/1/", get(read).put(write))
///     .layer(PreconditionsLayer::new().require());
///
/// # use axum::{body::Body, http::Request};
/// # let of = |method: &str, header: &str| {
/// #     let request = Request::builder().method(method).uri("/products/1/");
/// #     request.header(header, "\"3\"").body(Body::empty()).unwrap()
/// # };
/// # let status = async |request: Request<Body>| {
/// #     app.clone().oneshot(request).await.unwrap().status()
/// # };
/// assert_eq!(status(of("GET", "if-none-match")).await, 304);
/// assert_eq!(status(of("PUT", "if-match")).await, 204);
/// assert_eq!(status(of("PUT", "x-nothing")).await, 428);
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PreconditionsLayer {
    required: bool,
    methods: Arc<[Method]>,
    current: Option<Opaque<Current>>,
    on_rejection: RejectionHandler,
}

impl PreconditionsLayer {
    /// Creates a layer that requires nothing and compares nothing before the handler runs.
    pub fn new() -> Self {
        Self {
            required: false,
            methods: [Method::PUT, Method::PATCH, Method::DELETE].into(),
            current: None,
            on_rejection: RejectionHandler::default(),
        }
    }

    /// Rejects writes without `If-Match` with 428
    /// ([RFC 6585](https://www.rfc-editor.org/rfc/rfc6585#section-3)). With
    /// [`current`](Self::current), `If-None-Match` is sufficient too: `*` creates a resource and
    /// never overwrites an existing resource.
    #[must_use]
    pub fn require(self) -> Self {
        let required = true;
        Self { required, ..self }
    }

    /// Sets the methods that write. By default PUT, PATCH and DELETE.
    #[must_use]
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        let methods = methods.into_iter().collect();
        Self { methods, ..self }
    }

    /// Compares before the handler runs. `find` returns the current entity tag of the requested
    /// resource as in an `ETag` header (`"3"`, quotes included), `None` if the resource does not
    /// exist, or an error response. It is called only if there is a condition to compare.
    ///
    /// ```
    /// use lockstock_http::PreconditionsLayer;
    /// # async fn version_of(_: String) -> Option<u64> { None }
    ///
    /// let layer = PreconditionsLayer::new().current(|parts| {
    ///     let path = parts.uri.path().to_owned();
    ///     async { Ok(version_of(path).await.map(|version| format!("\"{version}\""))) }
    /// });
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn current<F>(self, find: impl Fn(&Parts) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Option<String>, Response<Bytes>>> + Send + 'static,
    {
        let current: Arc<Current> = Arc::new(move |parts| Box::pin(find(parts)));
        Self {
            current: Some(Opaque(current)),
            ..self
        }
    }

    /// Sets the response to rejected requests. The layer adds the current `ETag` to a 412 without
    /// it.
    #[must_use]
    pub fn on_rejection(
        self,
        respond: impl Fn(Rejection) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        let on_rejection = RejectionHandler::new(respond);
        Self {
            on_rejection,
            ..self
        }
    }
}

impl Default for PreconditionsLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl_layer!(PreconditionsLayer);

impl<S, ReqBody, ResBody> Handle<S, ReqBody> for PreconditionsLayer
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqBody: Send + 'static,
    ResBody: From<Bytes> + Send + 'static,
{
    async fn handle(
        self: Arc<Self>,
        mut inner: S,
        request: Request<ReqBody>,
    ) -> Result<Response<ResBody>, S::Error> {
        let (mut parts, body) = request.into_parts();
        if matches!(parts.method, Method::GET | Method::HEAD) {
            let if_none_match = ETagCondition::parse(&parts.headers, &IF_NONE_MATCH);
            let request = Request::from_parts(parts, body);
            let response = inner.call(request).await?;
            return Ok(not_modified_or(response, &if_none_match));
        }
        if self.methods.contains(&parts.method) {
            let if_match = IfMatch::parse(&parts.headers);
            if let Some(response) = self.check(&parts, &if_match).await {
                return Ok(response.map(ResBody::from));
            }
            parts.extensions.insert(if_match);
        }
        inner.call(Request::from_parts(parts, body)).await
    }
}

impl PreconditionsLayer {
    /// Returns the response to a request that must not be processed.
    async fn check(&self, parts: &Parts, if_match: &IfMatch) -> Option<Response<Bytes>> {
        let if_none_match = match self.current {
            Some(_) => ETagCondition::parse(&parts.headers, &IF_NONE_MATCH),
            // Without the current tag the condition cannot be compared.
            None => ETagCondition::Absent,
        };
        let reject = |rejection| Some(self.on_rejection.respond(rejection));
        if *if_match == IfMatch::Absent && if_none_match == ETagCondition::Absent {
            return match self.required {
                true => reject(Rejection::PreconditionRequired),
                false => None,
            };
        }
        let current = match self.current.as_ref()?(parts).await {
            Ok(current) => current,
            Err(response) => return Some(response),
        };
        let is_met = match &current {
            // `If-Match: *` does not match a missing resource.
            None => *if_match == IfMatch::Absent,
            Some(current) => {
                if_match.matches(current)
                    && !if_none_match.matches(Tag::parse(current.as_bytes()).as_ref())
            }
        };
        if is_met {
            return None;
        }
        reject(Rejection::PreconditionFailed { current })
    }
}

/// Returns 304 if the client has the version of the response.
fn not_modified_or<B: From<Bytes>>(
    response: Response<B>,
    if_none_match: &ETagCondition,
) -> Response<B> {
    let tag = response.headers().get(ETAG);
    let tag = tag.and_then(|tag| Tag::parse(tag.as_bytes()));
    if !response.status().is_success() || !if_none_match.matches(tag.as_ref()) {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    parts.status = StatusCode::NOT_MODIFIED;
    // Headers that describe the body, and headers that the client has with it: section 15.4.5.
    for name in [
        CONTENT_ENCODING,
        CONTENT_LANGUAGE,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        LAST_MODIFIED,
        TRANSFER_ENCODING,
    ] {
        parts.headers.remove(name);
    }
    Response::from_parts(parts, B::from(Bytes::new()))
}
