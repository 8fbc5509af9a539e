//! `lockstock locks release`: takes a lock from its current holders, after the user has
//! confirmed it.

use std::io::{IsTerminal, Write, stdin};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use lockstock::{HolderId, HolderInfo, LockInfo, LockKind, Store};

use super::table;
use crate::cli::lock_name::{self, LockName};
use crate::logging::{self, LogFormat};

pub(super) const HELP: &str = "\
What happens: the holder loses the lock at once, and the first waiter gets it with a higher
fence. The old holder finds out only when it renews or releases. Until the new holder has
written, the old holder can still write; from then on a database that compares fences, as the
server's does, rejects the old holder.

Examples:
  lockstock locks release product-update-lock-42 --store redis://127.0.0.1:6379/1
  export LOCKSTOCK_STORE=redis://127.0.0.1:6379/1      for the rest
  lockstock locks release uploads --kind semaphore --holder 3f9c0a1b22334455
  lockstock locks release 'odd\\nname'               as the table shows it";

#[derive(Debug, Args)]
pub(super) struct ReleaseArgs {
    /// Name of the lock, as the table shows it
    #[arg(value_parser = lock_name::parse)]
    name: LockName,

    /// Kind of the lock, if locks of several kinds have the name
    #[arg(long, value_name = "KIND")]
    kind: Option<KindArg>,

    /// Release only this one of several holders: its token, or a prefix that no other token has
    #[arg(long, value_name = "TOKEN")]
    holder: Option<String>,

    /// Release without confirmation
    #[arg(long)]
    yes: bool,
}

/// [`LockKind`] as an option value.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum KindArg {
    Lock,
    Semaphore,
    ReadWrite,
}

impl From<KindArg> for LockKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Lock => Self::Lock,
            KindArg::Semaphore => Self::Semaphore,
            KindArg::ReadWrite => Self::ReadWrite,
        }
    }
}

pub(super) async fn run(store: &Store, args: ReleaseArgs) -> anyhow::Result<()> {
    // A forced release is logged.
    let _flushed = logging::start("warn", LogFormat::Auto, None)?;
    let lock = find(store, &args).await?;
    let losers = losers(&lock, args.holder.as_deref())?;
    let mut out = anstream::stdout();
    let table = table::draw(std::slice::from_ref(&lock), table::terminal_width());
    writeln!(out, "{table}\n{}", consequences(&lock, &losers))?;
    if !args.yes {
        ensure!(
            stdin().is_terminal(),
            "nothing was released: standard input is not a terminal, so the release cannot be \
             confirmed. To release without confirmation, give --yes"
        );
        write!(out, "Release it by force? [y/N] ")?;
        out.flush()?;
        let mut reply = String::new();
        stdin().read_line(&mut reply)?;
        ensure!(
            matches!(&*reply.trim().to_lowercase(), "y" | "yes"),
            "nothing was released"
        );
    }
    for loser in losers {
        // By holder, so that a holder that has acquired the lock since keeps it.
        let released = store
            .force_release(lock.kind, &lock.name, Some(loser))
            .await?;
        match released {
            true => writeln!(out, "{} has lost it.", subject(loser))?,
            false => writeln!(out, "{} had already released it.", subject(loser))?,
        }
    }
    let now = store.lock_info(lock.kind, &lock.name).await?;
    let holders = now.map(|now| now.holders).unwrap_or_default();
    if holders.is_empty() {
        writeln!(out, "It is free.")?;
    }
    for HolderInfo { id, fence, .. } in holders {
        let fence = fence.map_or(String::new(), |fence| format!(", fence {fence}"));
        writeln!(out, "{} holds it now{fence}.", subject(id))?;
    }
    Ok(())
}

/// Returns the one lock that matches the name and the kind.
async fn find(store: &Store, args: &ReleaseArgs) -> anyhow::Result<LockInfo> {
    let bytes = &args.name.0;
    let name = lock_name::escape(bytes);
    let kinds = match args.kind {
        Some(kind) => vec![kind.into()],
        None => LockKind::ALL.to_vec(),
    };
    let mut found = Vec::new();
    let mut foreign = false;
    for kind in kinds {
        let info = store.lock_info(kind, bytes).await?;
        let Some(info) = info.filter(|info| !info.holders.is_empty()) else {
            continue;
        };
        // Any string key looks like a foreign holder, a cached page too.
        let all_foreign = info.holders.iter().all(|holder| holder.id.is_foreign());
        if all_foreign && info.waiters.is_empty() {
            foreign = true;
        } else {
            found.push(info);
        }
    }
    ensure!(
        found.len() < 2,
        "'{name}' is held as {}: choose one with --kind",
        found
            .iter()
            .map(|lock| lock.kind.to_string())
            .collect::<Vec<_>>()
            .join(" and as ")
    );
    match found.pop() {
        Some(lock) => Ok(lock),
        None if foreign => bail!(
            "the key '{name}' was not written by Lockstock and has no waiters, so it may not be a \
             lock at all: if you are sure, delete it with redis-cli"
        ),
        None => bail!("'{name}' has no holder: `lockstock locks` lists the locks that are held"),
    }
}

/// Returns the holders that are to lose the lock: all, or the one whose token begins with
/// `prefix`.
fn losers(lock: &LockInfo, prefix: Option<&str>) -> anyhow::Result<Vec<HolderId>> {
    let holders = lock.holders.iter().map(|holder| holder.id);
    let Some(prefix) = prefix else {
        return Ok(holders.collect());
    };
    let tokens = holders.clone().map(|holder| holder.to_string());
    let tokens = tokens.collect::<Vec<_>>().join(", ");
    let mut matching = holders.filter(|holder| holder.to_string().starts_with(prefix));
    let loser = matching.next().with_context(|| {
        format!("no holder has a token that begins with '{prefix}'. The tokens are {tokens}")
    })?;
    ensure!(
        matching.next().is_none(),
        "several holders have a token that begins with '{prefix}': give a longer prefix of one of \
         {tokens}"
    );
    Ok(vec![loser])
}

fn consequences(lock: &LockInfo, losers: &[HolderId]) -> String {
    let subject_of_loss = match losers {
        [one] => subject(*one),
        _ => format!("All {} holders", losers.len()),
    };
    let some_stay = losers.len() < lock.holders.len();
    let next = match &lock.waiters[..] {
        [] if some_stay => "The other holders keep it.".to_owned(),
        [first, ..] if some_stay => format!(
            "The other holders keep it. Process {} is the first waiter.",
            first.client_id
        ),
        [] => "It has no waiters in the store: it becomes free.".to_owned(),
        [only] => format!("Process {} waits and gets it.", only.client_id),
        [first, ..] => format!(
            "Process {}, the first of {} waiters, gets it.",
            first.client_id,
            lock.waiters.len(),
        ),
    };
    format!(
        "{subject_of_loss} will lose it at once, without a notification. {next}\n\
         Until the new holder has written, the old holder can still write; from then on a \
         database\nthat compares fences, as the server's does, rejects the old holder."
    )
}

fn subject(holder: HolderId) -> String {
    match holder.client_id() {
        Some(process) => format!("Process {process}"),
        None => "The foreign holder".to_owned(),
    }
}
