//! Postgres: the settings that decide whether a commit survives, and what its role may do.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use tokio::time::timeout;

use super::finding::Finding;
use super::remote_clock::measure;
use crate::storage::{Examined, examine_postgres, redact_database_url};

/// The oldest supported version, as Postgres numbers it.
const MIN_VERSION: i32 = 130_000;

/// Fails as the writes of a sale do, and changes no row.
const WRITES: &str = "UPDATE products SET stock = stock WHERE false;
    INSERT INTO ledger SELECT * FROM ledger WHERE false;
    INSERT INTO idempotency SELECT * FROM idempotency WHERE false;
    DELETE FROM idempotency WHERE false";

const QUERY: &str = "SELECT
    current_setting('server_version') AS version,
    current_setting('server_version_num')::int AS version_number,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes,
    current_setting('default_transaction_read_only') AS read_only,
    pg_is_in_recovery() AS is_standby,
    current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int AS max_connections,
    (SELECT sum(numbackends)::int FROM pg_stat_database) AS connections,
    current_database()::text AS database,
    current_user::text AS role,
    to_regclass('products') IS NOT NULL AS has_tables,
    has_schema_privilege(coalesce(current_schema(), 'public'), 'CREATE') AS can_create";

/// Returns what is found of the database at a URL. `connections` is the number that a server opens.
pub(super) async fn examine(url: &str, limit: Duration, connections: u32) -> Vec<Finding> {
    let Examined {
        mut connection,
        pooler,
    } = match examine_postgres(url, limit).await {
        Ok(examined) => examined,
        Err(error) => return vec![unreachable(url, &format!("{error:#}"))],
    };
    let mut findings = vec![Finding::ok(
        "database.connection",
        format!("{} replies", redact_database_url(url)),
    )];
    findings.push(match pooler {
        None => Finding::ok(
            "database.pooler",
            "each connection has a session of its own",
        ),
        Some(reason) => Finding::error(
            "database.pooler",
            reason,
            "a server refuses to start: the timeouts and prepared statements of its sessions would \
             belong to other clients",
            "pool_mode = session in pgbouncer.ini",
        ),
    });
    match timeout(limit, settings(&mut connection, connections)).await {
        Ok(Ok(more)) => findings.extend(more),
        Ok(Err(error)) => findings.push(unreachable(url, &error.to_string())),
        Err(_) => findings.push(unreachable(url, &format!("no reply within {limit:?}"))),
    }
    let no_reply = || format!("no reply within {limit:?}");
    let measured = measure(async || {
        let query = sqlx::query_scalar::<_, DateTime<Utc>>("SELECT clock_timestamp()");
        let time = timeout(limit, query.fetch_one(&mut connection)).await;
        let time = time.map_err(|_| no_reply())?;
        time.map(SystemTime::from)
            .map_err(|error| error.to_string())
    });
    match measured.await {
        Ok(measured) => {
            findings.push(measured.latency("database.latency", "Postgres"));
            findings.push(measured.clock(
                "database.clock",
                "Postgres",
                "reservations expire by the clock of the database, and the records of idempotency keys \
                 by that of the server: they would not fit the times in responses",
            ));
        }
        Err(error) => findings.push(unreachable(url, &error)),
    }
    findings
}

fn unreachable(url: &str, error: &str) -> Finding {
    Finding::error(
        "database.connection",
        format!("{}: {error}", redact_database_url(url)),
        "a server does not start, and one that runs answers with 503",
        format!(
            "psql {} -c 'SELECT 1', and --database of the server",
            redact_database_url(url)
        ),
    )
}

async fn settings(connection: &mut PgConnection, needed: u32) -> sqlx::Result<Vec<Finding>> {
    let row = sqlx::query(QUERY).fetch_one(&mut *connection).await?;
    let text = |name: &str| row.try_get::<String, _>(name);
    let (database, role) = (text("database")?, text("role")?);
    let mut findings = vec![
        version(&text("version")?, row.try_get("version_number")?),
        commits(
            &database,
            [
                ("synchronous_commit", text("synchronous_commit")?),
                ("fsync", text("fsync")?),
                ("full_page_writes", text("full_page_writes")?),
            ],
        ),
        free_connections(
            row.try_get("max_connections")?,
            row.try_get("connections")?,
            i64::from(needed),
        ),
    ];
    let writable = writable(&database, row.try_get("is_standby")?, &text("read_only")?);
    let is_writable = writable.is_none();
    findings.push(writable.unwrap_or_else(|| {
        Finding::ok(
            "database.writable",
            "the server is a primary and accepts writes",
        )
    }));
    if is_writable {
        let (has_tables, can_create) = (row.try_get("has_tables")?, row.try_get("can_create")?);
        findings.push(rights(connection, &database, &role, has_tables, can_create).await);
    }
    Ok(findings)
}

