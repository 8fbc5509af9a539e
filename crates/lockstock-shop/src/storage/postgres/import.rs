//! Import into a Postgres database that servers use.
//!
//! Servers wait for the rows that the import updates, from the moment it locks them until it commits,
//! and for nothing else: products that it creates are seen by no server before. Ids are reserved in a
//! short transaction of their own, so that a server never assigns one of them.

use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::super::error::CommitTracker;
use super::super::import::{
    Conflicts, ExistingProducts, FoundConflict, Import, ImportCounts, ImportOutcome, ImportRow,
    MAX_CONFLICTS, OnProgress, Staging,
};
use super::super::sql::import::{self as statements, COUNT, LIST_NEW, UPDATE_PRODUCTS};
use super::super::{Result, now};
use super::{advice, session, with_clock};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a statement of the transaction waits for a lock, while servers wait for those that the
/// import has already. A frozen import keeps them for as long.
const LOCK_TIMEOUT_SECS: u64 = 10;

const STAGE: &str =
    "INSERT INTO import_rows (ordinal, line, id, rank, name, description, price, stock,
         version)
     SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[],
         $6::text[], $7::bigint[], $8::bigint[], $9::bigint[])";

/// Moves the sequence of ids past `$1` further ids, and past those of the rows. Returns the id before
/// them. The lock on the table waits for the transactions that have drawn an id, and keeps others from
/// drawing one.
const RESERVE_IDS: &str = "WITH used AS MATERIALIZED (
         SELECT greatest(
             pg_sequence_last_value(pg_get_serial_sequence('products', 'id')::regclass),
             (SELECT max(id) FROM products),
             (SELECT max(id) FROM import_rows),
             0
         ) AS id
     )
     SELECT id, CASE WHEN id + $1 > 0
         THEN setval(pg_get_serial_sequence('products', 'id')::regclass, id + $1) END
     FROM used";

pub(in super::super) struct PostgresImport {
    connection: PgConnection,
    existing: ExistingProducts,
    staging: Staging,
    /// Whether products are created, as the check has found.
    creates: bool,
}

impl PostgresImport {
    pub(in super::super) async fn open(
        url: &str,
        existing: ExistingProducts,
    ) -> anyhow::Result<Self> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| advice::invalid_url(url, &error))?
            .application_name("lockstock import")
            .extra_float_digits(None);
        let mut connection = session::open_migrated(&options, CONNECT_TIMEOUT).await?;
        // If this process is frozen or its machine is lost, servers get the rows back.
        let settings = format!(
            "SET statement_timeout = 0;
             SET lock_timeout = '{LOCK_TIMEOUT_SECS}s';
             SET idle_in_transaction_session_timeout = '{LOCK_TIMEOUT_SECS}s';
             SET tcp_keepalives_idle = {LOCK_TIMEOUT_SECS};
             SET tcp_keepalives_interval = {LOCK_TIMEOUT_SECS};
             SET tcp_keepalives_count = 3;
             SET default_transaction_isolation = 'read committed'"
        );
        sqlx::raw_sql(AssertSqlSafe(settings))
            .execute(&mut connection)
            .await?;
        const TABLES: &str = statements::create_tables!("bigint", "");
        sqlx::raw_sql(TABLES)
            .execute(&mut connection)
            .await
            .map_err(|error| advice::cannot_stage(&options, &error))?;
        Ok(Self {
            connection,
            existing,
            staging: Staging::default(),
            creates: false,
        })
    }

    /// Reserves the ids of new products. Returns the one before those that the import assigns.
    async fn reserve_ids(&mut self) -> Result<i64> {
        let mut transaction = self.connection.begin().await?;
        sqlx::raw_sql("LOCK TABLE products IN SHARE ROW EXCLUSIVE MODE")
            .execute(&mut *transaction)
            .await?;
        let last_id: i64 = sqlx::query_scalar(RESERVE_IDS)
            .bind(self.staging.without_id)
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(last_id)
    }

    async fn transact(
        &mut self,
        request: &str,
        on_progress: OnProgress<'_>,
        tracker: &CommitTracker,
    ) -> Result<ImportOutcome> {
        let last_id = if self.creates {
            self.reserve_ids().await?
        } else {
            0
        };
        let mut transaction = self.connection.begin().await?;
        let at = now();
        if self.staging.has_ids() {
            // In a statement before the others: they see what the last holders of the rows have
            // committed.
            if self.existing == ExistingProducts::Update {
                sqlx::query(statements::list_changed!(" FOR UPDATE OF p"))
                    .execute(&mut *transaction)
                    .await?;
            }
            let conflicts = conflicts(&mut transaction, self.existing).await?;
            if conflicts.total > 0 {
                transaction.rollback().await?;
                return Ok(ImportOutcome::Rejected(conflicts));
            }
        }
        sqlx::query(LIST_NEW)
            .bind(last_id)
            .execute(&mut *transaction)
            .await?;
        sqlx::raw_sql("ANALYZE import_writes")
            .execute(&mut *transaction)
            .await?;
        let mut counts = ImportCounts::default();
        for (first, last) in self.staging.steps() {
            sqlx::query(statements::insert_entries!("gen_random_uuid()"))
                .bind(first)
                .bind(last)
                .bind(request)
                .bind(at)
                .execute(&mut *transaction)
                .await?;
            let created = sqlx::query(statements::insert_products!(" OVERRIDING SYSTEM VALUE"))
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
        tracker.commit(transaction).await?;
        Ok(ImportOutcome::Written(counts))
    }
}

