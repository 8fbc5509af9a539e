//! `Idempotency-Key`: a repeated request is answered with the recorded response instead of being
//! processed again.
//!
//! Guarantees: while a request is processed, no other request with its key is processed in this
//! process or, with [`IdempotencyLayer::claim_in`], in any process that uses the store; a request
//! that has started is finished and recorded even if the client disconnects; keys and records
//! belong to a caller and are never visible to other callers. [`IdempotencyLayer`] lists the cases.
//!
//! Not guaranteed by a record outside the transaction of the effect: exactly one effect. Effect
//! and record are then two writes. If the process dies between them, the effect has no record,
//! and after the lease of the claim a retry has a second effect. The same happens if the record
//! cannot be written or the store loses it. Only a record that is written in the transaction of
//! the effect exists if and only if the effect does: see [`RecordStore`].

mod claim;
mod header;
mod key;
mod look_up;
mod multipart;
mod process;
mod record;
mod store;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ETAG, LAST_MODIFIED, LINK, LOCATION, VARY};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, response};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use lockstock::Store;
use tower_service::Service;
use tracing::debug;

use self::claim::Claims;
pub use self::header::idempotency_key;
pub use self::key::RequestKey;
use self::key::{credentials, fingerprint};
use self::look_up::NextAction;
pub use self::record::{Malformed, RecordedResponse};
use self::store::SharedRecordStore;
pub use self::store::{LockstockRecordStore, RecordStore};
use crate::BoxError;
use crate::admission::checked_lease;
use crate::detached::{Cancellation, DetachedTasks};
use crate::language::Language;
use crate::middleware::{Handle, impl_layer};
use crate::opaque::{Opaque, ResponsePredicate};
use crate::rejection::{Rejection, RejectionHandler};
use crate::response_body::ResponseBody;
use crate::success::has_effect;

/// Default limit of the body of a request and of a recorded response.
const DEFAULT_LIMIT_BYTES: usize = 64 * 1024;
/// Default time after which the claim of a dead process ends.
const DEFAULT_LEASE: Duration = Duration::from_secs(30);

