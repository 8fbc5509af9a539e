//! The judge: a register in Postgres that is written under the lock, by the fence.
//!
//! Some reads and writes are two statements, as in an application. The first *claims* the
//! register for a fence, so that a holder that is overtaken between the two is rejected and no
//! update is lost: this detects two holders at once. The journal records every accepted write in
//! the order of the commits: the row of the register is locked until then.

use lockstock_testkit::Postgres;
use sqlx::{Connection, PgConnection, Row};

const SCHEMA: &str = "
    CREATE TABLE register (
        name text PRIMARY KEY, fence bigint NOT NULL, value bigint NOT NULL);
    CREATE TABLE journal (
        serial bigserial PRIMARY KEY, name text NOT NULL, value bigint NOT NULL,
        seen bigint NOT NULL, fence bigint NOT NULL, holder bigint NOT NULL,
        UNIQUE (name, value));";

/// A client of the register, with a connection of its own.
pub(crate) struct Register(PgConnection);

impl Register {
    pub(crate) async fn open(url: &str) -> Self {
        Self(PgConnection::connect(url).await.unwrap())
    }

    /// Claims the register for `fence` and returns its value; `None` if it has a later fence.
    pub(crate) async fn claim(&mut self, name: &str, fence: u64) -> Option<i64> {
        sqlx::query("UPDATE register SET fence = $2 WHERE name = $1 AND fence < $2 RETURNING value")
            .bind(name)
            .bind(fence as i64)
            .fetch_optional(&mut self.0)
            .await
            .unwrap()
            .map(|row| row.get(0))
    }

    /// Claims and writes in one statement. Returns false if the register has a later fence.
    pub(crate) async fn claim_and_write(&mut self, name: &str, fence: u64, holder: u64) -> bool {
        let done = sqlx::query(
            "WITH written AS (
                UPDATE register SET fence = $2, value = value + 1
                WHERE name = $1 AND fence < $2 RETURNING value)
             INSERT INTO journal (name, value, seen, fence, holder)
             SELECT $1, value, value - 1, $2, $3 FROM written",
        )
        .bind(name)
        .bind(fence as i64)
        .bind(holder as i64)
        .execute(&mut self.0)
        .await
        .unwrap();
        done.rows_affected() == 1
    }

    /// Writes the value after `seen`. Returns false if a later fence has claimed the register.
    pub(crate) async fn write(&mut self, name: &str, fence: u64, seen: i64, holder: u64) -> bool {
        let done = sqlx::query(
            "WITH written AS (
                UPDATE register SET value = $3 + 1 WHERE name = $1 AND fence = $2 RETURNING value)
             INSERT INTO journal (name, value, seen, fence, holder)
             SELECT $1, value, $3, $2, $4 FROM written",
        )
        .bind(name)
        .bind(fence as i64)
        .bind(seen)
        .bind(holder as i64)
        .execute(&mut self.0)
        .await
        .unwrap();
        done.rows_affected() == 1
    }

    /// Returns the end of the journal, for diagnosis.
    pub(crate) async fn history(&mut self, name: &str) -> String {
        let rows = sqlx::query(
            "SELECT 'the register has fence ' || fence FROM register WHERE name = $1
             UNION ALL (SELECT 'process ' || holder || ' wrote ' || value || ' with fence ' || fence
                FROM journal WHERE name = $1 ORDER BY value DESC LIMIT 5)",
        )
        .bind(name)
        .fetch_all(&mut self.0)
        .await
        .unwrap();
        let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        lines.join(", ")
    }
}

/// The register of one test, in the Postgres that all tests share.
pub(crate) struct Judge {
    postgres: &'static Postgres,
    database: &'static str,
    pub(crate) url: String,
}

impl Judge {
    pub(crate) fn of(postgres: &'static Postgres, test: &'static str, names: &[String]) -> Self {
        let url = postgres.create_database(test);
        postgres.psql(test, SCHEMA);
        for name in names {
            postgres.psql(
                test,
                &format!("INSERT INTO register VALUES ('{name}', 0, 0)"),
            );
        }
        Self {
            postgres,
            database: test,
            url,
        }
    }

    pub(crate) fn ask(&self, sql: &str) -> String {
        self.postgres.psql(self.database, sql)
    }

    pub(crate) fn number(&self, sql: &str) -> u64 {
        self.ask(sql).parse().unwrap()
    }

    /// Returns how many writes were accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.number("SELECT sum(value) FROM register")
    }

    /// Returns the last writer under `name`: the current holder or the one before.
    pub(crate) fn last_writer(&self, name: &str) -> Option<u64> {
        let sql =
            format!("SELECT holder FROM journal WHERE name = '{name}' ORDER BY value DESC LIMIT 1");
        self.ask(&sql).parse().ok()
    }

    /// Returns how often `holder` wrote.
    pub(crate) fn written_by(&self, holder: u64) -> u64 {
        self.number(&format!(
            "SELECT count(*) FROM journal WHERE holder = {holder}"
        ))
    }

    /// Panics unless a lock allows the history of every name.
    pub(crate) fn check(&self) {
        let wrong = self.ask(
            "SELECT * FROM (
                SELECT *,
                    lag(value, 1, 0) OVER history AS value_before,
                    lag(fence, 1, 0) OVER history AS fence_before
                FROM journal WINDOW history AS (PARTITION BY name ORDER BY serial)) AS entry
             WHERE value <> value_before + 1 OR seen <> value_before OR fence <= fence_before
             LIMIT 10",
        );
        assert_eq!(wrong, "", "out of order, lost or written twice");
        let wrong = self.ask(
            "SELECT * FROM register WHERE value <> (
                SELECT count(*) FROM journal WHERE journal.name = register.name)",
        );
        assert_eq!(wrong, "", "the register is not what was written to it");
    }
}
