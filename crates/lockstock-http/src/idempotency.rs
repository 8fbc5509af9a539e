//! `Idempotency-Key`: a request that is sent again is answered again, not carried out again.
//!
//! Guarantees: while a request is carried out no other with its key is, in this process or, with
//! `claim_in`, in any that uses the store; what has begun is finished and recorded though the
//! client is gone; keys and records belong to a caller and never show across callers. Case by
//! case: see [`IdempotencyLayer`].
//!
//! **What a record beside the effect cannot promise.** Effect and record are two writes. A
//! process that dies between them leaves an effect without a record, and when the claim's lease
//! has ended the same key has a second effect. The same if the record cannot be written, or the
//! store loses it. Only a record that is written in the transaction of the effect is there if
//! and only if the effect is: that is what [`RecordStore`] is for.

mod claim;
mod header;
mod key;
mod multipart;
mod process;
mod record;
mod store;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, LOCATION};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, response};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use lockstock::Store;
use tower_service::Service;
use tracing::{debug, warn};

use self::claim::{Claim, Claims};
use self::header::Found;
pub use self::key::RequestKey;
use self::key::{credentials, fingerprint};
pub use self::record::{Malformed, RecordedResponse};
use self::store::SharedRecordStore;
pub use self::store::{LockstockRecordStore, RecordStore};
use crate::BoxError;
use crate::admission::checked_lease;
use crate::detached::{Cancellation, DetachedTasks};
use crate::middleware::Handle;
use crate::opaque::{Opaque, ResponsePredicate};
use crate::rejection::{Rejection, RejectionHandler};

/// The largest request and the largest answer, unless said otherwise, in bytes.
const LIMIT: usize = 64 * 1024;
/// How long a claim in the store lasts when its process has died, unless said otherwise.
const LEASE: Duration = Duration::from_secs(30);
/// When somebody whose request is under way should ask for the result.
const RETRY_AFTER: Duration = Duration::from_secs(1);

const TRUE: HeaderValue = HeaderValue::from_static("true");

/// A layer: a request with an `Idempotency-Key` that is sent again is answered again, not
/// carried out again.
///
/// | the key | answer |
/// |---|---|
/// | is new | the request is carried out, and its answer recorded if it is a success |
/// | again, with the same request | the recorded status, body and headers, and `Idempotent-Replayed: true` |
/// | again, with another method, path, query, content type or body | 422 `key_reused` |
/// | is being carried out | 409 `in_flight` with `Retry-After` |
/// | after an answer that is not recorded (by default any but 2xx), or an expired record | as new |
/// | malformed, over 255 characters, or there are two | 400 `key_malformed` |
/// | missing | not our business, or 400 `key_missing` with [`require`](Self::require) |
///
/// The key is sent bare or as a string of [RFC 8941](https://www.rfc-editor.org/rfc/rfc8941):
/// `abc` and `"abc"` are one key. Two `multipart` bodies are the same if their parts are,
/// whatever is drawn between them.
///
/// The request's body is read whole before the handler runs, at most
/// [`body_limit`](Self::body_limit) bytes; how long a slow client may take is for a layer outside
/// of this one to say. The handler runs on a task of its own, so it finishes though the client
/// is gone, and the key tells its result. An answer that is recorded is read whole before it is
/// sent: a stream of events is nothing for this layer.
///
/// # What a record beside the effect cannot promise
///
/// [`in_store`](Self::in_store) writes the record after the effect. A process that dies between
/// the two leaves an effect without a record, and when its claim's lease has ended the same key
/// has a second effect. The same if the record cannot be written, or the store loses it. Only a
/// record that is written in the transaction of the effect is there if and only if the effect
/// is: see [`RecordStore`].
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
/// let again = app.oneshot(pay()).await.unwrap();
/// assert_eq!(again.status(), first.status());
/// assert_eq!(again.headers()["idempotent-replayed"], "true");
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct IdempotencyLayer {
    records: SharedRecordStore,
    transactional: bool,
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
    work: DetachedTasks,
}