/// Headers that are part of a response like its body, beside those that begin with `Content-`. A
/// replay without them would be another response.
const RECORDED_HEADERS: [HeaderName; 7] = [
    ETAG,
    LAST_MODIFIED,
    LINK,
    LOCATION,
    VARY,
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

const TRUE: HeaderValue = HeaderValue::from_static("true");

/// Answers a repeated request with an `Idempotency-Key` with the recorded response instead of
/// processing it again.
///
/// | idempotency key | response |
/// |---|---|
/// | new | the request is processed, and its response recorded if it is a success |
/// | repeated with the same request | recorded status, headers and body, and `Idempotent-Replayed: true` |
/// | repeated with another method, path, query, content type or body | 422 `key_reused` |
/// | of a request that is being processed | 409 `in_flight` with `Retry-After` |
/// | after a response that was not recorded (by default any but 2xx and 303), or an expired record | as new |
/// | malformed, longer than 255 characters, or sent twice | 400 `key_malformed` |
/// | missing | the request is processed, or 400 `key_missing` with [`require`](Self::require) |
///
/// The key is sent bare or as a string of [RFC 8941](https://www.rfc-editor.org/rfc/rfc8941):
/// `abc` and `"abc"` are the same key. Two `multipart` bodies are the same if their parts are,
/// even if their boundaries differ.
///
/// The layer reads the whole request body before the handler runs, at most
/// [`body_limit`](Self::body_limit) bytes; an outer layer must limit how long a slow client may
/// take. The handler finishes even if the client disconnects, and a
/// retry returns its response. The layer reads the response up to
/// [`response_limit`](Self::response_limit) before it records and returns it, so it is not suited
/// for event streams.
///
/// # Not guaranteed
///
/// [`in_store`](Self::in_store) writes the record after the effect. If the process dies between
/// the two, the effect has no record, and after the lease of the claim a retry has a second
/// effect. The same happens if the record cannot be written or the store loses it. Only a record
/// that is written in the transaction of the effect exists if and only if the effect does: see
/// [`RecordStore`].
///
/// ```
/// use axum::{Router, http::StatusCode, routing::post};
/// use lockstock::Store;
/// use lockstock_http::IdempotencyLayer;
/// # use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = Store::memory();
/// let app = Router::new()
///     .route("/payments/", post(async || (StatusCode::CREATED, "paid")))
///     .layer(IdempotencyLayer::in_store(&store).require());
///
/// # let pay = || http::Request::post("/payments/").header("idempotency-key", "7f3a")
/// #     .body(axum::body::Body::from("12.50")).unwrap();
/// let first = app.clone().oneshot(pay()).await.unwrap();
/// let second = app.oneshot(pay()).await.unwrap();
/// assert_eq!(second.status(), first.status());
/// assert_eq!(second.headers()["idempotent-replayed"], "true");
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct IdempotencyLayer {
    records: SharedRecordStore,
    transactional: bool,
    processes_first: bool,
    claims: Claims,
    methods: Arc<[Method]>,
    required: bool,
    caller: Opaque<dyn Fn(&Parts) -> String + Send + Sync>,
    record_if: ResponsePredicate,
    headers: Arc<[HeaderName]>,
    body_limit: usize,
    response_limit: usize,
    fail_open: bool,
    on_rejection: RejectionHandler,
    tasks: DetachedTasks,
}

impl IdempotencyLayer {
    /// Keeps records in `store` for 24 hours, and claims keys there with a lease of 30 s. For other
    /// times see [`LockstockRecordStore`] and [`claim_in`](Self::claim_in).
    pub fn in_store(store: &Store) -> Self {
        Self::new(LockstockRecordStore::new(store)).claim_in(store, DEFAULT_LEASE)
    }

    /// Keeps records in `records`. Keys are claimed in this process only; see
    /// [`claim_in`](Self::claim_in) for other processes.
    pub fn new(records: impl RecordStore) -> Self {
        Self {
            records: Opaque(Arc::new(records)),
            transactional: false,
            processes_first: false,
            claims: Claims::default(),
            methods: [Method::POST, Method::PATCH].into(),
            required: false,
            caller: Opaque(Arc::new(credentials)),
            record_if: Opaque(Arc::new(has_effect)),
            headers: [].into(),
            body_limit: DEFAULT_LIMIT_BYTES,
            response_limit: DEFAULT_LIMIT_BYTES,
            fail_open: false,
            on_rejection: RejectionHandler::default(),
            tasks: DetachedTasks::default(),
        }
    }

    /// Reads records that handlers write in the transaction of their effect. Such a record exists if
    /// and only if the effect does: see [`RecordStore`]. The layer never [saves](RecordStore::save)
    /// a record.
    pub fn transactional(records: impl RecordStore) -> Self {
        Self {
            transactional: true,
            ..Self::new(records)
        }
    }

    /// Processes a request before its record is looked up.
    ///
    /// For handlers that replay the record which their transaction finds. Nearly every request is new,
    /// and needs no look-up of its own then. A repeated request is processed as far as the transaction.
    /// Its record is looked up in three cases: the key is claimed, a [`LockLayer`](crate::LockLayer) or
    /// [`ConcurrencyLimitLayer`](crate::ConcurrencyLimitLayer) inside of this layer lets it wait for 20 ms,
    /// or its response is one that is not recorded. If the record cannot be read then, an error of the
    /// client becomes 503: it may be the effect of a request that has succeeded.
    ///
    /// # Panics
    ///
    /// If the layer is not [`transactional`](Self::transactional): a repeated request would have a second
    /// effect.
    #[must_use]
    #[track_caller]
    pub fn process_first(mut self) -> Self {
        assert!(
            self.transactional,
            "only the transaction of a handler prevents a second effect of a request that is processed \
             before its record is looked up"
        );
        self.processes_first = true;
        self
    }

    /// Claims keys in `store` too, so that other processes respond with 409 while the request is
    /// processed. The claim is the lock `idempotency:ID`, where ID is [`RequestKey::id`]. It is
    /// renewed for at most an hour. If the process dies, the claim ends with its lease, from
    /// [`MIN_LEASE`](lockstock::MIN_LEASE) to [`MAX_LEASE`](lockstock::MAX_LEASE).
    ///
    /// # Panics
    ///
    /// If the lease is out of range.
    #[must_use]
    #[track_caller]
    pub fn claim_in(mut self, store: &Store, lease: Duration) -> Self {
        self.claims.claim_in(store, checked_lease(lease));
        self
    }

    /// Sets the methods that have idempotency keys. By default POST and PATCH. The header is ignored
    /// for other methods.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = methods.into_iter().collect();
        self
    }

    /// Rejects requests without an idempotency key with 400.
    #[must_use]
    pub fn require(mut self) -> Self {
        self.required = true;
        self
    }

    /// Sets how callers are identified. By default by a hash of the headers `Authorization` and
    /// `X-API-Key`, with the scheme compared without case
    /// ([`normalized_authorization`](crate::normalized_authorization)); all requests without both
    /// headers have the same caller. Replace it where another
    /// credential identifies callers (a cookie, a certificate), where tokens change (a new token is
    /// a new caller), or where services share a store.
    #[must_use]
    pub fn caller(mut self, identify: impl Fn(&Parts) -> String + Send + Sync + 'static) -> Self {
        self.caller = Opaque(Arc::new(identify));
        self
    }

    /// Sets which responses are recorded. By default those with a 2xx status, and 303 See Other,
    /// which redirects from a POST to its result. After an error that changed nothing, the client may
    /// retry.
    #[must_use]
    pub fn record_if(
        mut self,
        predicate: impl Fn(&response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.record_if = Opaque(Arc::new(predicate));
        self
    }

    /// Sets which further headers are recorded. Those that belong to the body always are, since a
    /// replay without them would be another response: every `Content-…` header except
    /// `Content-Length`, and `ETag`, `Last-Modified`, `Location`, `Link`, `Vary`, `Digest` and
    /// `Repr-Digest`.
    ///
    /// A record has the encoding of the first response. A layer that compresses responses for each
    /// client belongs outside of this layer.
    #[must_use]
    pub fn headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.headers = names.into_iter().collect();
        self
    }

    /// Sets the maximum body size of a request with an idempotency key, 64 KiB by default. A larger
    /// request is rejected with 413.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Sets the maximum size of a recorded body, 64 KiB by default. The first caller gets a larger
    /// body whole, streamed or not, and the layer logs a warning. The record then has the status and
    /// the headers that do not describe the body: a repeated request has no second effect, and its
    /// response has `Idempotent-Body-Omitted: true` and no body. A store limits body and headers
    /// together to [`MAX_VALUE_BYTES`](lockstock::MAX_VALUE_BYTES).
    #[must_use]
    pub fn response_limit(mut self, bytes: usize) -> Self {
        self.response_limit = bytes;
        self
    }

    /// If records or claims are unavailable, processes requests anyway, possibly a second time. By
    /// default they are rejected with 503.
    #[must_use]
    pub fn fail_open(mut self) -> Self {
        self.fail_open = true;
        self
    }

    /// Sets the response to rejected requests, in the language that the client prefers. The layer
    /// adds `Retry-After` if the response has none.
    #[must_use]
    pub fn on_rejection(
        mut self,
        respond: impl Fn(Rejection, Language) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.on_rejection = RejectionHandler::new(respond);
        self
    }

    /// Waits until every running handler has finished and its response is recorded. Call it on a
    /// clone of the layer, after the server has stopped accepting requests.
    pub async fn drain(&self) {
        self.tasks.drain().await;
        self.claims.drain().await;
    }
}

