//! What to do about a Postgres that cannot be opened: one line, without a password.

use anyhow::anyhow;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;

use super::super::migrations;

/// Explains a URL that cannot be parsed.
pub(super) fn invalid_url(url: &str, error: &sqlx::Error) -> anyhow::Error {
    let reason = match error {
        sqlx::Error::Configuration(error) => error.to_string(),
        error => error.to_string(),
    };
    // A `#` ends the host, so that the parser takes the password for a port.
    if url.contains('#') {
        return anyhow!(
            "{reason}: the URL contains a '#'. In a user or a password, write # as %23, / as %2F, \
             ? as %3F, @ as %40 and % as %25"
        );
    }
    anyhow!("{reason}: write postgres://USER:PASSWORD@HOST:PORT/NAME")
}

/// Explains why the first connection was not made.
pub(super) fn cannot_connect(options: &PgConnectOptions, error: &sqlx::Error) -> anyhow::Error {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    let (role, database) = (options.get_username(), database(options));
    let server = format!("{}:{}", options.get_host(), options.get_port());
    let error = match error {
        sqlx::Error::Database(error) => error,
        sqlx::Error::Io(io) if io.kind() == ConnectionRefused => {
            return anyhow!(
                "connection refused: no Postgres listens on {server}. Check host and port"
            );
        }
        sqlx::Error::Io(io) if io.kind() == NotFound => {
            return anyhow!("{io}: there is no such socket. Is Postgres running?");
        }
        sqlx::Error::Io(io) => return anyhow!("{io} ({server})"),
        sqlx::Error::Protocol(reason) if reason.contains("SSLRequest") => {
            return anyhow!(
                "what listens on {server} does not reply as Postgres does. Check host and port"
            );
        }
        error => return anyhow!("{error}"),
    };
    let message = error.message();
    let code = error.code().unwrap_or_default();
    match &*code {
        // Also of a role that does not exist: the server does not tell which.
        "28P01" => anyhow!(
            "{message}: check user and password in the URL. A missing role is created with \
             `createuser --pwprompt {role}`, its database with `createdb -O {role} {database}`"
        ),
        "28000" if message.contains("does not exist") => anyhow!(
            "{message}: create it with `createuser --pwprompt {role}`, and its database with \
             `createdb -O {role} {database}`"
        ),
        "28000" => anyhow!("{message}: check user, password and sslmode in the URL"),
        "3D000" => anyhow!("{message}: create it with `createdb -O {role} {database}`"),
        "53300" => anyhow!("{message}: lower --database-connections, or raise max_connections"),
        // PgBouncer, of a parameter at the start of a session.
        "08P01" if message.contains("startup parameter") => {
            anyhow!("{message}: this is PgBouncer. See \"PgBouncer\" in docs/operations.md")
        }
        _ => anyhow!("{message} ({code})"),
    }
}

/// Explains why the tables were not created or migrated.
pub(super) fn cannot_migrate(
    options: &PgConnectOptions,
    migrator: &Migrator,
    error: MigrateError,
) -> anyhow::Error {
    let (MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)) = &error else {
        return migrations::explain(migrator, error);
    };
    let Some(cause) = cause.as_database_error() else {
        return error.into();
    };
    let (role, database) = (options.get_username(), database(options));
    let (message, code) = (cause.message(), cause.code().unwrap_or_default());
    match &*code {
        // Since Postgres 15, only the owner of a database may create tables in it.
        "42501" => anyhow!(
            "{message}: {role} may not create tables. Make it the owner with `ALTER DATABASE \
             {database} OWNER TO {role}`, or create the database with `createdb -O {role} \
             {database}`"
        ),
        "25006" => anyhow!("{message}: connect to the primary server, not to a standby"),
        _ => anyhow!("cannot create the tables: {message} ({code})"),
    }
}

/// Explains why the temporary tables of an import were not created.
pub(super) fn cannot_stage(options: &PgConnectOptions, error: &sqlx::Error) -> anyhow::Error {
    let Some(cause) = error.as_database_error() else {
        return anyhow!("{error}");
    };
    let (role, database) = (options.get_username(), database(options));
    let (message, code) = (cause.message(), cause.code().unwrap_or_default());
    match &*code {
        "42501" => {
            anyhow!("{message}: permit it with `GRANT TEMPORARY ON DATABASE {database} TO {role}`")
        }
        "25006" => anyhow!("{message}: connect to the primary server, not to a standby"),
        _ => anyhow!("{message} ({code})"),
    }
}

/// Postgres' default is a database named as the role.
fn database(options: &PgConnectOptions) -> &str {
    options
        .get_database()
        .unwrap_or_else(|| options.get_username())
}
