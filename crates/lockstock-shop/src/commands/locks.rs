//! `lockstock locks`: who holds what and who waits for it, as a table for people or as JSON
//! for programs, once or again and again; and taking a lock away.

mod release;
mod table;
mod watch;

use std::io::{IsTerminal, Write};
use std::time::{Duration, SystemTime};

use anyhow::bail;
use chrono::{DateTime, SecondsFormat, Utc};
use lockstock::{Access, HolderInfo, LockInfo, Store, WaiterInfo, redact_url};
use serde_json::{Value, json};

use self::table::Look;
use crate::cli::lock_name as name;
use crate::cli::{Locks, LocksCommand};

/// Shows them, or releases one.
pub(crate) async fn locks(options: Locks) -> anyhow::Result<()> {
    if options.store.starts_with("memory:") {
        bail!(
            "locks in memory:// are in the memory of one process, and no other can look in \
             there: say where the servers share theirs, with --store redis://HOST:PORT/DB or \
             LOCKSTOCK_STORE"
        );
    }
    let store = Store::connect_within(&options.store, options.store_timeout).await?;
    if let Some(LocksCommand::Release(release)) = options.command {
        return release::release(&store, release).await;
    }
    let shown = Shown {
        place: redact_url(&options.store),
        store,
        json: options.json,
    };
    let done = match options.watch {
        Some(every) => watch::watch(&shown, every).await,
        None => once(&shown).await,
    };
    match done {
        // Whoever read has read enough.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        done => done,
    }
}

/// What is shown, and as what.
struct Shown {
    store: Store,
    /// Where it is, for people.
    place: String,
    json: bool,
}

impl Shown {
    /// The text of this moment.
    async fn text(&self, look: Look) -> lockstock::Result<String> {
        let locks = self.store.locks().await?;
        Ok(if self.json {
            let locks = locks.iter().map(as_json).collect::<Vec<_>>();
            format!("{}\n", Value::from(locks))
        } else if locks.is_empty() {
            format!("No lock is held, kept or waited for in {}.\n", self.place)
        } else {
            format!("{}\n{}\n", table::draw(&locks, look), summary(&locks))
        })
    }
}

async fn once(shown: &Shown) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let text = shown.text(Look::of(out.is_terminal())).await?;
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn summary(locks: &[LockInfo]) -> String {
    let waiters = locks.iter().map(|lock| lock.waiters.len()).sum::<usize>();
    let counted = |count: usize, what: &str| {
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} {what}{plural}")
    };
    let (names, waiters) = (counted(locks.len(), "name"), counted(waiters, "waiter"));
    format!("{names}, {waiters}")
}

fn as_json(lock: &LockInfo) -> Value {
    json!({
        "name": name::shown(&lock.name),
        "kind": lock.kind.to_string(),
        "holders": lock.holders.iter().map(holder_as_json).collect::<Vec<_>>(),
        "waiters": lock.waiters.iter().map(waiter_as_json).collect::<Vec<_>>(),
        "seen": timestamp(lock.observed_at),
    })
}

fn holder_as_json(holder: &HolderInfo) -> Value {
    json!({
        "process": holder.id.client_id().map(|process| process.to_string()),
        "token": holder.id.to_string(),
        "foreign": holder.id.is_foreign(),
        "access": access(holder.access),
        "state": table::state(holder),
        "since": holder.acquired_at.map(timestamp),
        "left_ms": holder.remaining.map(milliseconds),
        "fence": holder.fence,
    })
}

fn waiter_as_json(waiter: &WaiterInfo) -> Value {
    json!({
        "process": waiter.client_id.to_string(),
        "access": access(waiter.access),
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