impl_layer!(IdempotencyLayer);

impl<S, ReqBody, ResBody> Handle<S, ReqBody, ResBody> for IdempotencyLayer
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqBody: Body<Data: Send, Error: Into<BoxError>> + From<Bytes> + Send + 'static,
    ResBody: Body<Data = Bytes, Error: Send> + Send + 'static,
{
    async fn handle(
        self: Arc<Self>,
        mut inner: S,
        request: Request<ReqBody>,
    ) -> Result<Response<ResponseBody<ResBody>>, S::Error> {
        let language = Language::preferred(request.headers());
        let (mut request, key) = match self.key(request).await {
            Ok((request, Some(key))) => (request, key),
            Ok((request, None)) => {
                return Ok(inner.call(request).await?.map(ResponseBody::inner));
            }
            Err(rejection) => return Ok(self.on_rejection.respond(rejection, language)),
        };
        let claim = match self.next_action(&key).await {
            NextAction::Process(claim) => claim,
            NextAction::Replay(record) => {
                debug!(id = key.id(), "replaying a recorded response");
                return Ok(record.replay());
            }
            NextAction::Reject(rejection) => {
                return Ok(self.on_rejection.respond(rejection, language));
            }
        };
        if self.processes_first {
            request.extensions_mut().insert(self.late_look_up(&key));
        }
        let cancellation = Cancellation::of(&request);
        let handler = self.clone().process(inner, request, key, claim, language);
        self.tasks.run(cancellation, handler).await
    }
}

impl IdempotencyLayer {
    /// Reads the body of a request that has an idempotency key, and returns both.
    async fn key<R>(
        &self,
        request: Request<R>,
    ) -> Result<(Request<R>, Option<RequestKey>), Rejection>
    where
        R: Body<Data: Send, Error: Into<BoxError>> + From<Bytes>,
    {
        if !self.methods.contains(request.method()) {
            return Ok((request, None));
        }
        let key = match idempotency_key(request.headers())? {
            Some(key) => key,
            None if self.required => return Err(Rejection::KeyMissing),
            None => return Ok((request, None)),
        };
        let (mut parts, body) = request.into_parts();
        let body = self.read(body).await?;
        let key = RequestKey {
            caller: (self.caller)(&parts),
            key,
            fingerprint: fingerprint(&parts, &body),
        };
        parts.extensions.insert(key.clone());
        Ok((Request::from_parts(parts, R::from(body)), Some(key)))
    }

    async fn read(
        &self,
        body: impl Body<Data: Send, Error: Into<BoxError>>,
    ) -> Result<Bytes, Rejection> {
        let limit = self.body_limit;
        // A body with an announced length over the limit is not read at all.
        if body.size_hint().lower() > limit as u64 {
            return Err(Rejection::BodyTooLarge { limit });
        }
        match Limited::new(body, limit).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Rejection::BodyTooLarge { limit }),
            Err(error) => Err(Rejection::BodyUnreadable { error }),
        }
    }
}
