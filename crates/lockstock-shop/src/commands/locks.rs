//! `lockstock locks`: lists locks with their holders and waiters, as a table or as JSON, once
//! or repeatedly; `locks release` releases a lock by force.

mod release;
mod table;
mod watch;

use std::io::{ErrorKind, Write};
use std::time::{Duration, SystemTime};

use anyhow::{anyhow, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use lockstock::{Access, HolderInfo, LockInfo, Store, WaiterInfo, redact_url};
use serde_json::{Value, json};

use self::release::ReleaseArgs;
use crate::cli::lock_name;
use crate::cli::store_url::explain_first_error;
use crate::cli::values::{self, duration_in};

const HELP: &str = "\
Columns:
  HOLDER   the process that holds the lock; each server logs its own at the start. 'foreign' is
           a client of another library (redis-py, django-redis), shown while a Lockstock client
           waits for it
  LEFT     the rest of the lease
  STATE    held: the holder may release the lock at any moment. kept: the holder is done, and
           the lock stays taken to the end of the lease
  FENCE    the number of the grant; a later grant has a higher number
  WAITERS  the number of waiters, and how long the first has waited. Only the first waiter of
           each process is listed

The command changes nothing. It scans all keys of the store in small steps: run it to look
into a problem, not on every request.

Examples:
  lockstock locks --store redis://127.0.0.1:6379/1
  lockstock locks --watch                           refresh every 2 seconds until Ctrl-C
  lockstock locks --json | jq '.[] | select(.waiters != [])'
  lockstock locks release product-update-lock-42";

#[derive(Debug, Args)]
#[command(args_override_self = true, after_help = HELP)]
pub(crate) struct LocksArgs {
    #[command(subcommand)]
    command: Option<LocksCommand>,

    /// URL of the lock store, the same as that of the servers, like redis://HOST:PORT/DB
    #[arg(
        long,
        env = "LOCKSTOCK_STORE",
        value_name = "URL",
        default_value = "memory://",
        hide_default_value = true,
        hide_env_values = true,
        global = true
    )]
    store: String,

    /// Maximum time of one call to the lock store
    #[arg(long, env = "LOCKSTOCK_STORE_TIMEOUT", value_name = "TIME", default_value = "1s", value_parser = duration_in(values::TIMEOUT, "1s"), global = true)]
    store_timeout: Duration,

    /// Print one line of JSON instead of a table
    #[arg(long)]
    json: bool,

    /// Refresh every SECONDS, or every 2 seconds if none are given
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = refresh_interval)]
    watch: Option<Duration>,
}

#[derive(Debug, Subcommand)]
enum LocksCommand {
    /// Release a lock by force: its holders lose it
    #[command(args_override_self = true, after_help = release::HELP)]
    Release(ReleaseArgs),
}

fn refresh_interval(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 0.1..=3600.0) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected a number of seconds from 0.1 to 3600, like 2".to_owned()),
    }
}

/// Lists the locks, or releases one.
pub(crate) async fn run(args: LocksArgs) -> anyhow::Result<()> {
    if args.store.starts_with("memory:") {
        bail!(
            "the locks of memory:// are in the memory of one process, where no other process can \
             see them: give the store of the servers with --store redis://HOST:PORT/DB or \
             LOCKSTOCK_STORE"
        );
    }
    let store = Store::connect_within(&args.store, args.store_timeout).await;
    let store =
        store.map_err(|error| anyhow!(explain_first_error(&args.store, error.to_string())))?;
    if let Some(LocksCommand::Release(release)) = args.command {
        return release::run(&store, release).await;
    }
    let listing = Listing {
        url: redact_url(&args.store),
        store,
        json: args.json,
    };
    let done = match args.watch {
        Some(interval) => watch::run(&listing, interval).await,
        None => print_once(&listing).await,
    };
    match done {
        // The reader has closed the pipe, as `head` does.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        done => done,
    }
}

/// A store to list, and the format.
struct Listing {
    store: Store,
    /// Without secrets.
    url: String,
    json: bool,
}

impl Listing {
    /// Returns the current locks as text with colours. Names are cut to fit into `width` columns.
    async fn text(&self, width: Option<usize>) -> lockstock::Result<String> {
        let locks = self.store.locks().await?;
        Ok(if self.json {
            let locks = locks.iter().map(lock_to_json).collect::<Vec<_>>();
            format!("{}\n", Value::from(locks))
        } else if locks.is_empty() {
            format!("No lock is held, kept or waited for in {}.\n", self.url)
        } else {
            format!("{}\n{}\n", table::draw(&locks, width), summary(&locks))
        })
    }
}

async fn print_once(listing: &Listing) -> anyhow::Result<()> {
    let text = listing.text(table::terminal_width()).await?;
    let mut out = anstream::stdout();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

fn summary(locks: &[LockInfo]) -> String {
    let waiters = locks.iter().map(|lock| lock.waiters.len()).sum::<usize>();
    let counted = |count: usize, noun: &str| {
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} {noun}{plural}")
    };
    let (names, waiters) = (counted(locks.len(), "name"), counted(waiters, "waiter"));
    format!("{names}, {waiters}")
}

fn lock_to_json(lock: &LockInfo) -> Value {
    json!({
        "name": lock_name::escape(&lock.name),
        "kind": lock.kind.to_string(),
        "holders": lock.holders.iter().map(holder_to_json).collect::<Vec<_>>(),
        "waiters": lock.waiters.iter().map(waiter_to_json).collect::<Vec<_>>(),
        "seen": timestamp(lock.observed_at),
    })
}

fn holder_to_json(holder: &HolderInfo) -> Value {
    json!({
        "process": holder.id.client_id().map(|process| process.to_string()),
        "token": holder.id.to_string(),
        "foreign": holder.id.is_foreign(),
        "access": access(holder.access),
        "permits": holder.permits,
        "state": table::state(holder),
        "since": holder.acquired_at.map(timestamp),
        "left_ms": holder.remaining.map(milliseconds),
        "fence": holder.fence,
    })
}

fn waiter_to_json(waiter: &WaiterInfo) -> Value {
    json!({
        "process": waiter.client_id.to_string(),
        "access": access(waiter.access),
        "permits": waiter.permits,
        "waited_ms": milliseconds(waiter.waited),
        "gives_up_in_ms": waiter.timeout_in.map(milliseconds),
        "lease_ms": milliseconds(waiter.lease),
    })
}

fn access(access: Access) -> &'static str {
    match access {
        Access::Exclusive => "exclusive",
        Access::Permit => "permit",
        Access::Read => "read",
    }
}

fn timestamp(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
