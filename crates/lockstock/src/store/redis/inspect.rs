//! Listing the locks in Redis, and taking a lock away.
//!
//! The names are found by a scan of the whole key space, in small steps: queues, permits and
//! readers by the prefix of their keys, the holder keys of exclusive locks by their values.
//! Then one script call inspects each name, so that its holders and waiters are of one moment.
//! Each command is replied to within the timeout, or the listing fails.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{StreamExt, TryStreamExt, iter};
use redis::RedisError;
use tokio::time::Instant;

use super::connection::{Eval, ReadConnection};
use super::operation::Operation;
use super::replies::parse;
use super::scan::{KEYS_PER_PAGE, ServerScan};
use super::{Redis, scripts};
use crate::error::{Error, Result};
use crate::inspect::{Access, HolderId, HolderInfo, Identity, LockInfo, WaiterInfo, minted_at};
use crate::key::{Keys, LockKind};
use crate::token::{ClientId, Token};

/// Number of names that are inspected at once.
const MAX_INSPECTED_AT_ONCE: usize = 64;
/// Prefixes of the value of an exclusive lock's holder key, all of the same length.
const HOLDER_PREFIXES: [&[u8]; 3] = [b"lockstock:held:", b"lockstock:want:", b"lockstock:kept:"];

/// Keys that a scan visits.
#[derive(Clone, Copy)]
enum Visited {
    /// Strings: the holder keys of exclusive locks are among them.
    Strings,
    /// Sorted sets of this crate: queues, permits, readers and writers.
    SortedSets,
}