fn version(version: &str, number: i32) -> Finding {
    const CHECK: &str = "database.version";
    if number >= MIN_VERSION {
        return Finding::ok(CHECK, format!("Postgres {version}"));
    }
    Finding::error(
        CHECK,
        format!("Postgres {version} is older than 13"),
        "Lockstock is not tested with it",
        "pg_upgrade",
    )
}

/// Checks that a commit is on the disk when Postgres confirms it.
fn commits(database: &str, settings: [(&str, String); 3]) -> Finding {
    const CHECK: &str = "database.commits";
    let off = settings.iter().filter(|(_, value)| value == "off");
    let off = off.map(|(name, _)| *name).collect::<Vec<_>>();
    if off.is_empty() {
        let what = format!(
            "a commit is on the disk (synchronous_commit = {})",
            settings[0].1
        );
        return Finding::ok(CHECK, what);
    }
    let change = match off[0] {
        "synchronous_commit" => {
            format!("psql -c 'ALTER DATABASE \"{database}\" SET synchronous_commit = on'")
        }
        name => format!("psql -c 'ALTER SYSTEM SET {name} = on' -c 'SELECT pg_reload_conf()'"),
    };
    Finding::error(
        CHECK,
        format!("{} = off", off.join(" = off, ")),
        "a crash of Postgres loses sales that were confirmed to clients: a unit is sold twice, and a \
         repeated request has its effect again",
        change,
    )
}

fn free_connections(max: i32, used: i32, needed: i64) -> Finding {
    const CHECK: &str = "database.connections";
    let free = i64::from(max) - i64::from(used);
    // And one while the server starts or Postgres is not up.
    let needed = needed + 1;
    let what = format!("{free} of {max} connections are free, and a server opens up to {needed}");
    if free >= needed {
        return Finding::ok(CHECK, what);
    }
    Finding::warning(
        CHECK,
        what,
        "a server that cannot open a connection answers with 503. If a server of yours runs, it has \
         its connections already",
        format!(
            "psql -c 'ALTER SYSTEM SET max_connections = {}' and a restart, or a lower \
                 --database-connections",
            i64::from(max) + needed
        ),
    )
}

fn writable(database: &str, is_standby: bool, read_only: &str) -> Option<Finding> {
    const CHECK: &str = "database.writable";
    let why = "reads succeed, and every write gets 503";
    if is_standby {
        let what = "the server is a standby";
        return Some(Finding::error(
            CHECK,
            what,
            why,
            "--database with the primary, or both hosts behind one name that follows it",
        ));
    }
    if read_only == "on" {
        let change = format!(
            "psql -c 'ALTER DATABASE \"{database}\" SET default_transaction_read_only = off'"
        );
        return Some(Finding::error(
            CHECK,
            "default_transaction_read_only = on",
            why,
            change,
        ));
    }
    None
}

async fn rights(
    connection: &mut PgConnection,
    database: &str,
    role: &str,
    has_tables: bool,
    can_create: bool,
) -> Finding {
    const CHECK: &str = "database.permissions";
    let owner = format!("psql -c 'ALTER DATABASE \"{database}\" OWNER TO \"{role}\"'");
    if !has_tables {
        if can_create {
            let what = "there are no tables yet: the first server creates them";
            return Finding::ok(CHECK, what);
        }
        return Finding::error(
            CHECK,
            format!("there are no tables, and {role} may not create any"),
            "a server does not start",
            owner,
        );
    }
    match sqlx::raw_sql(WRITES).execute(connection).await {
        Ok(_) => Finding::ok(CHECK, format!("{role} may write to the tables")),
        Err(error) => {
            let message = error.as_database_error().map(|error| error.message());
            let message = message.map_or_else(|| error.to_string(), str::to_owned);
            Finding::error(
                CHECK,
                message,
                "sales and updates get 503",
                format!("psql -c 'GRANT ALL ON ALL TABLES IN SCHEMA public TO \"{role}\"'"),
            )
        }
    }
}
