//! Backup of a database file, also while a server writes to it.

use std::fs::{self, File};
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, anyhow, ensure};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use super::super::database_file::DatabaseFile;

/// Copies the database at `url` to a new file, as it is at one moment. Returns the number of
/// products and of ledger entries in the copy.
pub(in super::super) async fn backup(url: &str, target: &Path) -> anyhow::Result<(i64, i64)> {
    let options = SqliteConnectOptions::from_str(url)?.read_only(true);
    // Not locked: SQLite lets the copy see one commit while the server makes others.
    let _source = DatabaseFile::open(options.get_filename())?;
    ensure_new(target)?;
    let partial = target.with_added_extension("partial");
    ensure_new(&partial)?;
    let copied = copy(&options, &partial).await;
    let counts = match copied {
        Ok(counts) => counts,
        Err(error) => {
            let _ = fs::remove_file(&partial);
            return Err(error);
        }
    };
    // SQLite does not sync the copy.
    File::open(&partial)?.sync_all()?;
    ensure_new(target)?;
    fs::rename(&partial, target)?;
    let folder = fs::canonicalize(target)?;
    File::open(folder.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    Ok(counts)
}

fn ensure_new(file: &Path) -> anyhow::Result<()> {
    ensure!(
        !file.try_exists()?,
        "{} exists, and a backup overwrites no file: choose another name or remove it",
        file.display()
    );
    Ok(())
}

async fn copy(options: &SqliteConnectOptions, target: &Path) -> anyhow::Result<(i64, i64)> {
    let name = target.to_str().context("the file name is not UTF-8")?;
    let mut source = SqliteConnection::connect_with(options).await?;
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name IN ('products', 'ledger')";
    let count: i64 = sqlx::query_scalar(tables).fetch_one(&mut source).await?;
    ensure!(count == 2, "it is not a database of Lockstock");
    sqlx::query("VACUUM INTO $1")
        .bind(name)
        .execute(&mut source)
        .await
        .map_err(|error| anyhow!("cannot write {name}: {error}"))?;
    source.close().await?;
    let options = SqliteConnectOptions::new().filename(target).read_only(true);
    let mut copy = SqliteConnection::connect_with(&options).await?;
    let check: String = sqlx::query_scalar("PRAGMA quick_check(1)")
        .fetch_one(&mut copy)
        .await?;
    ensure!(check == "ok", "the copy is damaged: {check}");
    let counts = "SELECT (SELECT count(*) FROM products), (SELECT count(*) FROM ledger)";
    let counts = sqlx::query_as(counts).fetch_one(&mut copy).await?;
    copy.close().await?;
    Ok(counts)
}
