//! Idempotency keys: on every POST and PATCH of the shop (and PUT, which shares PATCH's path).
//! What a request did and what it was answered are one transaction, so the same key finds one
//! effect or none, never two.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lockstock::Store;
use lockstock_http::{BoxError, IdempotencyLayer, RecordStore, RecordedResponse, RequestKey};
use serde::Serialize;
use tokio::time::{Instant, interval_at, sleep};
use tracing::{debug, warn};

use crate::drf::body;
use crate::error::Refusal;
use crate::http::request_context;
use crate::state::Shop;
use crate::storage::{IdempotencyKey, IdempotentWrite, OrderOutcome, ResponseRecord, Storage};

/// A request that is carried out under a lock is claimed in the store of the locks, so that
/// other servers know that it is under way. If its server dies, for so long.
const CLAIM: Duration = Duration::from_secs(5);

/// How often answers whose time is over are looked for, how many are swept at once, and the
/// pause between.
const SWEEP: Duration = Duration::from_secs(60);
const MOST_SWEPT: i64 = 500;
const BETWEEN: Duration = Duration::from_millis(50);

const JSON: HeaderValue = HeaderValue::from_static("application/json");

const HEADER: &str = "idempotency-key";

/// The answers that are in the database.
struct InTheDatabase(Arc<dyn Storage>);

impl RecordStore for InTheDatabase {
    async fn find(&self, key: &RequestKey) -> Result<Option<RecordedResponse>, BoxError> {
        let recorded = self.0.find_record(&stored(key)).await?;
        Ok(recorded.map(record).transpose()?)
    }
}

/// The layers of the two kinds of requests.
pub(crate) struct Keys {
    /// The database alone decides.
    pub(crate) of_orders: IdempotencyLayer<Body>,
    /// The store of the locks is needed in any case.
    pub(crate) of_changes: IdempotencyLayer<Body>,
}

impl Keys {
    pub(crate) fn new(storage: Arc<dyn Storage>, store: &Store, body_limit: usize) -> Self {
        let layer = || {
            IdempotencyLayer::transactional(InTheDatabase(storage.clone()))
                .methods([Method::POST, Method::PUT, Method::PATCH])
                .caller(|parts| request_context::caller(&parts.headers).to_string())
                .body_limit(body_limit)
                .on_rejection(|refused| Refusal::from(refused).into_response())
        };
        Self {
            of_orders: layer(),
            of_changes: layer().claim_in(store, CLAIM),
        }
    }

    /// Waits until every request that has begun is finished.
    pub(crate) async fn drain(&self) {
        self.of_orders.drain().await;
        self.of_changes.drain().await;
    }
}

/// Forgets the answers whose time is over, for as long as it runs: in small steps, so that
/// nobody's write waits for it.
pub(crate) async fn sweep(storage: Arc<dyn Storage>) {
    let mut rounds = interval_at(Instant::now() + SWEEP, SWEEP);
    loop {
        rounds.tick().await;
        loop {
            match storage.delete_expired_records(MOST_SWEPT).await {
                Ok(0) => break,
                Ok(count) => debug!(count, "forgot answers to idempotency keys"),
                Err(why) => {
                    warn!(%why, "answers to idempotency keys could not be swept; later again");
                    break;
                }
            }
            sleep(BETWEEN).await;
        }
    }
}

/// Reads the body of a request that has a key, within our limits, before the key's layer does.
pub(crate) async fn collected(
    State(shop): State<Shop>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    if !request.headers().contains_key(HEADER) {
        return Ok(next.run(request).await);
    }
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, shop.settings.body).await?;
    Ok(next.run(Request::from_parts(parts, bytes.into())).await)
}

/// The key that a request came with, if it did.
pub(crate) type Given = Option<Extension<RequestKey>>;

/// What is done once under that key. `answer` is what is answered when it had an effect.
pub(crate) fn once<T>(
    key: &Given,
    answer: fn(&T) -> Option<Vec<u8>>,
) -> Option<IdempotentWrite<T>> {
    key.as_ref().map(|Extension(key)| IdempotentWrite {
        key: stored(key),
        fingerprint: key.fingerprint,
        response: answer,
    })
}

/// An answer as it is recorded: of which request is noted beside it.
pub(crate) fn bytes(answer: &RecordedResponse) -> Vec<u8> {
    answer.to_bytes().into()
}

/// The answer to an order: what `answer` makes of what it did, or a refusal.
pub(crate) fn answered(
    key: &Given,
    outcome: OrderOutcome,
    answer: fn(&OrderOutcome) -> Option<RecordedResponse>,
) -> Result<Response, Refusal> {
    if let OrderOutcome::AlreadyRecorded(recorded) = outcome {
        return again(key, recorded);
    }
    let answer = answer(&outcome).ok_or_else(|| Refusal::from(outcome))?;
    Ok(answer.into_response())
}

/// The answer to a request whose key was used while it was under way.
pub(crate) fn again(key: &Given, recorded: ResponseRecord) -> Result<Response, Refusal> {
    let fits = |Extension(key): &Extension<RequestKey>| key.fingerprint == recorded.fingerprint;
    if !key.as_ref().is_some_and(fits) {
        return Err(Refusal::key_reused());
    }
    record(recorded)
        .map(RecordedResponse::replay)
        .map_err(|_| Refusal::defect())
}

fn stored(key: &RequestKey) -> IdempotencyKey {
    IdempotencyKey {
        caller: key.caller.as_str().into(),
        key: key.key.as_str().into(),
    }
}

fn record(recorded: ResponseRecord) -> Result<RecordedResponse, lockstock_http::Malformed> {
    let record = RecordedResponse::from_bytes(recorded.response)?;
    let fingerprint = recorded.fingerprint;
    Ok(RecordedResponse {
        fingerprint,
        ..record
    })
}

/// The answer that shows `body`.
pub(crate) fn shown(status: StatusCode, body: &impl Serialize) -> RecordedResponse {
    RecordedResponse {
        // Of which request is noted beside it.
        fingerprint: [0; 32],
        status,
        headers: vec![(CONTENT_TYPE, JSON)],
        // Our own shapes have nothing that JSON has not.
        body: serde_json::to_vec(body).unwrap_or_default().into(),
    }
}

/// The answer that shows what has been created, and where it is.
pub(crate) fn created(place: String, body: &impl Serialize) -> RecordedResponse {
    let answer = shown(StatusCode::CREATED, body);
    match HeaderValue::try_from(place) {
        Ok(place) => answer.header(LOCATION, place),
        // Numbers and hexadecimal digits always are a header value.
        Err(_) => answer,
    }
}
