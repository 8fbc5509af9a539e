//! Failed calls of a database, and whether a failed write may have been committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::Transaction;
use sqlx::error::ErrorKind;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::batch::Reply;
use crate::failpoint;
use crate::health::Condition;

/// A call that the database did not carry out, or whose result is unknown.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the database failed: {kind}")]
pub struct StorageError {
    kind: Kind,
    effect: Effect,
}

/// What a failed call has left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The call was a read.
    Read,
    /// The call was a write, and nothing was saved.
    NotSaved,
    /// The commit was sent, but not confirmed.
    Unknown,
}

#[derive(Debug, Clone, thiserror::Error)]
enum Kind {
    /// Shared, because every caller of a failed batch receives it.
    #[error("{0}")]
    Database(Arc<sqlx::Error>),
    #[error("cannot connect: {0}")]
    Unreachable(Arc<sqlx::Error>),
    #[error("no reply within {0:?}")]
    Timeout(Duration),
    #[error("overloaded: the call did not start in time")]
    Overloaded,
    #[error(
        "the file was moved, replaced or deleted: put it back, or stop the server and start it again"
    )]
    FileMoved,
    #[error("conflict: {0}")]
    Conflict(&'static str),
    #[error("bug: {0}")]
    Bug(&'static str),
}

/// Why the next call would fail too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection is lost, or there is no server.
    Lost,
    /// The server or the file accepts no write.
    ReadOnly,
    /// There is no space for a write.
    Full,
}

impl StorageError {
    /// Returns what the call has left behind.
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// Returns whether a write may have been committed: the commit was sent, but not confirmed.
    pub fn commit_unknown(&self) -> bool {
        self.effect == Effect::Unknown
    }

    /// Returns whether the database failed, rather than this one call. Its condition has been
    /// logged.
    pub fn is_outage(&self) -> bool {
        self.fault().is_some() || matches!(self.kind, Kind::Timeout(_))
    }

    /// Returns the name of the kind of error.
    pub(super) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Database(_) => "database",
            Kind::Unreachable(_) => "unreachable",
            Kind::Timeout(_) => "timeout",
            Kind::Overloaded => "overloaded",
            Kind::FileMoved => "file_moved",
            Kind::Conflict(_) => "conflict",
            Kind::Bug(_) => "bug",
        }
    }

    /// Returns the cause, without what all errors of a database have in common.
    pub(super) fn reason(&self) -> String {
        match &self.kind {
            Kind::Database(error) => describe(error),
            Kind::Unreachable(error) => format!("cannot connect: {}", describe(error)),
            kind => kind.to_string(),
        }
    }

    /// Returns the condition of a database that rejects a write with this error.
    pub(super) fn condition(&self) -> Condition {
        match self.fault() {
            Some(Fault::Lost) => Condition::Down,
            None if matches!(self.kind, Kind::Timeout(_)) => Condition::Down,
            Some(Fault::ReadOnly | Fault::Full) | None => Condition::ReadOnly,
        }
    }

    /// Returns why the next call would fail too, if it would.
    pub(super) fn fault(&self) -> Option<Fault> {
        let error = match &self.kind {
            Kind::Database(error) => error,
            Kind::Unreachable(_) | Kind::FileMoved => return Some(Fault::Lost),
            _ => return None,
        };
        let error = match &**error {
            sqlx::Error::Database(error) => error,
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => {
                return Some(Fault::Lost);
            }
            _ => return None,
        };
        let code = error.code().unwrap_or_default();
        match (code.len(), &*code) {
            // Postgres: a read-only transaction, a full disk; the connection or the server ends.
            (5, "25006") => Some(Fault::ReadOnly),
            (5, "53100") => Some(Fault::Full),
            (5, "25P03" | "57P01" | "57P02" | "57P03" | "57P05") => Some(Fault::Lost),
            (5, code) if code.starts_with("08") => Some(Fault::Lost),
            // SQLite: the low byte of an extended code is the primary code.
            (1..=4, code) => match code.parse::<u32>().ok()? & 0xff {
                // PERM, READONLY, IOERR, CANTOPEN
                3 | 8 | 10 | 14 => Some(Fault::ReadOnly),
                13 => Some(Fault::Full),
                // CORRUPT, NOTADB
                11 | 26 => Some(Fault::Lost),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns whether the database has replied to the commit, or to a statement that is a
    /// transaction of its own, that it did not happen.
    fn is_rejected_commit(&self) -> bool {
        let Kind::Database(error) = &self.kind else {
            return false;
        };
        let sqlx::Error::Database(error) = &**error else {
            return false;
        };
        if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
            // It ends the transaction, but not the session. A pooler reports lost connections too.
            let is_of_session = ["08", "57P"]
                .iter()
                .any(|class| error.code().starts_with(class));
            return error.severity() == PgSeverity::Error && !is_of_session;
        }
        let code = error.code().unwrap_or_default();
        match code.len() {
            // SQLite has not written the whole transaction to its log: the disk is full, or the
            // file is read-only. Another I/O error may have come after that.
            1..=4 => {
                let primary = code.parse::<u32>().unwrap_or_default() & 0xff;
                matches!(primary, 3 | 5 | 8 | 13 | 19)
            }
            _ => false,
        }
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

    /// There is no connection, and so nothing was sent.
    pub(super) fn cannot_connect(error: sqlx::Error) -> Self {
        Kind::Unreachable(Arc::new(error)).into()
    }

    /// The path of the database leads to another file, or to none. Nothing was written.
    pub(super) fn file_moved() -> Self {
        Kind::FileMoved.into()
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
            effect: Effect::Unknown,
            ..Self::read_lost()
        }
    }
}

impl From<Kind> for StorageError {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            effect: Effect::Read,
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
        Reply::NotStarted => Err(CommitTracker::default().mark(StorageError::not_started())),
        Reply::Lost => Err(StorageError::write_lost()),
    }
}

/// Records whether the commit of a transaction was sent: after that, an error leaves the
/// outcome unknown, unless it is the reply of the database that it was rejected.
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

    /// Executes a statement that is a transaction of its own.
    pub(super) async fn statement<T>(&self, execute: impl Future<Output = Result<T>>) -> Result<T> {
        failpoint::pause("transaction.written").await;
        self.0.store(true, Ordering::Relaxed);
        let done = execute.await?;
        failpoint::pause("transaction.committed").await;
        Ok(done)
    }

    /// Marks an error of the transaction with what it has left behind.
    pub(super) fn mark(&self, mut error: StorageError) -> StorageError {
        let is_sent = self.0.load(Ordering::Relaxed);
        error.effect = match error.effect {
            Effect::Unknown => Effect::Unknown,
            _ if is_sent && !error.is_rejected_commit() => Effect::Unknown,
            _ => Effect::NotSaved,
        };
        error
    }
}

/// Describes an error with its code, which an operator can look up.
fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => match error.code() {
            Some(code) => format!("{} ({code})", error.message()),
            None => error.message().to_owned(),
        },
        sqlx::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}
