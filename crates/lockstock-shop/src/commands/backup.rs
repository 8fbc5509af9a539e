//! `lockstock backup`: copies the SQLite database to a new file while a server runs.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::storage;

const HELP: &str = "\
The copy holds every change that was saved before the backup began. To restore it, stop the server,
remove the old file with its -wal and -shm, and put the copy in its place. A Postgres database is
backed up with pg_dump.

Example:
  lockstock backup shop-monday.sqlite3 --database sqlite:///var/lib/lockstock/shop.sqlite3";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct BackupArgs {
    /// File to write, which must not exist
    #[arg(value_name = "FILE")]
    target: PathBuf,

    /// URL of the database, the same as the server's: sqlite://FILE
    #[arg(
        long,
        env = "LOCKSTOCK_DATABASE",
        value_name = "URL",
        default_value = "sqlite://lockstock.sqlite3",
        hide_env_values = true
    )]
    database: String,
}

pub(crate) async fn run(args: BackupArgs) -> anyhow::Result<()> {
    let (products, entries) = storage::backup(&args.database, &args.target).await?;
    writeln!(
        anstream::stdout(),
        "Saved {} with {products} products and {entries} ledger entries.",
        args.target.display()
    )?;
    Ok(())
}
