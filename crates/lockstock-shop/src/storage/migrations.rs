//! The migrations of both databases, built into the program.
//!
//! sqlx records the checksum of each migration that it applies, and refuses a database in
//! which a recorded checksum differs: an applied file never changes.

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{SqlSafeStr, SqlStr, SqliteConnection};

macro_rules! migrations {
    ($folder:literal: $($version:literal $description:literal $file:literal),+ $(,)?) => {
        Migrator::with_migrations(vec![$(migration(
            $version,
            $description,
            include_str!(concat!("../../migrations/", $folder, "/", $file)).into_sql_str(),
        )),+])
    };
}

/// Returns the migrations of SQLite.
pub(super) fn sqlite() -> Migrator {
    migrations!("sqlite":
        1 "products" "0001_products.sql",
        2 "sales" "0002_sales.sql",
        3 "refusals" "0003_refusals.sql",
        4 "callers" "0004_callers.sql",
    )
}

/// Returns the migrations of Postgres.
pub(super) fn postgres() -> Migrator {
    migrations!("postgres":
        1 "products" "0001_products.sql",
        2 "sales" "0002_sales.sql",
        3 "fewer indexes" "0003_fewer_indexes.sql",
        4 "refusals" "0004_refusals.sql",
        5 "callers" "0005_callers.sql",
    )
}

/// Explains why `migrator` has failed. An older version does not know what its writes have to keep
/// in a database that a newer version has migrated.
pub(super) fn explain(migrator: &Migrator, error: MigrateError) -> anyhow::Error {
    match error {
        MigrateError::VersionMissing(version) => {
            let known = migrator.iter().map(|known| known.version).max();
            anyhow::anyhow!(
                "this database belongs to a newer Lockstock: it has migration {version}, and this \
                 version knows those up to {}. Start the newer version, or restore a backup from \
                 before it: see \"Upgrading and rolling back\" in docs/operations.md",
                known.unwrap_or_default()
            )
        }
        error => error.into(),
    }
}

/// Fails unless the tables of a SQLite database are those of this version. For a command beside a
/// server, which has migrated the database already.
pub(super) async fn ensure_current(
    migrator: &Migrator,
    connection: &mut SqliteConnection,
) -> anyhow::Result<()> {
    let applied: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(connection)
        .await?;
    let known = migrator.iter().map(|known| known.version).max();
    match applied {
        Some(version) if applied > known => {
            Err(explain(migrator, MigrateError::VersionMissing(version)))
        }
        _ if applied < known => anyhow::bail!(
            "a server of an earlier version uses the database: start this version of the server first"
        ),
        _ => Ok(()),
    }
}

fn migration(version: i64, description: &'static str, sql: SqlStr) -> Migration {
    let no_transaction = false;
    Migration::new(
        version,
        description.into(),
        MigrationType::Simple,
        sql,
        no_transaction,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_file_is_built_in_under_its_version_and_description() {
        for (folder, migrator) in [("sqlite", sqlite()), ("postgres", postgres())] {
            let path = format!("{}/migrations/{folder}", env!("CARGO_MANIFEST_DIR"));
            let mut files = std::fs::read_dir(path)
                .unwrap()
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .collect::<Vec<_>>();
            files.sort();
            let built_in = migrator.iter().map(|migration| {
                let description = migration.description.replace(' ', "_");
                format!("{:04}_{description}.sql", migration.version)
            });
            assert_eq!(built_in.collect::<Vec<_>>(), files);
        }
    }
}