impl IdempotencyLayer {
    /// Records and claims in `store`: records for 24 hours, claims with a lease of 30 s. For
    /// other times see [`LockstockRecordStore`] and [`claim_in`](Self::claim_in).
    pub fn in_store(store: &Store) -> Self {
        Self::new(LockstockRecordStore::new(store)).claim_in(store, LEASE)
    }

    /// Over records of your own. Claims are in this process only, unless
    /// [`claim_in`](Self::claim_in) says otherwise.
    pub fn new(records: impl RecordStore) -> Self {
        Self {
            records: Opaque(Arc::new(records)),
            transactional: false,
            claims: Claims::default(),
            methods: [Method::POST, Method::PATCH].into(),
            required: false,
            caller: Opaque(Arc::new(credentials)),
            record_if: Opaque(Arc::new(|response| response.status.is_success())),
            headers: [CONTENT_TYPE, ETAG, LOCATION].into(),
            body_limit: LIMIT,
            response_limit: LIMIT,
            fail_open: false,
            on_rejection: RejectionHandler::default(),
            work: DetachedTasks::default(),
        }
    }

    /// Over records that handlers write themselves, in the transaction of their effect: they are
    /// there if and only if the effect is. See [`RecordStore`]. The layer looks for them, and never
    /// [saves](RecordStore::save) one.
    pub fn transactional(records: impl RecordStore) -> Self {
        Self {
            transactional: true,
            ..Self::new(records)
        }
    }

    /// Claims the key in `store` too, so that other processes hear 409 while the request is
    /// carried out. The claim is the lock `idempotency:ID`, with [`RequestKey::id`]. It is renewed
    /// for at most an hour; if the process dies it ends with its lease, [`MIN_LEASE`](lockstock::MIN_LEASE) to
    /// [`MAX_LEASE`](lockstock::MAX_LEASE).
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

    /// Which methods have keys: POST and PATCH, unless said otherwise. The header of any other
    /// is ignored.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = methods.into_iter().collect();
        self
    }

    /// Refuses requests without a key, with 400.
    #[must_use]
    pub fn require(mut self) -> Self {
        self.required = true;
        self
    }

    /// Whose key it is. By default a hash of the headers `Authorization` and `X-API-Key`;
    /// without either all callers are one. Say otherwise where callers are told apart by
    /// something else, a cookie or a certificate; where their tokens change, since a new token
    /// is a new caller; or where services share a store.
    #[must_use]
    pub fn caller(mut self, of: impl Fn(&Parts) -> String + Send + Sync + 'static) -> Self {
        self.caller = Opaque(Arc::new(of));
        self
    }

    /// Which answers are recorded. By default those with a status of 2xx: after a refusal that
    /// changed nothing the client may try again.
    #[must_use]
    pub fn record_if(
        mut self,
        predicate: impl Fn(&response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.record_if = Opaque(Arc::new(predicate));
        self
    }

    /// Which headers are recorded. By default `Content-Type`, `ETag` and `Location`.
    #[must_use]
    pub fn headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.headers = names.into_iter().collect();
        self
    }

    /// How large a request with a key may be, in bytes: 64 KiB, unless said otherwise. A larger
    /// one is refused with 413.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// How large a body is recorded, in bytes: 64 KiB, unless said otherwise. Of a larger answer
    /// status and headers are recorded, without `Content-Type`, and it is answered again with
    /// `Idempotent-Body-Omitted: true` and no body. So is the first answer if its body does not
    /// say how large it is before it is read. A store takes no more than
    /// [`MAX_VALUE_BYTES`](lockstock::MAX_VALUE_BYTES), with the headers.
    #[must_use]
    pub fn response_limit(mut self, bytes: usize) -> Self {
        self.response_limit = bytes;
        self
    }

    /// When records or claims are unavailable, carries requests out all the same, perhaps a
    /// second time. By default they are refused with 503.
    #[must_use]
    pub fn fail_open(mut self) -> Self {
        self.fail_open = true;
        self
    }

    /// How on_rejection are told. `Retry-After` is added if the response has none.
    #[must_use]
    pub fn on_rejection(
        mut self,
        respond: impl Fn(Rejection) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.on_rejection = RejectionHandler::new(respond);
        self
    }

    /// Waits until every handler that has begun is finished and its answer recorded: for a
    /// clone of the layer, after the server has stopped to accept requests.
    pub async fn drain(&self) {
        self.work.drain().await;
        self.claims.drain().await;
    }
}

