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
use lockstock_http::{BoxError, Idempotency, Record, Records, RequestKey};
use serde::Serialize;
use tokio::time::{Instant, interval_at, sleep};
use tracing::{debug, warn};

use crate::drf::body;
use crate::error::ApiError;
use crate::http::request_context;
use crate::state::AppState;
use crate::storage::{Key, Once, Outcome, Recorded, Storage};

/// A request that is carried out under a lock is claimed in the store of the locks, so that
/// other servers know that it is under way. If its server dies, for so long.
const CLAIM_LEASE: Duration = Duration::from_secs(5);

/// How often answers whose time is over are looked for, how many are swept at once, and the
/// pause between.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
const SWEEP_BATCH: i64 = 500;
const SWEEP_PAUSE: Duration = Duration::from_millis(50);

const JSON: HeaderValue = HeaderValue::from_static("application/json");

const HEADER: &str = "idempotency-key";

/// The answers that are in the database.
struct DatabaseRecords(Arc<dyn Storage>);

impl Records for DatabaseRecords {
    async fn find(&self, key: &RequestKey) -> Result<Option<Record>, BoxError> {
        let recorded = self.0.recorded(&storage_key(key)).await?;
        Ok(recorded.map(parse_record).transpose()?)
    }
}

/// The layers of the two kinds of requests.
pub(crate) struct IdempotencyLayers {
    /// The database alone decides.
    pub(crate) orders: Idempotency<Body>,
    /// The store of the locks is needed in any case.
    pub(crate) updates: Idempotency<Body>,
}

impl IdempotencyLayers {
    pub(crate) fn new(storage: Arc<dyn Storage>, store: &Store, body_limit: usize) -> Self {
        let layer = || {
            Idempotency::with_effect(DatabaseRecords(storage.clone()))
                .methods([Method::POST, Method::PUT, Method::PATCH])
                .caller(|parts| request_context::caller(&parts.headers).to_string())
                .body_limit(body_limit)
                .refuse(|refused| ApiError::from(refused).into_response())
        };
        Self {
            orders: layer(),
            updates: layer().claim_in(store, CLAIM_LEASE),
        }
    }

    /// Waits until every request that has begun is finished.
    pub(crate) async fn drain(&self) {
        self.orders.finished().await;
        self.updates.finished().await;
    }
}

/// Forgets the answers whose time is over, for as long as it runs: in small steps, so that
/// nobody's write waits for it.
pub(crate) async fn sweep(storage: Arc<dyn Storage>) {
    let mut rounds = interval_at(Instant::now() + SWEEP_INTERVAL, SWEEP_INTERVAL);
    loop {
        rounds.tick().await;
        loop {
            match storage.forget(SWEEP_BATCH).await {
                Ok(0) => break,
                Ok(count) => debug!(count, "forgot answers to idempotency keys"),
                Err(why) => {
                    warn!(%why, "answers to idempotency keys could not be swept; later again");
                    break;
                }
            }
            sleep(SWEEP_PAUSE).await;
        }
    }
}

/// Reads the body of a request that has a key, within our limits, before the key's layer does.
pub(crate) async fn buffer_body(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if !request.headers().contains_key(HEADER) {
        return Ok(next.run(request).await);
    }
    let (parts, body) = request.into_parts();
    let bytes = body::read(&parts.headers, body, state.settings.body).await?;
    Ok(next.run(Request::from_parts(parts, bytes.into())).await)
}

/// The key that a request came with, if it did.
pub(crate) type MaybeKey = Option<Extension<RequestKey>>;

/// What is done once under that key. `answer` is what is answered when it had an effect.
pub(crate) fn idempotent_write<T>(
    key: &MaybeKey,
    answer: fn(&T) -> Option<Vec<u8>>,
) -> Option<Once<T>> {
    key.as_ref().map(|Extension(key)| Once {
        key: storage_key(key),
        fingerprint: key.fingerprint,
        answer,
    })
}

/// An answer as it is recorded: of which request is noted beside it.
pub(crate) fn to_bytes(answer: &Record) -> Vec<u8> {
    answer.to_bytes().into()
}

/// The answer to an order: what `answer` makes of what it did, or a refusal.
pub(crate) fn order_response(
    key: &MaybeKey,
    outcome: Outcome,
    answer: fn(&Outcome) -> Option<Record>,
) -> Result<Response, ApiError> {
    if let Outcome::Recorded(recorded) = outcome {
        return replay(key, recorded);
    }
    let answer = answer(&outcome).ok_or_else(|| ApiError::from(outcome))?;
    Ok(answer.into_response())
}

/// The answer to a request whose key was used while it was under way.
pub(crate) fn replay(key: &MaybeKey, recorded: Recorded) -> Result<Response, ApiError> {
    let fits = |Extension(key): &Extension<RequestKey>| key.fingerprint == recorded.fingerprint;
    if !key.as_ref().is_some_and(fits) {
        return Err(ApiError::key_reused());
    }
    parse_record(recorded)
        .map(Record::answer_again)
        .map_err(|_| ApiError::internal())
}

fn storage_key(key: &RequestKey) -> Key {
    Key {
        caller: key.caller.as_str().into(),
        key: key.key.as_str().into(),
    }
}

fn parse_record(recorded: Recorded) -> Result<Record, lockstock_http::Malformed> {
    let record = Record::from_bytes(recorded.answer)?;
    let fingerprint = recorded.fingerprint;
    Ok(Record {
        fingerprint,
        ..record
    })
}

/// The answer that shows `body`.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Record {
    Record {
        // Of which request is noted beside it.
        fingerprint: [0; 32],
        status,
        headers: vec![(CONTENT_TYPE, JSON)],
        // Our own shapes have nothing that JSON has not.
        body: serde_json::to_vec(body).unwrap_or_default().into(),
    }
}

/// The answer that shows what has been created, and where it is.
pub(crate) fn created(place: String, body: &impl Serialize) -> Record {
    let answer = json(StatusCode::CREATED, body);
    match HeaderValue::try_from(place) {
        Ok(place) => answer.header(LOCATION, place),
        // Numbers and hexadecimal digits always are a header value.
        Err(_) => answer,
    }
}
