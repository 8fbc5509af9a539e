//! Where products live. The database is the authority: Redis is the turnstile in front of
//! it, and a store that granted every lock to everybody could still not oversell here.
//!
//! Guarantees of every [`Storage`], by one contract suite run against each:
//! - an answer comes after the commit;
//! - a write under a lock is refused when its fence is not higher than the last one, or
//!   when its [`Turn`] is over before the commit;
//! - versions count writes without gaps; stock is never negative;
//! - each write is one entry of the ledger, in the same transaction;
//! - what is asked for under a key has one effect, recorded in the same transaction;
//! - no call waits without bound.

mod file_lock;
mod migrations;
mod postgres;
mod rows;
mod sale;
mod settlement;
mod sql;
mod sqlite;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, Utc};
use lockstock::redact_url;
use sqlx::Transaction;
use sqlx::error::ErrorKind;
use tokio::time::Instant;
use uuid::Uuid;

use crate::batch::Waited;
use crate::failpoint;

pub use self::sale::{
    Entry, Figures, Key, Once, Order, Origin, Outcome, Reason, Recorded, Reservation, State, Wish,
};

/// A product as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// Given by the database, never used twice.
    pub id: i64,
    /// 1 to 200 characters.
    pub name: String,
    /// Any text.
    pub description: String,
    /// In minor units (cents, won).
    pub price: i64,
    /// How many there are.
    pub stock: i64,
    /// Counts the writes, from 1.
    pub version: i64,
    /// When it was created, to the microsecond.
    pub created_at: DateTime<Utc>,
    /// When it was last written, to the microsecond.
    pub updated_at: DateTime<Utc>,
    /// How many of the stock are set aside at the moment.
    pub held: i64,
}

impl Product {
    /// Stock, held and available.
    pub fn figures(&self) -> Figures {
        Figures {
            stock: self.stock,
            held: self.held,
        }
    }
}

/// The fields of a product that a client may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewProduct {
    /// See [`Product::name`].
    pub name: String,
    /// See [`Product::description`].
    pub description: String,
    /// See [`Product::price`].
    pub price: i64,
    /// See [`Product::stock`].
    pub stock: i64,
}

/// What a PATCH sets; the rest stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// See [`Product::name`].
    pub name: Option<String>,
    /// See [`Product::description`].
    pub description: Option<String>,
    /// See [`Product::price`].
    pub price: Option<i64>,
    /// See [`Product::stock`].
    pub stock: Option<i64>,
}

impl Changes {
    /// Nothing to write.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The right to write to one product: what a held lock gives.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// The number of the grant; the database refuses one that is not higher than the last.
    pub fence: u64,
    /// When the lock is lost.
    pub deadline: Instant,
}

impl Turn {
    fn is_over(&self) -> bool {
        self.deadline <= Instant::now()
    }

    /// As the column stores it. A fence beyond it is none that a store ever mints.
    fn fence(&self) -> i64 {
        i64::try_from(self.fence).unwrap_or(i64::MAX)
    }
}

/// Under which conditions a write may happen. Compared in the transaction that writes.
#[derive(Debug, Clone, Copy)]
pub struct Condition {
    /// The lock it is made under.
    pub turn: Turn,
    /// The version that the client has seen, if it says so.
    pub version: Option<i64>,
}

impl Condition {
    /// Why a write under this condition touched no row, from the row's version and fence.
    fn refusal<T>(&self, found: Option<(i64, i64)>) -> Written<T> {
        match found {
            None => Written::Missing,
            Some((_, fence)) if fence >= self.turn.fence() => Written::Lost,
            Some((version, _)) => Written::Stale { version },
        }
    }
}