impl<S, ReqBody, ResBody> Handle<S, ReqBody> for IdempotencyLayer
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqBody: Body<Data: Send, Error: Into<BoxError>> + From<Bytes> + Send + 'static,
    ResBody: Body<Data: Send, Error: Into<BoxError>> + From<Bytes> + Send + 'static,
{
    async fn handle(
        self: Arc<Self>,
        mut inner: S,
        request: Request<ReqBody>,
    ) -> Result<Response<ResBody>, S::Error> {
        let rules = self;
        let (request, key) = match rules.key(request).await {
            Ok((request, Some(key))) => (request, key),
            Ok((request, None)) => return inner.call(request).await,
            Err(refused) => return Ok(rules.on_rejection.respond(refused)),
        };
        let claim = match rules.next(&key).await {
            NextAction::Process(claim) => claim,
            NextAction::Replay(record) => {
                debug!(id = key.id(), "answered again");
                return Ok(record.replay());
            }
            NextAction::Reject(refused) => return Ok(rules.on_rejection.respond(refused)),
        };
        let stop = Cancellation::of(&request);
        let carried_out = rules.clone().process(inner, request, key, claim);
        rules.work.run(stop, carried_out).await
    }
}

/// What is to be done with a request.
enum NextAction {
    Process(Claim),
    Replay(RecordedResponse),
    Reject(Rejection),
}

impl IdempotencyLayer {
    /// The request's key, if it is one that has a key. Reads its body.
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
        let key = match header::find(request.headers()) {
            Found::Key(key) => key,
            Found::Malformed => return Err(Rejection::KeyMalformed),
            Found::Nothing if self.required => return Err(Rejection::KeyMissing),
            Found::Nothing => return Ok((request, None)),
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
        // Not begun to be read when its length is announced.
        if body.size_hint().lower() > limit as u64 {
            return Err(Rejection::BodyTooLarge { limit });
        }
        match Limited::new(body, limit).collect().await {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Rejection::BodyTooLarge { limit }),
            Err(error) => Err(Rejection::BodyUnreadable { error }),
        }
    }

    async fn next(&self, key: &RequestKey) -> NextAction {
        let in_flight = || {
            NextAction::Reject(Rejection::InFlight {
                retry_after: RETRY_AFTER,
            })
        };
        if let Some(next) = self.found(key).await {
            return next;
        }
        let Some(mut claim) = self.claims.claim(&key.id()) else {
            return in_flight();
        };
        match claim.everywhere().await {
            Ok(true) => {}
            Ok(false) => return in_flight(),
            Err(why) if self.fail_open => warn!(%why, "carried out without a claim"),
            Err(why) => {
                warn!(%why, "no claim could be had");
                let error = why.into();
                return NextAction::Reject(Rejection::StoreUnavailable { error });
            }
        }
        if self.transactional {
            // Should somebody have finished since we looked, the handler will find the record.
            return NextAction::Process(claim);
        }
        // Whoever had the claim may have finished since we looked.
        match self.found(key).await {
            Some(next) => {
                claim.release().await;
                next
            }
            None => NextAction::Process(claim),
        }
    }

    /// What the record says is to be done, if there is one.
    async fn found(&self, key: &RequestKey) -> Option<NextAction> {
        match self.records.find(key).await {
            Ok(Some(record)) if record.fingerprint == key.fingerprint => {
                Some(NextAction::Replay(record))
            }
            Ok(Some(_)) => Some(NextAction::Reject(Rejection::KeyReused)),
            Ok(None) => None,
            Err(why) if self.fail_open => {
                warn!(why, "carried out without looking for a record");
                None
            }
            Err(error) => {
                warn!(why = error, "a record could not be looked for");
                Some(NextAction::Reject(Rejection::StoreUnavailable { error }))
            }
        }
    }
}
