//! The database of products, which is the authority on stock: even if every lock were granted to
//! every client, no unit could be sold twice.
//!
//! Guarantees of every [`Storage`], tested by one contract suite:
//! - a write returns after its commit;
//! - a write under a lock is rejected if its fence is not higher than the last one, or if its
//!   [`FencedWindow`] ends before the commit;
//! - versions count writes without gaps; stock is never negative;
//! - each write appends one ledger entry, in the same transaction;
//! - a write with an idempotency key takes effect once, and its response is recorded in the same
//!   transaction;
//! - every call is bounded in time.

mod database_file;
mod error;
mod export;
mod file_lock;
mod idempotency;
mod import;
mod ledger;
mod migrations;
mod order;
mod postgres;
mod product;
mod query;
mod request_context;
mod reservation;
mod rows;
mod settlement;
mod sql;
mod sqlite;
mod traced;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, Utc};
use lockstock::redact_url;
use uuid::Uuid;

use crate::health::Health;

pub use self::error::{Effect, Result, StorageError};
pub use self::export::Export;
pub use self::idempotency::{IdempotencyKey, IdempotentWrite, ResponseRecord};
pub use self::import::{
    Conflict, ConflictKind, Conflicts, ExistingProducts, Import, ImportCounts, ImportOutcome,
    ImportRow, MAX_CONFLICTS, OnProgress,
};
pub use self::ledger::{LedgerEntry, Reason};
pub use self::order::{Order, OrderKind, OrderOutcome};
pub use self::product::{
    Changes, FencedWindow, NewProduct, Precondition, Product, StockLevels, WriteContext,
    WriteOutcome,
};
pub use self::query::{Column, Comparison, Direction, EntryFilter, Filter, ProductQuery};
pub use self::request_context::{KnownCommits, RequestContext};
pub use self::reservation::{Reservation, ReservationState};

pub(crate) use self::postgres::examination::{Examined, examine as examine_postgres};
pub(crate) use self::sqlite::examination::examine as examine_sqlite_file;

