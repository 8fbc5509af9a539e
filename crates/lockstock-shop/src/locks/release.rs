//! `lockstock locks release`: takes a lock away from those who were seen to hold it, once a
//! person has said so.

use std::io::{IsTerminal, Write, stdin, stdout};

use anyhow::{Context, bail, ensure};
use lockstock::{HolderId, HolderInfo, LockInfo, LockKind, Store};

use super::name;
use super::table::{self, Look};
use crate::cli::Release;
use crate::logging;

pub(super) async fn release(store: &Store, options: Release) -> anyhow::Result<()> {
    // What is done by force is to be found in a log.
    let _written = logging::start("warn")?;
    let lock = find(store, &options).await?;
    let losers = losers(&lock, options.holder.as_deref())?;
    let mut out = stdout();
    let one = [lock];
    let table = table::draw(&one, Look::of(out.is_terminal()));
    let [lock] = one;
    writeln!(out, "{table}\n{}", consequences(&lock, &losers))?;
    if !options.yes {
        ensure!(
            stdin().is_terminal(),
            "nothing was released: standard input is no terminal, so nobody can be asked. Say \
             --yes to release it without being asked"
        );
        write!(out, "Release it by force? [y/N] ")?;
        out.flush()?;
        let mut answer = String::new();
        stdin().read_line(&mut answer)?;
        ensure!(
            matches!(&*answer.trim().to_lowercase(), "y" | "yes"),
            "nothing was released"
        );
    }
    for loser in losers {
        // By the one that was shown: who came after it in the meantime keeps the lock.
        let released = store
            .force_release(lock.kind, &lock.name, Some(loser))
            .await?;
        match released {
            true => writeln!(out, "{} has lost it.", called(loser))?,
            false => writeln!(out, "{} had given it back by then.", called(loser))?,
        }
    }
    let now = store.lock_info(lock.kind, &lock.name).await?;
    let holders = now.map(|now| now.holders).unwrap_or_default();
    match &holders[..] {
        [] => writeln!(out, "It is free.")?,
        holders => {
            for HolderInfo { id, fence, .. } in holders {
                let fence = fence.map_or(String::new(), |fence| format!(", fence {fence}"));
                writeln!(out, "{} has it now{fence}.", called(*id))?;
            }
        }
    }
    Ok(())
}

/// The lock that is meant.
async fn find(store: &Store, options: &Release) -> anyhow::Result<LockInfo> {
    let bytes = &options.name.0;
    let shown = name::shown(bytes);
    let kinds = match options.kind {
        Some(kind) => vec![kind.lock_kind()],
        None => LockKind::ALL.to_vec(),
    };
    let mut found = Vec::new();
    let mut stranger = false;
    for kind in kinds {
        let info = store.lock_info(kind, bytes).await?;
        let Some(info) = info.filter(|info| !info.holders.is_empty()) else {
            continue;
        };
        // Any key with a value looks like this, a cached page too.
        let unknown = info.holders.iter().all(|holder| holder.id.is_foreign());
        if unknown && info.waiters.is_empty() {
            stranger = true;
        } else {
            found.push(info);
        }
    }
    ensure!(
        found.len() < 2,
        "'{shown}' is held as {}: say which with --kind",
        found
            .iter()
            .map(|lock| lock.kind.to_string())
            .collect::<Vec<_>>()
            .join(" and as ")
    );
    match found.pop() {
        Some(lock) => Ok(lock),
        None if stranger => bail!(
            "the key '{shown}' holds something that is no lock of ours, and nobody waits for \
             it, so it may be no lock at all: if you are sure, delete it with redis-cli"
        ),
        None => bail!("nobody holds '{shown}': `lockstock locks` shows what is held"),
    }
}

/// Those who are to lose it.
fn losers(lock: &LockInfo, wanted: Option<&str>) -> anyhow::Result<Vec<HolderId>> {
    let holders = lock.holders.iter().map(|holder| holder.id);
    let Some(wanted) = wanted else {
        return Ok(holders.collect());
    };
    let tokens = holders.clone().map(|holder| holder.to_string());
    let tokens = tokens.collect::<Vec<_>>().join(", ");
    let mut meant = holders.filter(|holder| holder.to_string().starts_with(wanted));
    let one = meant
        .next()
        .with_context(|| format!("no holder's token begins with '{wanted}': there are {tokens}"))?;
    ensure!(
        meant.next().is_none(),
        "the tokens of several holders begin with '{wanted}', give more of one: {tokens}"
    );
    Ok(vec![one])
}

fn consequences(lock: &LockInfo, losers: &[HolderId]) -> String {
    let who = match losers {
        [one] => called(*one),
        _ => format!("All {} holders", losers.len()),
    };
    let next = match lock.waiters.first() {
        Some(first) if losers.len() < lock.holders.len() => format!(
            "The other holders keep it. Process {} is the first in line.",
            first.client_id
        ),
        None if losers.len() < lock.holders.len() => "The other holders keep it.".to_owned(),
        Some(first) if lock.waiters.len() == 1 => {
            format!("Process {} waits and is handed it.", first.client_id)
        }
        Some(first) => format!(
            "Process {} is handed it, the first of {} who wait.",
            first.client_id,
            lock.waiters.len(),
        ),
        None => "Nobody waits in the store: it is free for whoever comes.".to_owned(),
    };
    format!(
        "{who} will lose it at once, without being told. {next}\n\
         If the old holder is still at work, it may write until the next one has written; from \
         then on\nthe fence refuses it, where the database compares fences as the shop's does."
    )
}

fn called(holder: HolderId) -> String {
    match holder.client_id() {
        Some(process) => format!("Process {process}"),
        None => "The foreign holder".to_owned(),
    }
}