impl Redis {
    /// Returns the locks, and whether all keys were visited: at most about `max_keys` of each server
    /// are.
    pub(in crate::store) async fn inspect_all(
        &self,
        max_keys: usize,
    ) -> Result<(Vec<LockInfo>, bool)> {
        let (mut names, mut is_complete) = (HashSet::new(), true);
        let max_pages = max_keys.div_ceil(KEYS_PER_PAGE);
        for server in self.connection.servers().await? {
            for visited in [Visited::Strings, Visited::SortedSets] {
                is_complete &= self.scan(&server, visited, max_pages, &mut names).await?;
            }
        }
        let locks = names.into_iter().map(|(kind, name)| async move {
            let keys = Keys::of(kind, &name)?;
            match self.inspect(&keys, name).await {
                Ok(lock) => Ok(Some(lock)),
                // Queues are visible to every user of the crate, the locks of others are not.
                Err(error) if error.redis_source().is_some_and(is_forbidden_key) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let locks = iter(locks)
            .buffer_unordered(MAX_INSPECTED_AT_ONCE)
            .try_filter_map(async |lock| Ok(lock))
            .try_collect()
            .await?;
        Ok((locks, is_complete))
    }

    /// Adds the names of the locks that the scan finds. Returns whether it has visited all keys.
    async fn scan(
        &self,
        server: &ReadConnection,
        visited: Visited,
        max_pages: usize,
        names: &mut HashSet<(LockKind, Vec<u8>)>,
    ) -> Result<bool> {
        let filter: &[&str] = match visited {
            Visited::Strings => &["TYPE", "string"],
            Visited::SortedSets => &["TYPE", "zset", "MATCH", "lockstock:*"],
        };
        let filter = filter.iter().map(|word| word.as_bytes().to_vec()).collect();
        let mut scan = ServerScan::new(server.clone(), filter);
        let mut pages = 0;
        while let Some(mut keys) = scan.next_page(self).await? {
            pages += 1;
            if let Visited::Strings = visited {
                keys = self.holder_keys(server, keys).await?;
            }
            names.extend(keys.iter().filter_map(|key| Keys::parse(key)));
            if pages >= max_pages && !scan.is_at_end() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the keys whose value a holder of this crate has written.
    async fn holder_keys(
        &self,
        server: &ReadConnection,
        mut keys: Vec<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>> {
        let prefix = |key| {
            let mut cmd = redis::cmd("GETRANGE");
            cmd.arg(key).arg(0).arg(HOLDER_PREFIXES[0].len() - 1);
            cmd
        };
        if keys.is_empty() {
            return Ok(keys);
        }
        let commands = keys.iter().map(prefix).collect();
        let deadline = Instant::now() + self.timeout;
        let replies = server.read::<Vec<u8>>(commands, deadline).await?;
        let mut prefixes = replies.values.into_iter();
        let mut failure = None;
        keys.retain(|_| match prefixes.next() {
            Some(Ok(prefix)) => HOLDER_PREFIXES.contains(&&*prefix),
            // The key held a string at the time of the scan.
            Some(Err(error)) if error.code() == Some("WRONGTYPE") => false,
            // A key of another application.
            Some(Err(error)) if is_forbidden_key(&error) => false,
            Some(Err(error)) => {
                failure = Some(error);
                false
            }
            None => false,
        });
        match failure {
            Some(error) => Err(Error::redis(error)),
            None => Ok(keys),
        }
    }

    /// Returns the holders and the waiters of one lock.
    pub(in crate::store) async fn inspect(&self, keys: &Keys, name: Vec<u8>) -> Result<LockInfo> {
        let command = |eval: Eval| {
            let mut cmd = eval.command(&scripts::INSPECT);
            cmd.arg(2).arg(&keys.holder).arg(&keys.queue);
            cmd.arg(u8::from(keys.kind == LockKind::Lock));
            cmd
        };
        let deadline = Instant::now() + self.timeout;
        let reply = self
            .connection
            .run::<Inspected>(Eval::Sha, command, deadline)
            .await?;
        let (now_us, exclusive, shared, queue) = reply.value;
        let kind = keys.kind;
        let mut holders = exclusive
            .and_then(exclusive_holder)
            .into_iter()
            .collect::<Vec<_>>();
        let further = further_permits(&shared);
        holders.extend(shared.iter().filter_map(|(member, deadline_ms)| {
            let mut holder = shared_holder(kind, member, *deadline_ms, now_us)?;
            if let Identity::Client(token) = holder.id.0 {
                holder.permits += further.get(&token).unwrap_or(&0);
            }
            Some(holder)
        }));
        let queue = queue.iter();
        let waiters =
            queue.filter_map(|(member, arrived_us)| waiter(kind, member, *arrived_us, now_us));
        Ok(LockInfo {
            kind,
            name,
            holders,
            waiters: waiters.collect(),
            observed_at: minted_at(now_us),
        })
    }

    /// Takes the lock away from `holder`. Returns `false` if it did not hold the lock.
    pub(in crate::store) async fn force_release(
        &self,
        keys: &Arc<Keys>,
        holder: HolderId,
    ) -> Result<bool> {
        let reply = self.submit(keys, Operation::ForceRelease(holder)).await?;
        // If the call was repeated, the first one may have released the lock.
        Ok(reply.repeated || parse(&reply)?)
    }
}

/// Reply of `scripts/inspect.lua`. A member of an unknown form belongs to a later version, and
/// is skipped.
type Inspected = (u64, Option<ExclusiveHolder>, Vec<Member>, Vec<Member>);
/// Mark, token, fence and rest of the lease in ms.
type ExclusiveHolder = (String, String, u64, i64);
/// Member and score of a sorted set.
type Member = (Vec<u8>, f64);

/// Returns whether the user may not access the key, rather than may not run the command. Redis has
/// one code for both.
fn is_forbidden_key(error: &RedisError) -> bool {
    let detail = error.detail().unwrap_or_default();
    error.code() == Some("NOPERM") && detail.contains("to access")
}

fn exclusive_holder((mark, token, fence, remaining_ms): ExclusiveHolder) -> Option<HolderInfo> {
    let (identity, fence) = match &*mark {
        "foreign" => (
            Identity::Foreign(u64::from_str_radix(&token, 16).ok()?),
            None,
        ),
        _ => (Identity::Client(Token::parse(&token)?), Some(fence)),
    };
    Some(HolderInfo {
        id: HolderId(identity),
        access: Access::Exclusive,
        permits: 1,
        acquired_at: fence.map(minted_at),
        remaining: u64::try_from(remaining_ms).ok().map(Duration::from_millis),
        kept: mark == "kept",
        fence,
    })
}

/// Returns how many permits each holder has beside its first. Each is a member of the set: see
/// `scripts/shared.lua`.
fn further_permits(members: &[Member]) -> HashMap<Token, u32> {
    let mut further = HashMap::new();
    for (member, _) in members {
        let member = str::from_utf8(member).unwrap_or_default();
        if let Some((prefix, token)) = member.split_once(':')
            && prefix.starts_with('n')
            && let Some(token) = Token::parse(token)
        {
            *further.entry(token).or_insert(0) += 1;
        }
    }
    further
}

fn shared_holder(
    kind: LockKind,
    member: &[u8],
    deadline_ms: f64,
    now_us: u64,
) -> Option<HolderInfo> {
    let (mode, token) = str::from_utf8(member).ok()?.split_once(':')?;
    if mode.starts_with('n') {
        return None;
    }
    // An expired holder stays in the set until the next operation. In whole milliseconds, as
    // the scripts compare.
    let remaining_ms = integer(deadline_ms)
        .checked_sub(now_us / 1000)
        .filter(|&remaining_ms| remaining_ms > 0)?;
    Some(HolderInfo {
        id: HolderId(Identity::Client(Token::parse(token)?)),
        access: access(kind, mode),
        permits: 1,
        acquired_at: None,
        remaining: Some(Duration::from_millis(remaining_ms)),
        kept: false,
        fence: None,
    })
}

/// Parses a member of the queue: see `scripts/prelude.lua`.
fn waiter(kind: LockKind, member: &[u8], arrived_us: f64, now_us: u64) -> Option<WaiterInfo> {
    let mut parts = str::from_utf8(member).ok()?.split(':');
    // What follows is the number of a connection of that client.
    let client_id = ClientId::parse(parts.next()?.get(..16)?)?;
    let lease_ms = parts.next()?.parse().ok()?;
    let wait_ms = parts.next()?.parse::<i64>().ok()?;
    let mode = parts.nth(1)?;
    let waited = Duration::from_micros(now_us.saturating_sub(integer(arrived_us)));
    let timeout_in = match u64::try_from(wait_ms) {
        // After the deadline the next hand-over skips the waiter, so it is not listed.
        Ok(wait_ms) => Some(Duration::from_millis(wait_ms).checked_sub(waited)?),
        Err(_) => None,
    };
    Some(WaiterInfo {
        client_id,
        access: access(kind, mode),
        permits: mode
            .split_once('m')
            .map_or(Some(1), |(_, permits)| permits.parse().ok())?,
        waited,
        timeout_in,
        lease: Duration::from_millis(lease_ms),
    })
}

fn access(kind: LockKind, mode: &str) -> Access {
    match kind {
        _ if mode == "x" => Access::Exclusive,
        LockKind::Lock | LockKind::Semaphore => Access::Permit,
        LockKind::ReadWrite => Access::Read,
    }
}

/// Returns a score as the integer that the scripts wrote.
fn integer(score: f64) -> u64 {
    // Exact below 2^53. The cast saturates for a score that the scripts did not write.
    score as u64
}
