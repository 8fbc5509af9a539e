//! Stores of recorded responses: a [`Store`], or the database of an application.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lockstock::{Cache, MAX_TTL, MIN_TTL, Raw, Store};

use super::{RecordedResponse, RequestKey};
use crate::BoxError;
use crate::opaque::Opaque;

/// Default time after which a record in a store expires.
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);

/// Store of recorded responses.
///
/// A record that is written in the transaction of its effect exists if and only if the effect does.
/// For that, a handler takes the [`RequestKey`] from the extensions of the request, inserts the
/// [`RecordedResponse`] under [`id`](RequestKey::id) into a unique column, and commits both: see
/// [`IdempotencyLayer::transactional`](crate::IdempotencyLayer::transactional). The unique column
/// prevents a second effect even if a claim is lost. If the insertion fails because the id
/// exists, the handler rolls back and [replays](RecordedResponse::replay) the recorded response.
///
/// ```
/// use lockstock_http::{BoxError, RecordedResponse, RecordStore, RequestKey};
/// # struct Database;
/// # impl Database {
/// #     async fn response(&self, _: String) -> Result<Option<Vec<u8>>, BoxError> { Ok(None) }
/// # }
///
/// struct Records(Database);
///
/// impl RecordStore for Records {
///     async fn find(&self, key: &RequestKey) -> Result<Option<RecordedResponse>, BoxError> {
///         // SELECT response FROM responses WHERE id = $1 AND created_at > now() - interval '24 hours'
///         let response = self.0.response(key.id()).await?;
///         Ok(response.map(RecordedResponse::from_bytes).transpose()?)
///     }
/// }
/// # fn layer(database: Database) -> lockstock_http::IdempotencyLayer {
/// lockstock_http::IdempotencyLayer::transactional(Records(database))
/// # }
/// ```
pub trait RecordStore: Send + Sync + 'static {
    /// Returns the record of the caller and the key, for any fingerprint. Returns `None` if there is
    /// no record or it has expired.
    ///
    /// # Errors
    ///
    /// If the record cannot be read.
    fn find(
        &self,
        key: &RequestKey,
    ) -> impl Future<Output = Result<Option<RecordedResponse>, BoxError>> + Send;

    /// Writes the record after the effect. Never called by a
    /// [transactional](crate::IdempotencyLayer::transactional) layer. The layer retries after an
    /// error, at most twice.
    ///
    /// # Errors
    ///
    /// If the record may not have been written.
    fn save(
        &self,
        key: &RequestKey,
        record: &RecordedResponse,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = (key, record);
        async { Ok(()) }
    }
}

impl<R: RecordStore> RecordStore for Arc<R> {
    fn find(
        &self,
        key: &RequestKey,
    ) -> impl Future<Output = Result<Option<RecordedResponse>, BoxError>> + Send {
        R::find(self, key)
    }

    fn save(
        &self,
        key: &RequestKey,
        record: &RecordedResponse,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        R::save(self, key, record)
    }
}

/// Object-safe form of [`RecordStore`], which gives the layer one type.
pub(super) trait DynRecordStore: Send + Sync {
    fn find<'a>(
        &'a self,
        key: &'a RequestKey,
    ) -> BoxFuture<'a, Result<Option<RecordedResponse>, BoxError>>;

    fn save<'a>(
        &'a self,
        key: &'a RequestKey,
        record: &'a RecordedResponse,
    ) -> BoxFuture<'a, Result<(), BoxError>>;
}

pub(super) type SharedRecordStore = Opaque<dyn DynRecordStore>;

impl<R: RecordStore> DynRecordStore for R {
    fn find<'a>(
        &'a self,
        key: &'a RequestKey,
    ) -> BoxFuture<'a, Result<Option<RecordedResponse>, BoxError>> {
        RecordStore::find(self, key).boxed()
    }

    fn save<'a>(
        &'a self,
        key: &'a RequestKey,
        record: &'a RecordedResponse,
    ) -> BoxFuture<'a, Result<(), BoxError>> {
        RecordStore::save(self, key, record).boxed()
    }
}

/// Record store in a [`Store`]. Records are written after the effect: see
/// [`IdempotencyLayer`](crate::IdempotencyLayer) for the consequences.
///
/// ```
/// use std::time::Duration;
/// use lockstock::Store;
/// use lockstock_http::{IdempotencyLayer, LockstockRecordStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = Store::memory();
/// let week = LockstockRecordStore::new(&store).expire_after(Duration::from_secs(7 * 24 * 3600));
/// let layer = IdempotencyLayer::new(week).claim_in(&store, Duration::from_secs(30));
/// # let _ = layer;
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct LockstockRecordStore {
    records: Cache<Bytes, Raw>,
    ttl: Duration,
}

impl LockstockRecordStore {
    /// Creates a record store whose records expire after 24 hours.
    pub fn new(store: &Store) -> Self {
        Self {
            records: store.cache("idempotency").codec(Raw),
            ttl: DEFAULT_TTL,
        }
    }

    /// Sets the time after which a record expires, from [`MIN_TTL`] to [`MAX_TTL`]. Document it: a
    /// retry after that time has a second effect.
    ///
    /// # Panics
    ///
    /// If the time is out of range.
    #[must_use]
    #[track_caller]
    pub fn expire_after(self, ttl: Duration) -> Self {
        assert!(
            (MIN_TTL..=MAX_TTL).contains(&ttl),
            "a time to live must be between {MIN_TTL:?} and {MAX_TTL:?}, not {ttl:?}"
        );
        Self { ttl, ..self }
    }
}

impl RecordStore for LockstockRecordStore {
    async fn find(&self, key: &RequestKey) -> Result<Option<RecordedResponse>, BoxError> {
        let bytes = self.records.get(key.id()).await?;
        Ok(bytes.map(RecordedResponse::from_bytes).transpose()?)
    }

    async fn save(&self, key: &RequestKey, record: &RecordedResponse) -> Result<(), BoxError> {
        Ok(self
            .records
            .set(key.id(), &record.to_bytes(), self.ttl)
            .await?)
    }
}