/// What causes a write to a product.
#[derive(Debug, Clone, Default)]
pub struct Cause {
    /// Who asks.
    pub origin: Origin,
    /// If it is to be done once only, however often it is asked for.
    pub once: Option<Once<Product>>,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written<T> {
    /// Committed.
    Done(T),
    /// The key was used before.
    Recorded(Recorded),
    /// There is no such product.
    Missing,
    /// It has another version than the client has seen.
    Stale {
        /// The version it has.
        version: i64,
    },
    /// The lock was lost: its time was up, or a later holder has written already.
    Lost,
}

/// Which products to list.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Each must occur in the name or the description, in any case.
    pub terms: Vec<String>,
    /// Each must hold.
    pub bounds: Vec<Bound>,
    /// First to last; ties are broken by id.
    pub order: Vec<(Column, Direction)>,
}

/// A comparison of a column with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The left side.
    pub column: Column,
    /// How they compare.
    pub comparison: Comparison,
    /// The right side.
    pub value: i64,
}

/// A column of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the field of Product of that name")]
pub enum Column {
    Id,
    Name,
    Price,
    Stock,
    Version,
    CreatedAt,
    UpdatedAt,
}

/// How a [`Bound`] compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Comparison {
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// Which way to sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Direction {
    Ascending,
    Descending,
}

/// Which entries of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entries {
    /// Every write.
    All,
    /// What was sold.
    Purchases,
}

/// The database could not answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the database failed: {cause}")]
pub struct StorageError {
    // Shared: a batch that failed has one reason and many callers.
    cause: Arc<sqlx::Error>,
    may_be_written: bool,
}

impl StorageError {
    /// Whether a write was committed is not known: a commit was sent, and not answered.
    pub fn may_be_written(&self) -> bool {
        self.may_be_written
    }

    /// One row breaks a rule of the tables, or holds what they cannot: nobody else's affair.
    fn is_one_rows_fault(&self) -> bool {
        let sqlx::Error::Database(error) = &*self.cause else {
            return false;
        };
        let code = error.code().unwrap_or_default();
        // Data exceptions and broken constraints; of SQLite: too big, of the wrong type.
        let of_postgres = code.len() == 5 && (code.starts_with("22") || code.starts_with("23"));
        of_postgres || matches!(&*code, "18" | "20") || !matches!(error.kind(), ErrorKind::Other)
    }

    /// The connection was of no use. Another one may be.
    fn is_broken_connection(&self) -> bool {
        use std::io::ErrorKind::TimedOut;
        // One that nobody answered on in time is no reason to wait that long again.
        matches!(&*self.cause, sqlx::Error::Io(error) if error.kind() != TimedOut)
    }

    fn closed() -> Self {
        sqlx::Error::PoolClosed.into()
    }

    /// Nothing was done: there was no turn in time.
    fn no_turn() -> Self {
        sqlx::Error::PoolTimedOut.into()
    }

    /// Nobody knows what was done.
    fn unanswered() -> Self {
        Self {
            may_be_written: true,
            ..Self::closed()
        }
    }
}

impl From<sqlx::Error> for StorageError {
    fn from(cause: sqlx::Error) -> Self {
        Self {
            cause: Arc::new(cause),
            may_be_written: false,
        }
    }
}

/// Whether a transaction has come to its commit: an error after that leaves open what
/// happened.
#[derive(Clone, Default)]
struct Committing(Arc<AtomicBool>);

impl Committing {
    /// Commits a transaction in which everything is written.
    async fn commit<D: sqlx::Database>(&self, transaction: Transaction<'_, D>) -> Result<()> {
        failpoint::pause("transaction.written").await;
        self.0.store(true, Ordering::Relaxed);
        transaction.commit().await?;
        failpoint::pause("transaction.committed").await;
        Ok(())
    }

    fn note(&self, mut error: StorageError) -> StorageError {
        error.may_be_written |= self.0.load(Ordering::Relaxed);
        error
    }
}

/// What every call here returns.
pub type Result<T> = std::result::Result<T, StorageError>;

/// The answer of a write that was waited for.
fn waited<T>(waited: Waited<Result<T>>) -> Result<T> {
    match waited {
        Waited::For(answer) => answer,
        Waited::InVain => Err(StorageError::no_turn()),
        Waited::Forever => Err(StorageError::unanswered()),
    }
}

