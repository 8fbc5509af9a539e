//! A connection that reads all products while a server writes others.

use std::str::FromStr;

use anyhow::ensure;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use super::super::database_file::DatabaseFile;

pub(in super::super) async fn connect(url: &str) -> anyhow::Result<SqliteConnection> {
    super::ensure_file(url)?;
    let options = SqliteConnectOptions::from_str(url)?.read_only(true);
    let file = DatabaseFile::open(options.get_filename())?;
    let options = options.filename(&file.identity.path);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    sqlx::raw_sql("BEGIN").execute(&mut connection).await?;
    let table = "SELECT count(*) FROM sqlite_schema WHERE name = 'products'";
    let count: i64 = sqlx::query_scalar(table).fetch_one(&mut connection).await?;
    ensure!(count == 1, "it is not a database of Lockstock");
    Ok(connection)
}
