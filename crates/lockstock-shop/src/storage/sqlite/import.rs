//! Import into a SQLite file, also while a server writes to it.
//!
//! SQLite admits one writer at a time: while the transaction of an import runs, the writes of a server
//! wait for its `--database-timeout`, and are then rejected. Reads go on.

use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection, SqliteConnection};
use uuid::Uuid;

use super::super::database_file::Identity;
use super::super::error::CommitTracker;
use super::super::file_lock::{self, Joined};
use super::super::import::{
    Conflicts, ExistingProducts, FoundConflict, Import, ImportCounts, ImportOutcome, ImportRow,
    MAX_CONFLICTS, OnProgress, Staging,
};
use super::super::sql::import::{self as statements, COUNT, LIST_NEW, UPDATE_PRODUCTS};
use super::super::{Result, StorageError, migrations, now};
use super::with_clock;

/// How long the transaction waits for that of a server. Those are short.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// More than SQLite's 2 MiB: rows are inserted into several indexes.
const CACHE: &str = "PRAGMA main.cache_size = -8192; PRAGMA temp.cache_size = -8192";

const STAGE: &str =
    "INSERT INTO import_rows (ordinal, line, id, rank, name, description, price, stock,
         version, entry)
     SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5,
         value ->> 6, value ->> 7, value ->> 8, unhex(value ->> 9)
     FROM json_each($1)";

/// The id before the first one that an import assigns.
const LAST_ID: &str = "SELECT max(
         coalesce((SELECT max(seq) FROM sqlite_sequence WHERE name = 'products'), 0),
         coalesce((SELECT max(id) FROM products), 0),
         coalesce((SELECT max(id) FROM import_rows), 0))";

pub(in super::super) struct SqliteImport {
    connection: SqliteConnection,
    file: Identity,
    existing: ExistingProducts,
    staging: Staging,
}

impl SqliteImport {
    pub(in super::super) async fn open(
        url: &str,
        existing: ExistingProducts,
    ) -> anyhow::Result<Self> {
        let options = SqliteConnectOptions::from_str(url)?
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true);
        super::ensure_file(url)?;
        let (file, joined) = file_lock::join(options.get_filename())?;
        let options = options.filename(&file.path);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let migrator = migrations::sqlite();
        match joined {
            // Held for the migration only: a server may start during an import.
            Joined::Alone(_lock) => {
                if let Err(error) = migrator.run(&mut connection).await {
                    return Err(migrations::explain(&migrator, error));
                }
            }
            Joined::BesideServer => migrations::ensure_current(&migrator, &mut connection).await?,
        }
        // The id of a ledger entry is random, and rises with time: appending to an index is faster than
        // inserting into it.
        const TABLES: &str = statements::create_tables!("INTEGER", ", entry BLOB NOT NULL");
        sqlx::raw_sql(CACHE).execute(&mut connection).await?;
        sqlx::raw_sql(TABLES).execute(&mut connection).await?;
        Ok(Self {
            connection,
            file,
            existing,
            staging: Staging::default(),
        })
    }

    async fn transact(
        &mut self,
        request: &str,
        on_progress: OnProgress<'_>,
        tracker: &CommitTracker,
    ) -> Result<ImportOutcome> {
        ensure_in_place(&self.file)?;
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        let at = now();
        if self.staging.has_ids() {
            let conflicts = conflicts(&mut transaction, self.existing).await?;
            if conflicts.total > 0 {
                transaction.rollback().await?;
                return Ok(ImportOutcome::Rejected(conflicts));
            }
            sqlx::query(statements::list_changed!(""))
                .execute(&mut *transaction)
                .await?;
        }
        let last_id: i64 = sqlx::query_scalar(LAST_ID)
            .fetch_one(&mut *transaction)
            .await?;
        sqlx::query(LIST_NEW)
            .bind(last_id)
            .execute(&mut *transaction)
            .await?;
        let mut counts = ImportCounts::default();
        for (first, last) in self.staging.steps() {
            sqlx::query(statements::insert_entries!("r.entry"))
                .bind(first)
                .bind(last)
                .bind(request)
                .bind(at)
                .execute(&mut *transaction)
                .await?;
            let created = sqlx::query(statements::insert_products!(""))
                .bind(first)
                .bind(last)
                .bind(at)
                .execute(&mut *transaction)
                .await?;
            let updated = sqlx::query(UPDATE_PRODUCTS)
                .bind(first)
                .bind(last)
                .bind(at)
                .execute(&mut *transaction)
                .await?;
            counts.add_step(created.rows_affected(), updated.rows_affected(), last);
            on_progress(last.unsigned_abs());
        }
        ensure_in_place(&self.file)?;
        tracker.commit(transaction).await?;
        Ok(ImportOutcome::Written(counts))
    }
}

#[async_trait]
impl Import for SqliteImport {
    async fn stage(&mut self, rows: Vec<ImportRow>) -> Result<()> {
        let rows = rows.into_iter().map(|row| {
            let staged = self.staging.place(row);
            let ImportRow {
                id,
                changes,
                version,
                ..
            } = staged.row;
            json!([
                staged.ordinal,
                staged.line,
                id,
                staged.rank,
                changes.name,
                changes.description,
                changes.price,
                changes.stock,
                version,
                Uuid::now_v7().simple().to_string(),
            ])
        });
        let rows = serde_json::Value::from_iter(rows).to_string();
        sqlx::query(STAGE)
            .bind(rows)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    async fn check(&mut self) -> Result<(Conflicts, ImportCounts)> {
        let conflicts = conflicts(&mut self.connection, self.existing).await?;
        let counts = sqlx::query_as(COUNT)
            .fetch_one(&mut self.connection)
            .await?;
        Ok((conflicts, counts))
    }

    async fn write(&mut self, request: &str, on_progress: OnProgress<'_>) -> Result<ImportOutcome> {
        let tracker = CommitTracker::default();
        let written = self.transact(request, on_progress, &tracker).await;
        written.map_err(|error| tracker.mark(error))
    }

    /// The last connection to close moves the log into the file.
    async fn close(self: Box<Self>) {
        let _ = self.connection.close().await;
    }
}

/// Fails if the path of the database leads to another file, where a server does not see the log of this
/// one.
fn ensure_in_place(file: &Identity) -> Result<()> {
    match file.is_in_place() {
        true => Ok(()),
        false => Err(StorageError::file_moved()),
    }
}

async fn conflicts(
    connection: &mut SqliteConnection,
    existing: ExistingProducts,
) -> Result<Conflicts> {
    let found: Vec<FoundConflict> = sqlx::query_as(with_clock!(import::select_conflicts))
        .bind(existing == ExistingProducts::Update)
        .bind(i64::from(MAX_CONFLICTS))
        .fetch_all(connection)
        .await?;
    Ok(found.into_iter().collect())
}
