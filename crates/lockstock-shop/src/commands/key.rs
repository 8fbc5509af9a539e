//! `lockstock key`: creates API keys.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::access::{self, Scope, Secret, parse_name};

const HELP: &str = "\
A server with --api-key-file requires a key of each request, except for /healthz and /readyz. The
name of the key is the caller: reservations and idempotency keys belong to it, and the ledger, the
log and the metrics contain it.

Clients send the secret, and the file has its SHA-256 only:
  curl -H 'Authorization: Bearer SECRET' http://127.0.0.1:8000/api/products/

Replace a secret: create a key, put the sha256:… of its line beside the one of the old line, reload,
change the clients, remove the old sha256:…, reload. Revoke a key: remove its line and reload. To
reload, send SIGHUP to the server; a file with an error changes nothing, and is logged.

Examples:
  lockstock key new web-shop --scope write --file api-keys
  lockstock key new reports --scope read --expires 90d --file api-keys
  lockstock --api-key-file api-keys --listen 0.0.0.0:8000";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Create an API key: prints its secret, which cannot be shown again, and its line
    New(NewArgs),
}

#[derive(Debug, Args)]
struct NewArgs {
    /// Name of the key, which names the caller: letters, digits, '.', '_' and '-'
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: String,

    /// What the key permits
    #[arg(long, value_name = "SCOPE", value_enum)]
    scope: Scope,

    /// When the key expires: after a TIME like 90d, or at a date like 2027-03-31, in UTC
    #[arg(long, value_name = "WHEN", value_parser = parse_expiry)]
    expires: Option<DateTime<Utc>>,

    /// File of API keys to add the line to. It is created, for its user only, if it does not exist
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Creates a key.
pub(crate) fn run(args: KeyArgs) -> anyhow::Result<()> {
    let KeyCommand::New(new) = args.command;
    let secret = Secret::generate();
    let mut line = format!("{} {} {}", new.name, new.scope.name(), secret.digest());
    if let Some(expires) = new.expires {
        let expires = expires.to_rfc3339_opts(SecondsFormat::Secs, true);
        line.push_str(&format!(" expires:{expires}"));
    }
    if let Some(file) = &new.file {
        access::append(file, &line)?;
    }
    let mut out = anstream::stdout();
    if new.json {
        let key = json!({
            "name": new.name,
            "scope": new.scope.name(),
            "secret": secret.reveal(),
            "line": line,
        });
        writeln!(out, "{key}")?;
        return Ok(());
    }
    let secret = secret.reveal();
    writeln!(
        out,
        "The secret, which is stored nowhere and cannot be shown again:\n\n  {secret}\n"
    )?;
    match &new.file {
        Some(file) => {
            let file = file.display();
            writeln!(
                out,
                "Its line is in {file}. A running server reads it after SIGHUP."
            )?;
        }
        None => writeln!(
            out,
            "The line for the file of the server (--api-key-file):\n\n  {line}"
        )?,
    }
    Ok(())
}

/// Parses a time from now on, or a date.
fn parse_expiry(text: &str) -> Result<DateTime<Utc>, String> {
    const LIMIT: Duration = Duration::from_secs(100 * 366 * 24 * 3600);
    let after = humantime::parse_duration(text).ok();
    let after = after.filter(|after| *after <= LIMIT);
    let at = after.map(|after| Utc::now() + after).or_else(|| {
        let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();
        let date = date.map(|date| date.and_time(NaiveTime::MIN).and_utc());
        date.or_else(|| Some(DateTime::parse_from_rfc3339(text).ok()?.to_utc()))
    });
    match at {
        Some(at) if at > Utc::now() => Ok(at),
        Some(_) => Err("this time has passed".to_owned()),
        None => Err("expected a time like 90d, or a date like 2027-03-31".to_owned()),
    }
}
