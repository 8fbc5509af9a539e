//! Idempotency keys of POST and PATCH requests, and of PUT, which shares its path with PATCH.
//!
//! The effect of a request and its recorded response are written in one transaction. The same
//! key therefore finds one effect or none, never two.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use lockstock_http::{
    BoxError, IdempotencyLayer, RecordStore, RecordedResponse, RequestKey, idempotency_key,
};
use serde::Serialize;
use tokio::time::{Instant, interval_at, sleep};
use tracing::{debug, warn};

use crate::drf::body::{self, BodyUse};
use crate::error::ApiError;
use crate::health::Health;
use crate::http::request_context::caller;
use crate::state::AppState;
use crate::storage::{IdempotencyKey, IdempotentWrite, OrderOutcome, ResponseRecord, Storage};

/// How often expired records are deleted, how many at a time, and the pause in between.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
const SWEEP_BATCH: i64 = 500;
const SWEEP_PAUSE: Duration = Duration::from_millis(50);

const METHODS: [Method; 3] = [Method::POST, Method::PUT, Method::PATCH];

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The key of a request, if it was sent with one.
pub(crate) type MaybeKey = Option<Extension<RequestKey>>;

/// Reads the records that the storage writes.
struct StoredRecords(Arc<dyn Storage>);

impl RecordStore for StoredRecords {
    async fn find(&self, key: &RequestKey) -> Result<Option<RecordedResponse>, BoxError> {
        let recorded = self.0.find_record(&storage_key(key)).await?;
        Ok(recorded.map(parse_record).transpose()?)
    }
}

/// Builds the layer. It claims keys in this process only: between servers, the transaction that writes
/// the record decides, and an update waits for the lock of its product first. Every write looks for the
/// record of its key, so the layer need not look first.
pub(crate) fn layer(
    storage: &Arc<dyn Storage>,
    store_health: &Arc<Health>,
    body_limit: usize,
) -> IdempotencyLayer {
    IdempotencyLayer::transactional(StoredRecords(storage.clone()))
        .process_first()
        .methods(METHODS)
        .caller(|parts| caller(parts).to_string())
        .body_limit(body_limit)
        .on_rejection(ApiError::of_layer_on(store_health.clone()))
}

/// Deletes expired records until it is dropped. Works in small steps, so that no write waits
/// long for it.
pub(crate) async fn sweep(storage: Arc<dyn Storage>) {
    let mut rounds = interval_at(Instant::now() + SWEEP_INTERVAL, SWEEP_INTERVAL);
    loop {
        rounds.tick().await;
        loop {
            match storage.delete_expired_records(SWEEP_BATCH).await {
                Ok(0) => break,
                Ok(count) => debug!(count, "deleted expired idempotency records"),
                Err(why) => {
                    warn!(%why, "cannot delete expired idempotency records; trying again later");
                    break;
                }
            }
            sleep(SWEEP_PAUSE).await;
        }
    }
}

/// Notes what is known when a request with a key arrives, and reads its body, within the limits of
/// the server, before the idempotency layer reads it to compute the fingerprint. What the head
/// decides is rejected before, a malformed id in the path included.
pub(crate) async fn buffer_body<Path>(
    State(state): State<AppState>,
    _: Path,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    buffer(&state, BodyUse::Fields, request, next).await
}

/// Does the same where the fields of the body are not used.
pub(crate) async fn buffer_ignored_body<Path>(
    State(state): State<AppState>,
    _: Path,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    buffer(&state, BodyUse::Ignored, request, next).await
}

async fn buffer(
    state: &AppState,
    body_use: BodyUse,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    // The key of another method is ignored.
    if !METHODS.contains(request.method()) || idempotency_key(request.headers())?.is_none() {
        return Ok(next.run(request).await);
    }
    // First: what commits while the body is read is not earlier than the request.
    request
        .extensions_mut()
        .insert(state.storage.known_commits());
    let (parts, body) = request.into_parts();
    let limits = state.settings.body;
    let bytes = body::read(&parts.headers, body, body_use, limits).await?;
    Ok(next.run(Request::from_parts(parts, bytes.into())).await)
}

/// Makes a write idempotent if the request has a key. `response` returns the bytes to record,
/// or `None` if the write had no effect.
pub(crate) fn idempotent_write<T>(
    key: &MaybeKey,
    response: fn(&T) -> Option<Vec<u8>>,
) -> Option<IdempotentWrite<T>> {
    key.as_ref().map(|Extension(key)| IdempotentWrite {
        key: storage_key(key),
        fingerprint: key.fingerprint,
        response,
    })
}

/// Returns the response to an order: the recorded one if the key was used before, the one that
/// `response` builds if the order had an effect, and otherwise an error.
pub(crate) fn order_response(
    key: &MaybeKey,
    outcome: OrderOutcome,
    response: fn(&OrderOutcome) -> Option<RecordedResponse>,
) -> Result<Response, ApiError> {
    if let OrderOutcome::AlreadyRecorded(recorded) = outcome {
        return replay(key, recorded);
    }
    let response = response(&outcome).ok_or_else(|| ApiError::from(outcome))?;
    Ok(response.into_response())
}

/// Returns the recorded response to a request whose key was used while it was in progress.
/// Fails if the key was used with a different request.
pub(crate) fn replay(key: &MaybeKey, recorded: ResponseRecord) -> Result<Response, ApiError> {
    let is_same = |Extension(key): &Extension<RequestKey>| key.fingerprint == recorded.fingerprint;
    if !key.as_ref().is_some_and(is_same) {
        return Err(ApiError::key_reused());
    }
    parse_record(recorded)
        .map(RecordedResponse::replay)
        .map_err(|_| ApiError::internal())
}

fn storage_key(key: &RequestKey) -> IdempotencyKey {
    IdempotencyKey {
        caller: key.caller.as_str().into(),
        key: key.key.as_str().into(),
    }
}

fn parse_record(recorded: ResponseRecord) -> Result<RecordedResponse, lockstock_http::Malformed> {
    let record = RecordedResponse::from_bytes(recorded.response)?;
    let fingerprint = recorded.fingerprint;
    Ok(RecordedResponse {
        fingerprint,
        ..record
    })
}

/// Builds a response with a JSON body that can be recorded.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> RecordedResponse {
    RecordedResponse {
        // The storage keeps the fingerprint in a column of its own.
        fingerprint: [0; 32],
        status,
        headers: vec![(CONTENT_TYPE, JSON)],
        // Our response types have only string keys and cannot fail to serialize.
        body: serde_json::to_vec(body).unwrap_or_default().into(),
    }
}

/// Builds a 201 response with the location of the new resource.
pub(crate) fn created(location: String, body: &impl Serialize) -> RecordedResponse {
    let response = json(StatusCode::CREATED, body);
    match HeaderValue::try_from(location) {
        Ok(location) => response.header(LOCATION, location),
        // Digits and hyphens always are a header value.
        Err(_) => response,
    }
}
