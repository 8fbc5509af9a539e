//! A connection that reads all products, however long it takes.

use std::str::FromStr;
use std::time::Duration;

use anyhow::ensure;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

use super::advice;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The reader of the output may be slow.
const BEGIN: &str =
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0";

pub(in super::super) async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|error| advice::invalid_url(url, &error))?
        .application_name("lockstock export")
        .extra_float_digits(None);
    let mut connection = timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options))
        .await
        .map_err(|_| anyhow::anyhow!("no reply within {CONNECT_TIMEOUT:?}"))?
        .map_err(|error| advice::cannot_connect(&options, &error))?;
    sqlx::raw_sql(BEGIN).execute(&mut connection).await?;
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('products') IS NOT NULL")
        .fetch_one(&mut connection)
        .await?;
    ensure!(exists, "it is not a database of Lockstock");
    Ok(connection)
}