#[async_trait]
impl Import for PostgresImport {
    async fn stage(&mut self, rows: Vec<ImportRow>) -> Result<()> {
        let mut columns = Columns::default();
        for row in rows {
            let staged = self.staging.place(row);
            columns.ordinals.push(staged.ordinal);
            columns.lines.push(staged.line);
            columns.ids.push(staged.row.id);
            columns.ranks.push(staged.rank);
            columns.names.push(staged.row.changes.name);
            columns.descriptions.push(staged.row.changes.description);
            columns.prices.push(staged.row.changes.price);
            columns.stocks.push(staged.row.changes.stock);
            columns.versions.push(staged.row.version);
        }
        sqlx::query(STAGE)
            .bind(columns.ordinals)
            .bind(columns.lines)
            .bind(columns.ids)
            .bind(columns.ranks)
            .bind(columns.names)
            .bind(columns.descriptions)
            .bind(columns.prices)
            .bind(columns.stocks)
            .bind(columns.versions)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    async fn check(&mut self) -> Result<(Conflicts, ImportCounts)> {
        // Postgres does not analyze temporary tables by itself.
        sqlx::raw_sql("ANALYZE import_rows")
            .execute(&mut self.connection)
            .await?;
        let conflicts = conflicts(&mut self.connection, self.existing).await?;
        let counts: ImportCounts = sqlx::query_as(COUNT)
            .fetch_one(&mut self.connection)
            .await?;
        self.creates = counts.created > 0;
        Ok((conflicts, counts))
    }

    async fn write(&mut self, request: &str, on_progress: OnProgress<'_>) -> Result<ImportOutcome> {
        let tracker = CommitTracker::default();
        let written = self.transact(request, on_progress, &tracker).await;
        written.map_err(|error| tracker.mark(error))
    }

    async fn close(self: Box<Self>) {
        let _ = self.connection.close().await;
    }
}

/// The columns of staged rows, as arrays for `unnest`.
#[derive(Default)]
struct Columns {
    ordinals: Vec<i64>,
    lines: Vec<i64>,
    ids: Vec<Option<i64>>,
    ranks: Vec<Option<i64>>,
    names: Vec<Option<String>>,
    descriptions: Vec<Option<String>>,
    prices: Vec<Option<i64>>,
    stocks: Vec<Option<i64>>,
    versions: Vec<Option<i64>>,
}

async fn conflicts(connection: &mut PgConnection, existing: ExistingProducts) -> Result<Conflicts> {
    let found: Vec<FoundConflict> = sqlx::query_as(with_clock!(import::select_conflicts))
        .bind(existing == ExistingProducts::Update)
        .bind(i64::from(MAX_CONFLICTS))
        .fetch_all(connection)
        .await?;
    Ok(found.into_iter().collect())
}
