//! A connection to examine a database that servers use, or will use.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

use super::{advice, session};

/// A database that replies.
pub(crate) struct Examined {
    pub(crate) connection: PgConnection,
    /// Why the connection is not a session of its own, if it is not.
    pub(crate) pooler: Option<String>,
}

/// Connects as a server does, and changes nothing.
///
/// # Errors
///
/// One line with the cause and the remedy, without a password.
pub(crate) async fn examine(url: &str, limit: Duration) -> anyhow::Result<Examined> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|error| advice::invalid_url(url, &error))?
        .application_name("lockstock doctor")
        .extra_float_digits(None);
    let no_reply = |_| anyhow::anyhow!("no reply within {limit:?}");
    let mut connection = timeout(limit, PgConnection::connect_with(&options))
        .await
        .map_err(no_reply)?
        .map_err(|error| advice::cannot_connect(&options, &error))?;
    let own = timeout(limit, session::require_own(&mut connection, &options)).await;
    let pooler = own.map_err(no_reply)?.err();
    Ok(Examined {
        connection,
        pooler: pooler.map(|reason| reason.to_string()),
    })
}