/// The calls that the shop makes of its database.
#[async_trait]
pub trait Storage: Send + Sync {
    /// One product.
    async fn get(&self, id: i64) -> Result<Option<Product>>;
    /// How many are selected.
    async fn count(&self, selection: &Selection) -> Result<i64>;
    /// Some of those selected, in order.
    async fn list(&self, selection: &Selection, limit: i64, offset: i64) -> Result<Vec<Product>>;
    /// Adds one. Answers `Done` or `Recorded`.
    async fn create(&self, new: NewProduct, cause: Cause) -> Result<Written<Product>>;
    /// Adds all of these if there is no product yet, whoever else is about to do the same.
    /// Answers whether it did.
    async fn create_if_empty(&self, new: &[NewProduct]) -> Result<bool>;
    /// Writes `changes`. Writes nothing where there is nothing to change, and answers the
    /// product as it is.
    async fn update(
        &self,
        id: i64,
        changes: Changes,
        condition: Condition,
        cause: Cause,
    ) -> Result<Written<Product>>;
    /// Removes it, and answers it as it was.
    async fn delete(
        &self,
        id: i64,
        condition: Condition,
        origin: Origin,
    ) -> Result<Written<Product>>;
    /// Carries out an order. Those of one product come one after another, in the order in
    /// which they arrive here.
    async fn sell(&self, order: Order) -> Result<Outcome>;
    /// One purchase.
    async fn purchase(&self, id: Uuid) -> Result<Option<Entry>>;
    /// One reservation, and whether it is held at this moment.
    async fn reservation(&self, id: Uuid) -> Result<Option<(Reservation, bool)>>;
    /// How many entries a product's ledger has.
    async fn count_entries(&self, product: i64, which: Entries) -> Result<i64>;
    /// Some of them, the oldest first.
    async fn entries(
        &self,
        product: i64,
        which: Entries,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<Entry>>;
    /// What was answered under a key, unless that was too long ago.
    async fn recorded(&self, key: &Key) -> Result<Option<Recorded>>;
    /// Forgets some of the answers whose time is over: at most so many. Answers how many.
    async fn forget(&self, most: i64) -> Result<u64>;
    /// Whether the database answers.
    async fn ping(&self) -> Result<()>;
    /// Finishes what was begun and closes the connections.
    async fn close(&self);
}

/// How a database is opened.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most connections at once.
    pub connections: u32,
    /// How long a call may wait for a connection, and a connection to be made.
    pub timeout: Duration,
    /// No other server may use the same file: its locks would not be ours.
    pub alone: bool,
    /// For how long the answer to a key is remembered.
    pub key_retention: Duration,
}

impl Limits {
    /// Answers from before that are forgotten.
    fn forgotten(&self) -> DateTime<Utc> {
        now() - self.key_retention
    }
}

/// Opens the database behind `url`, creates or migrates its tables.
///
/// # Errors
///
/// One line that says what is wrong and what would be good; never a password.
pub async fn open(url: &str, limits: Limits) -> anyhow::Result<Arc<dyn Storage>> {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    let opened: anyhow::Result<Arc<dyn Storage>> = match scheme {
        "sqlite" => sqlite::Sqlite::open(url, limits)
            .await
            .map(|opened| Arc::new(opened) as _),
        "postgres" | "postgresql" => postgres::Postgres::open(url, limits)
            .await
            .map(|opened| Arc::new(opened) as _),
        _ => anyhow::bail!(
            "'{}' names no database: write sqlite://FILE or postgres://user:password@host/name",
            redact_url(url)
        ),
    };
    opened.map_err(|why| anyhow::anyhow!("cannot open the database {}: {why}", redact_url(url)))
}

/// The time of a write. To the microsecond, because that is what Postgres keeps: an answer
/// and a later read must say the same.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}