/// The calls that the shop makes of its database.
#[async_trait]
pub trait Storage: Send + Sync {
    /// Returns a product.
    async fn get(&self, id: i64) -> Result<Option<Product>>;
    /// Counts the products that match `query`.
    async fn count(&self, query: &ProductQuery) -> Result<i64>;
    /// Returns up to `limit` of the products that match `query`, in its order.
    async fn list(&self, query: &ProductQuery, limit: i64, offset: i64) -> Result<Vec<Product>>;
    /// Creates a product. Returns `Done` or `AlreadyRecorded`.
    async fn create(&self, new: NewProduct, context: WriteContext)
    -> Result<WriteOutcome<Product>>;
    /// Creates all products if there are none yet, even if other servers try the same. Returns
    /// whether it did.
    async fn create_if_empty(&self, new: &[NewProduct]) -> Result<bool>;
    /// Writes `changes` to a product. If they are empty, checks the precondition and returns the
    /// product unchanged.
    async fn update(
        &self,
        id: i64,
        changes: Changes,
        precondition: Precondition,
        context: WriteContext,
    ) -> Result<WriteOutcome<Product>>;
    /// Deletes a product of which no units are set aside. Returns it as it was before.
    async fn delete(
        &self,
        id: i64,
        precondition: Precondition,
        request: RequestContext,
    ) -> Result<WriteOutcome<Product>>;
    /// Returns the commits that this server knows of. Taken when a request with an idempotency key
    /// arrives: see [`OrderOutcome::Overtaken`].
    fn known_commits(&self) -> KnownCommits;
    /// Carries out an order. Orders of one product are carried out in order of arrival.
    async fn submit_order(&self, order: Order) -> Result<OrderOutcome>;
    /// Returns a purchase.
    async fn purchase(&self, id: Uuid) -> Result<Option<LedgerEntry>>;
    /// Returns a reservation, and whether its units are set aside now: those of a deleted product
    /// are not.
    async fn reservation(&self, id: Uuid) -> Result<Option<(Reservation, bool)>>;
    /// Counts entries in the ledger of a product.
    async fn count_entries(&self, product: i64, filter: EntryFilter) -> Result<i64>;
    /// Returns up to `limit` entries in the ledger of a product, the oldest first.
    async fn entries(
        &self,
        product: i64,
        filter: EntryFilter,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<LedgerEntry>>;
    /// Returns the response recorded under a key, unless the record has expired.
    async fn find_record(&self, key: &IdempotencyKey) -> Result<Option<ResponseRecord>>;
    /// Deletes up to `max` expired records. Returns how many.
    async fn delete_expired_records(&self, max: i64) -> Result<u64>;
    /// Returns how many connections the calls have.
    fn connections(&self) -> Connections;
    /// Returns the condition of the database, as calls and checks have found it.
    fn health(&self) -> &Arc<Health>;
    /// Checks within `limit` that a write would succeed now, and records the condition.
    async fn check(&self, limit: Duration);
    /// Waits for running calls and closes the connections.
    async fn close(&self);
}

/// The connections to a database, for its calls.
#[derive(Debug, Clone, Copy)]
pub struct Connections {
    /// Number of connections that calls are using.
    pub in_use: usize,
    /// Number of open connections that no call is using.
    pub idle: usize,
    /// Maximum number of connections in use.
    pub max: usize,
}

/// Options for opening a database.
#[derive(Debug, Clone, Copy)]
pub struct StorageOptions {
    /// Maximum number of connections.
    pub max_connections: u32,
    /// How long a call may wait for a connection, and how long connecting may take.
    pub timeout: Duration,
    /// Keeps other servers off the same SQLite file. Required if locks are in memory, where they
    /// exclude no other server.
    pub exclusive: bool,
    /// How long the response to an idempotency key stays recorded.
    pub key_retention: Duration,
}

impl StorageOptions {
    /// Returns the time at and before which a record is expired.
    fn expired_at(&self) -> DateTime<Utc> {
        now() - self.key_retention
    }
}

/// Opens the database at `url`, and creates or migrates its tables.
///
/// # Errors
///
/// One line with the cause and the remedy, without a password.
pub async fn open(url: &str, options: StorageOptions) -> anyhow::Result<Arc<dyn Storage>> {
    let opened: anyhow::Result<Arc<dyn Storage>> = match Scheme::of(url)? {
        Scheme::Sqlite => sqlite::Sqlite::open(url, options)
            .await
            .map(|opened| Arc::new(opened) as _),
        Scheme::Postgres => postgres::Postgres::open(url, options)
            .await
            .map(|opened| Arc::new(opened) as _),
    };
    opened.map_err(|error| cannot_open(url, &error))
}

/// The kind of database that a URL names.
enum Scheme {
    Sqlite,
    Postgres,
}

impl Scheme {
    fn of(url: &str) -> anyhow::Result<Self> {
        match url.split_once(':').map_or("", |(scheme, _)| scheme) {
            "sqlite" => Ok(Self::Sqlite),
            "postgres" | "postgresql" => Ok(Self::Postgres),
            "" => anyhow::bail!(
                "the URL of the database has no '://': use sqlite://FILE or \
                 postgres://user:password@host/name"
            ),
            _ => anyhow::bail!(
                "'{}' is not a database URL: use sqlite://FILE or postgres://user:password@host/name",
                redact_url(url)
            ),
        }
    }
}

/// Returns whether the database at `url` is a process of its own.
pub(crate) fn is_server(url: &str) -> bool {
    matches!(Scheme::of(url), Ok(Scheme::Postgres))
}

fn cannot_open(url: &str, error: &anyhow::Error) -> anyhow::Error {
    let database = redact_database_url(url);
    anyhow::anyhow!("cannot open the database {database}: {error}")
}

/// Begins an import into the database at `url`, whose tables are created or migrated if no server
/// uses it.
///
/// # Errors
///
/// One line with the cause and the remedy, without a password.
pub async fn import(url: &str, existing: ExistingProducts) -> anyhow::Result<Box<dyn Import>> {
    let opened: anyhow::Result<Box<dyn Import>> = match Scheme::of(url)? {
        Scheme::Sqlite => sqlite::import::SqliteImport::open(url, existing)
            .await
            .map(|opened| Box::new(opened) as _),
        Scheme::Postgres => postgres::import::PostgresImport::open(url, existing)
            .await
            .map(|opened| Box::new(opened) as _),
    };
    opened.map_err(|error| cannot_open(url, &error))
}

/// Returns a storage that makes a span of each call to the one at `url`.
pub(crate) fn traced(inner: Arc<dyn Storage>, url: &str) -> Arc<dyn Storage> {
    let system = match is_server(url) {
        true => "postgresql",
        false => "sqlite",
    };
    Arc::new(traced::Traced { inner, system })
}

/// Copies the SQLite database at `url` to the new file `target`. Returns the number of its products
/// and of its ledger entries.
///
/// # Errors
///
/// One line with the cause and the remedy, without a password.
pub async fn backup(url: &str, target: &Path) -> anyhow::Result<(i64, i64)> {
    anyhow::ensure!(
        !is_server(url),
        "Postgres has its own: pg_dump --format=custom --file={} URL, and pg_restore",
        target.display()
    );
    let copied = sqlite::backup(url, target).await;
    copied.map_err(|error| {
        let database = redact_database_url(url);
        anyhow::anyhow!("cannot back up the database {database}: {error}")
    })
}

/// Returns a database URL without user, password and query, safe for logs and errors.
pub(crate) fn redact_database_url(url: &str) -> String {
    match url.strip_prefix("sqlite:") {
        // `sqlite:FILE` has no host and no credentials.
        Some(file) if !file.starts_with("//") => {
            let file = file.split(['?', '#']).next().unwrap_or_default();
            format!("sqlite:{file}")
        }
        _ => redact_url(url),
    }
}

/// Returns the time of a write, to the microsecond as Postgres stores it: the response to a write
/// and a later read return the same time.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

#[cfg(test)]
mod tests {
    use super::redact_database_url;

    #[test]
    fn a_redacted_database_url_names_the_file_or_the_host_only() {
        for (url, redacted) in [
            ("sqlite:shop.sqlite3?mode=ro", "sqlite:shop.sqlite3"),
            ("sqlite:///var/shop.sqlite3", "sqlite:///var/shop.sqlite3"),
            ("postgres://shop:hunter2@host/shop", "postgres://host/shop"),
            ("hunter2", "(not a URL)"),
        ] {
            assert_eq!(redact_database_url(url), redacted);
        }
    }
}
