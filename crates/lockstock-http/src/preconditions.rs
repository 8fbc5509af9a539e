//! Conditional requests: `ETag`, `If-Match`, `If-None-Match`, 428
//! ([RFC 9110, section 13](https://www.rfc-editor.org/rfc/rfc9110#section-13)).
//!
//! Guarantees: a tag is compared as its header demands, strongly for `If-Match` and weakly for
//! `If-None-Match`; what is no entity tag matches nothing.
//!
//! Not guaranteed: that a tag which matched before the handler ran still does when it writes.
//! Only a comparison in the transaction that writes is proof against another writer, or one
//! under a lock that all writers take ([`LockLayer`](crate::LockLayer), outside of this layer).
//!
//! Not here: `If-Match` of a GET; `If-Modified-Since`, `If-Unmodified-Since` and `If-Range`,
//! whose dates are a worse version of the same.

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
use crate::middleware::Handle;
use crate::opaque::Opaque;
use crate::rejection::{Rejection, RejectionHandler};

/// What a client demands of the version that it changes: an extension of requests that write.
/// For handlers that compare it in the transaction that writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// It did not say.
    Absent,
    /// `*`: any version, as long as there is one.
    Any,
    /// One of these strong entity tags, as an `ETag` header has them. Empty if it sent none that
    /// can match: then nothing does.
    OneOf(Vec<String>),
}

impl IfMatch {
    fn of(headers: &HeaderMap) -> Self {
        match ETagCondition::by(headers, &IF_MATCH) {
            ETagCondition::Nothing => Self::Absent,
            ETagCondition::Any => Self::Any,
            ETagCondition::OneOf(tags) => {
                Self::OneOf(tags.iter().filter_map(Tag::strong).collect())
            }
        }
    }

    /// Whether something that exists, with the entity tag `current` (`"3"`, quotes included), may
    /// be changed. A weak tag (`W/"3"`) is like no other.
    ///
    /// ```
    /// use lockstock_http::IfMatch;
    ///
    /// let seen = IfMatch::OneOf(vec!["\"3\"".to_owned()]);
    /// assert!(seen.matches("\"3\"") && !seen.matches("\"4\""));
    /// assert!(IfMatch::Any.matches("\"4\"") && IfMatch::Absent.matches("\"4\""));
    /// ```
    pub fn matches(&self, current: &str) -> bool {
        match self {
            Self::Absent | Self::Any => true,
            Self::OneOf(tags) => tags.iter().any(|tag| tag == current),
        }
    }
}

/// The entity tag of what a request is about, `None` if it does not exist.
type Current =
    dyn Fn(&Parts) -> BoxFuture<'static, Result<Option<String>, Response<Bytes>>> + Send + Sync;

/// A layer for conditional requests.
///
/// - GET and HEAD: an answer whose `ETag` the client has already (`If-None-Match`) becomes 304,
///   without its body. The handler has run; what is saved is the way back.
/// - PUT, PATCH and DELETE: the handler finds [`IfMatch`] among the request's extensions, and
///   compares it in its transaction. Or it is compared before the handler runs, with what
///   [`current`](Self::current) says, and answered with 412 and the current `ETag`. With
///   [`require`](Self::require) a request without `If-Match` is answered with 428.
///
/// What is no entity tag matches nothing.
///
/// ```
/// use axum::{Extension, Router, http::StatusCode, routing::get};
/// use lockstock_http::{IfMatch, PreconditionsLayer};
/// # use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let read = async || ([("etag", "\"3\"")], "shoes");
/// let write = async |Extension(seen): Extension<IfMatch>| {
///     // UPDATE … WHERE id = 1 AND version = $seen
///     match seen.matches("\"3\"") {
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
    /// Nothing is required, and nothing compared before the handler runs.
    pub fn new() -> Self {
        Self {
            required: false,
            methods: [Method::PUT, Method::PATCH, Method::DELETE].into(),
            current: None,
            on_rejection: RejectionHandler::default(),
        }
    }

    /// Refuses to write without `If-Match`, with 428
    /// ([RFC 6585](https://www.rfc-editor.org/rfc/rfc6585#section-3)). With
    /// [`current`](Self::current), `If-None-Match` will do as well: `*` creates and never
    /// overwrites.
    #[must_use]
    pub fn require(self) -> Self {
        let required = true;
        Self { required, ..self }
    }

    /// Which methods write: PUT, PATCH and DELETE, unless said otherwise.
    #[must_use]
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        let methods = methods.into_iter().collect();
        Self { methods, ..self }
    }

    /// Compares before the handler runs. `find` says what entity tag that has now which the
    /// request is about, as an `ETag` header has it (`"3"`, quotes included), `None` if it does
    /// not exist; or what to answer instead. It is asked only if there is something to compare.
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

    /// How on_rejection are told. The current `ETag` is added to a 412 that has none.
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
        let rules = self;
        let (mut parts, body) = request.into_parts();
        if matches!(parts.method, Method::GET | Method::HEAD) {
            let seen = ETagCondition::by(&parts.headers, &IF_NONE_MATCH);
            let request = Request::from_parts(parts, body);
            let response = inner.call(request).await?;
            return Ok(unless_seen(&seen, response));
        }
        if rules.methods.contains(&parts.method) {
            let seen = IfMatch::of(&parts.headers);
            if let Some(response) = rules.check(&parts, &seen).await {
                return Ok(response.map(ResBody::from));
            }
            parts.extensions.insert(seen);
        }
        inner.call(Request::from_parts(parts, body)).await
    }
}

impl PreconditionsLayer {
    /// Returns the response to a request that must not be processed.
    async fn check(&self, parts: &Parts, seen: &IfMatch) -> Option<Response<Bytes>> {
        let unwanted = match self.current {
            Some(_) => ETagCondition::by(&parts.headers, &IF_NONE_MATCH),
            // Nobody would compare it.
            None => ETagCondition::Nothing,
        };
        let reject = |rejection| Some(self.on_rejection.respond(rejection));
        if *seen == IfMatch::Absent && unwanted == ETagCondition::Nothing {
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
            // Not even `*` matches what does not exist.
            None => *seen == IfMatch::Absent,
            Some(current) => {
                seen.matches(current) && !unwanted.names(Tag::parse(current.as_bytes()).as_ref())
            }
        };
        if is_met {
            return None;
        }
        reject(Rejection::PreconditionFailed { current })
    }
}

/// 304 in the place of an answer that the client has already.
fn unless_seen<B: From<Bytes>>(seen: &ETagCondition, response: Response<B>) -> Response<B> {
    let tag = response.headers().get(ETAG);
    let tag = tag.and_then(|tag| Tag::parse(tag.as_bytes()));
    if !response.status().is_success() || !seen.names(tag.as_ref()) {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    parts.status = StatusCode::NOT_MODIFIED;
    // What describes the body, and what the client has with the body: section 15.4.5.
    for of_the_body in [
        CONTENT_ENCODING,
        CONTENT_LANGUAGE,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        LAST_MODIFIED,
        TRANSFER_ENCODING,
    ] {
        parts.headers.remove(of_the_body);
    }
    Response::from_parts(parts, B::from(Bytes::new()))
}
