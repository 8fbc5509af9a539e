//! Where records are kept: in a store, or wherever an application has its effects.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lockstock::{Cache, MAX_TTL, MIN_TTL, Store};

use super::{RecordedResponse, RequestKey};
use crate::BoxError;
use crate::opaque::Opaque;

/// For how long a record in a store lasts, unless said otherwise.
const TTL: Duration = Duration::from_secs(24 * 3600);

/// Where records are kept.
///
/// Records that are written in the transaction of their effect are there if and only if the
/// effect is. For that a handler takes the [`RequestKey`] from the request's extensions, inserts
/// a [`RecordedResponse`] of what it is about to answer under [`id`](RequestKey::id) where that is unique,
/// and commits both: see [`IdempotencyLayer::transactional`](crate::IdempotencyLayer::transactional). The
/// insertion is what keeps two from happening, whatever becomes of claims, so a handler whose
/// insertion fails because the key is there already rolls back and
/// [answers again](RecordedResponse::replay).
///
/// ```
/// use lockstock_http::{BoxError, RecordedResponse, RecordStore, RequestKey};
/// # struct Database;
/// # impl Database {
/// #     async fn answer(&self, _: String) -> Result<Option<Vec<u8>>, BoxError> { Ok(None) }
/// # }
///
/// struct InTheDatabase(Database);
///
/// impl RecordStore for InTheDatabase {
///     async fn find(&self, key: &RequestKey) -> Result<Option<RecordedResponse>, BoxError> {
///         // SELECT answer FROM answers WHERE id = $1 AND made_at > now() - interval '24 hours'
///         let answer = self.0.answer(key.id()).await?;
///         Ok(answer.map(RecordedResponse::from_bytes).transpose()?)
///     }
/// }
/// # fn layer(database: Database) -> lockstock_http::IdempotencyLayer {
/// lockstock_http::IdempotencyLayer::transactional(InTheDatabase(database))
/// # }
/// ```
pub trait RecordStore: Send + Sync + 'static {
    /// The record under the caller and the key, whichever request it was of. `None` if there is
    /// none or it has expired.
    ///
    /// # Errors
    ///
    /// When that cannot be told.
    fn find(
        &self,
        key: &RequestKey,
    ) -> impl Future<Output = Result<Option<RecordedResponse>, BoxError>> + Send;

    /// Writes the record, after the effect; not called where handlers write it themselves.
    /// After an error it is called again, twice at most.
    ///
    /// # Errors
    ///
    /// When it may not have been written.
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

/// The same behind a pointer, so that the layer has one type.
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

/// Records in a [`Store`], beside the effect: see [`IdempotencyLayer`](crate::IdempotencyLayer) for what
/// they cannot promise.
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
    answers: Cache,
    ttl: Duration,
}

impl LockstockRecordStore {
    /// Records that expire after 24 hours.
    pub fn new(store: &Store) -> Self {
        Self {
            answers: store.cache("idempotency"),
            ttl: TTL,
        }
    }

    /// After how long a record expires: [`MIN_TTL`] to [`MAX_TTL`]. Publish it: a client that
    /// sends the same key later has a second effect.
    ///
    /// # Panics
    ///
    /// If it is out of range.
    #[must_use]
    pub fn expire_after(self, ttl: Duration) -> Self {
        assert!(
            (MIN_TTL..=MAX_TTL).contains(&ttl),
            "a time to live takes {MIN_TTL:?} to {MAX_TTL:?}, not {ttl:?}"
        );
        Self { ttl, ..self }
    }
}

impl RecordStore for LockstockRecordStore {
    async fn find(&self, key: &RequestKey) -> Result<Option<RecordedResponse>, BoxError> {
        let bytes = self.answers.get(key.id()).await?;
        Ok(bytes.map(RecordedResponse::from_bytes).transpose()?)
    }

    async fn save(&self, key: &RequestKey, record: &RecordedResponse) -> Result<(), BoxError> {
        Ok(self
            .answers
            .set(key.id(), record.to_bytes(), self.ttl)
            .await?)
    }
}
