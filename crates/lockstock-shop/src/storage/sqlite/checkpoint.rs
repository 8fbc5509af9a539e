//! Regular checkpoints, which move commits from the write-ahead log into the database file.
//!
//! By itself SQLite does that once a thousand pages are in the log, and when the last connection is
//! closed. A file that is copied without its log would lack hours of sales. A passive checkpoint
//! waits for no reader and no writer, and none waits for it.

use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::warn;

use super::super::database_file::Identity;

/// Maximum time from a commit to the checkpoint that includes it.
const INTERVAL: Duration = Duration::from_secs(5);

/// Makes checkpoints after commits, at most one in each interval, until it is dropped.
pub(super) async fn run(
    connect_options: SqliteConnectOptions,
    file: Identity,
    committed: Arc<Notify>,
) {
    loop {
        committed.notified().await;
        sleep(INTERVAL).await;
        // It would write the log of the old file into the new one.
        if !file.is_in_place() {
            continue;
        }
        let made = async {
            let mut connection = SqliteConnection::connect_with(&connect_options).await?;
            checkpoint(&mut connection).await?;
            connection.close().await
        };
        if let Err(error) = made.await {
            // The commits are safe in the log.
            warn!(%error, "no checkpoint of the database; trying again after the next commit");
        }
    }
}

pub(super) async fn checkpoint(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    sqlx::query("PRAGMA wal_checkpoint(PASSIVE)")
        .execute(connection)
        .await?;
    Ok(())
}
