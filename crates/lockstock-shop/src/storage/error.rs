//! Failed calls of a database, and whether a failed write may have been committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::Transaction;
use sqlx::error::ErrorKind;

use crate::batch::Reply;
use crate::failpoint;

/// A call that the database did not carry out, or whose result is unknown.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the database failed: {kind}")]
pub struct StorageError {
    kind: Kind,
    commit_unknown: bool,
}

#[derive(Debug, Clone, thiserror::Error)]
enum Kind {
    /// Shared, because every caller of a failed batch receives it.
    #[error("{0}")]
    Database(Arc<sqlx::Error>),
    #[error("no reply within {0:?}")]
    Timeout(Duration),
    #[error("overloaded: the call did not start in time")]
    Overloaded,
    #[error("conflict: {0}")]
    Conflict(&'static str),
    #[error("bug: {0}")]
    Bug(&'static str),
}

impl StorageError {
    /// Returns whether a write may have been committed: the commit was sent, but not confirmed.
    pub fn commit_unknown(&self) -> bool {
        self.commit_unknown
    }

    /// Returns whether one row of a statement violates a constraint or does not fit its column.
    /// The other rows may be valid.
    pub(super) fn is_row_error(&self) -> bool {
        let Kind::Database(error) = &self.kind else {
            return false;
        };
        let sqlx::Error::Database(error) = &**error else {
            return false;
        };
        let code = error.code().unwrap_or_default();
        // Postgres: data exceptions and violated constraints. SQLite: too big, wrong type.
        let of_postgres = code.len() == 5 && (code.starts_with("22") || code.starts_with("23"));
        of_postgres || matches!(&*code, "18" | "20") || !matches!(error.kind(), ErrorKind::Other)
    }

    /// Returns whether a statement of Postgres gave up waiting for a lock: `lock_not_available`.
    pub(super) fn is_lock_timeout(&self) -> bool {
        let Kind::Database(error) = &self.kind else {
            return false;
        };
        let error = error.as_database_error();
        error.and_then(|error| error.code()).as_deref() == Some("55P03")
    }

    /// Returns whether the connection was unusable, so that another one may work.
    pub(super) fn is_broken_connection(&self) -> bool {
        use std::io::ErrorKind::TimedOut;
        let Kind::Database(error) = &self.kind else {
            return false;
        };
        // After a timeout there is no time for another try.
        matches!(&**error, sqlx::Error::Io(error) if error.kind() != TimedOut)
    }

    /// The call started, but received no reply within `timeout`.
    pub(super) fn timeout(timeout: Duration) -> Self {
        Kind::Timeout(timeout).into()
    }

    /// The call did not start in time: it has no effect.
    pub(super) fn not_started() -> Self {
        Kind::Overloaded.into()
    }

    /// An impossible state, described by `what`.
    pub(super) fn bug(what: &'static str) -> Self {
        Kind::Bug(what).into()
    }

    /// Another transaction keeps the rows locked. The call has no effect.
    pub(super) fn rows_locked() -> Self {
        Kind::Conflict("another transaction keeps the rows locked").into()
    }

    /// Other transactions repeatedly used the same idempotency keys. The call has no effect.
    pub(super) fn key_conflicts() -> Self {
        Kind::Conflict("other requests keep using the same idempotency keys").into()
    }

    /// The record of another request prevented the write and has expired since. The call has no
    /// effect.
    pub(super) fn conflicting_record_expired() -> Self {
        Kind::Conflict("the record under the idempotency key has just expired").into()
    }

    /// The batch of a read ended without a reply: it panicked.
    pub(super) fn read_lost() -> Self {
        Self::bug("a batch ended without a reply")
    }

    /// The batch of a write ended without a reply: it panicked, perhaps after its commit.
    pub(super) fn write_lost() -> Self {
        Self {
            commit_unknown: true,
            ..Self::read_lost()
        }
    }
}

impl From<Kind> for StorageError {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            commit_unknown: false,
        }
    }
}

impl From<sqlx::Error> for StorageError {
    fn from(error: sqlx::Error) -> Self {
        Kind::Database(Arc::new(error)).into()
    }
}

/// The result of every call of the storage.
pub type Result<T> = std::result::Result<T, StorageError>;

/// Converts the reply to a batched write.
pub(super) fn written<T>(reply: Reply<Result<T>>) -> Result<T> {
    match reply {
        Reply::Done(result) => result,
        Reply::NotStarted => Err(StorageError::not_started()),
        Reply::Lost => Err(StorageError::write_lost()),
    }
}

/// Records whether the commit of a transaction was sent: after that, an error leaves the
/// outcome unknown.
#[derive(Clone, Default)]
pub(super) struct CommitTracker(Arc<AtomicBool>);

impl CommitTracker {
    /// Commits a transaction whose writes are complete.
    pub(super) async fn commit<D: sqlx::Database>(
        &self,
        transaction: Transaction<'_, D>,
    ) -> Result<()> {
        failpoint::pause("transaction.written").await;
        self.0.store(true, Ordering::Relaxed);
        transaction.commit().await?;
        failpoint::pause("transaction.committed").await;
        Ok(())
    }

    /// Marks an error of the transaction if its commit was sent.
    pub(super) fn mark(&self, mut error: StorageError) -> StorageError {
        error.commit_unknown |= self.0.load(Ordering::Relaxed);
        error
    }
}
