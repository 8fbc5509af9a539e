//! Conditional requests: `ETag`, `If-Match`, `If-None-Match`, `Last-Modified`,
//! `If-Unmodified-Since`, `If-Modified-Since`, 428
//! ([RFC 9110, section 13](https://www.rfc-editor.org/rfc/rfc9110#section-13)).
//!
//! Guarantees: the conditions of every method are evaluated in the order of section 13.2.2, or the
//! handler gets them; what is no entity tag is rejected.
//!
//! Not guaranteed: that a tag which matched before the handler ran still matches when the handler
//! writes. Compare it in the transaction that writes, or under a lock that all writers take
//! ([`LockLayer`](crate::LockLayer), outside of this layer).
//!
//! Not here: `If-Range`, which belongs to the handler that serves ranges. Dates have a resolution of
//! one second: two changes in the same second have the same date. Prefer entity tags.

mod conditions;
mod tags;
mod validators;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Body;
use tower_service::Service;

pub use self::conditions::Preconditions;
use self::conditions::is_read;
pub use self::tags::{EntityTag, TagCondition};
pub use self::validators::Validators;
use crate::language::Language;
use crate::middleware::{Handle, impl_layer};
use crate::opaque::Opaque;
use crate::rejection::{Rejection, RejectionHandler};
use crate::response_body::ResponseBody;

/// Returns the version of the requested resource, `None` if it does not exist.
type Current =
    dyn Fn(&Parts) -> BoxFuture<'static, Result<Option<Validators>, Response<Bytes>>> + Send + Sync;

/// Handles conditional requests.
///
/// - GET and HEAD: the layer compares with the `ETag` and `Last-Modified` of the response. If the
///   client has that version (`If-None-Match`, `If-Modified-Since`), the response becomes 304
///   without a body; if it has asked for another one (`If-Match`, `If-Unmodified-Since`), 412. The
///   handler runs in any case; only the transfer is saved.
/// - Every other method, POST included: the handler finds [`Preconditions`] in the extensions of the
///   request and [checks](Preconditions::check) them in its transaction. With
///   [`current`](Self::current), the layer checks before the handler runs, and rejects with 412 and
///   the current `ETag`. With [`require`](Self::require), a PUT, PATCH or DELETE without `If-Match`
///   is rejected with 428.
/// - OPTIONS, TRACE and CONNECT have no conditions.
///
/// What is no entity tag (`If-Match: 2`, without quotes) is rejected with 400.
///
/// ```
/// use axum::{Router, http::StatusCode, routing::get};
/// use lockstock_http::{Preconditions, PreconditionsLayer};
/// # use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let read = async || ([("etag", "\"3\"")], "shoes");
/// let write = async |conditions: Preconditions| {
///     // SELECT version … FOR UPDATE
///     match conditions.check(Some(&"\"3\"".into())) {
///         Ok(()) => StatusCode::NO_CONTENT, // UPDATE …
///         Err(rejection) => rejection.status(),
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

    /// Sets the methods for which [`require`](Self::require) requires a condition. By default PUT,
    /// PATCH and DELETE.
    #[must_use]
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        let methods = methods.into_iter().collect();
        Self { methods, ..self }
    }

    /// Compares before the handler runs. `find` returns the current entity tag of the requested
    /// resource as in an `ETag` header (`"3"`, quotes included) or [`Validators`], `None` if the
    /// resource does not exist, or an error response. It is called only if there is a condition to
    /// compare. `If-Unmodified-Since` is compared if there is a
    /// [`last_modified`](Validators::last_modified).
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
    pub fn current<F, V>(self, find: impl Fn(&Parts) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Option<V>, Response<Bytes>>> + Send + 'static,
        V: Into<Validators>,
    {
        let current: Arc<Current> = Arc::new(move |parts| {
            let found = find(parts);
            Box::pin(async { Ok(found.await?.map(V::into)) })
        });
        Self {
            current: Some(Opaque(current)),
            ..self
        }
    }

    /// Sets the response to rejected requests, in the language that the client prefers. The layer
    /// adds the current `ETag` to a 412 without it.
    #[must_use]
    pub fn on_rejection(
        self,
        respond: impl Fn(Rejection, Language) -> Response<Bytes> + Send + Sync + 'static,
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

impl<S, ReqBody, ResBody> Handle<S, ReqBody, ResBody> for PreconditionsLayer
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqBody: Send + 'static,
    ResBody: Body<Data = Bytes> + Send + 'static,
{
    async fn handle(
        self: Arc<Self>,
        mut inner: S,
        request: Request<ReqBody>,
    ) -> Result<Response<ResponseBody<ResBody>>, S::Error> {
        let (mut parts, body) = request.into_parts();
        let language = Language::preferred(&parts.headers);
        let reject = |rejection| Ok(self.on_rejection.respond(rejection, language));
        let conditions = match Preconditions::of(&parts.method, &parts.headers) {
            Ok(conditions) => conditions,
            Err(rejection) => return reject(rejection),
        };
        if is_read(&parts.method) {
            let request = Request::from_parts(parts, body);
            let response = inner.call(request).await?;
            return conditions.select(response).or_else(reject);
        }
        match self.check(&parts, &conditions).await {
            Ok(()) => {}
            Err(Failure::Rejected(rejection)) => return reject(rejection),
            Err(Failure::Response(response)) => return Ok(response.map(ResponseBody::from)),
        }
        parts.extensions.insert(conditions);
        let response = inner.call(Request::from_parts(parts, body)).await?;
        Ok(response.map(ResponseBody::inner))
    }
}

/// Why a request must not be processed.
enum Failure {
    Rejected(Rejection),
    /// The current version could not be found.
    Response(Response<Bytes>),
}

impl PreconditionsLayer {
    async fn check(&self, parts: &Parts, conditions: &Preconditions) -> Result<(), Failure> {
        if self.required && self.methods.contains(&parts.method) {
            // Without the current tag the layer cannot compare `If-None-Match`.
            let has_version = !conditions.if_match.is_absent()
                || self.current.is_some() && !conditions.if_none_match.is_absent();
            if !has_version {
                return Err(Failure::Rejected(Rejection::PreconditionRequired));
            }
        }
        if conditions.is_empty() {
            return Ok(());
        }
        let Some(find) = &self.current else {
            return Ok(());
        };
        let current = find(parts).await.map_err(Failure::Response)?;
        let checked = conditions.check(current.as_ref());
        checked.map_err(Failure::Rejected)
    }
}
