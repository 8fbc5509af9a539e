//! A look at the file of a database that a server uses, or will use.

use std::path::PathBuf;
use std::str::FromStr;

use sqlx::sqlite::SqliteConnectOptions;

use super::super::database_file::DatabaseFile;

/// Returns the path of the file, and whether it exists. Changes nothing.
///
/// # Errors
///
/// One line with the reason why a server would refuse the file.
pub(crate) fn examine(url: &str) -> anyhow::Result<(PathBuf, bool)> {
    super::ensure_file(url)?;
    let options = SqliteConnectOptions::from_str(url)?;
    let path = options.get_filename().to_owned();
    let exists = path.try_exists()?;
    if exists {
        DatabaseFile::open(&path)?;
    }
    Ok((path, exists))
}
