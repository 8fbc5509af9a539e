//! What Redis has of locks, for those who run it, and taking one away.
//!
//! Names are found by a walk through the whole key space, in small steps: side keys by what
//! their names begin with, the keys of plain names by what they hold. Then each name is looked
//! at by one script, so that what is told of it is of one moment. Each command is answered
//! within the timeout, or the listing fails.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{StreamExt, TryStreamExt, iter};
use redis::{Cmd, FromRedisValue, Pipeline, RedisResult};
use tokio::time::Instant;

use super::batch::Operation;
use super::connection::{Eval, ReadConnection};
use super::{Redis, parse, scripts};
use crate::error::Result;
use crate::inspect::{Access, HolderId, HolderInfo, LockInfo, WaiterInfo, Who, minted};
use crate::key::{Keys, LockKind};
use crate::token::{ClientId, Token};

/// How many keys a step of the walk is about: what Redis does in well under a millisecond.
const KEYS_A_STEP: usize = 500;
/// How many names are looked at at once.
const NAMES_AT_ONCE: usize = 64;
/// What the holder's key of a lock begins with; all marks have as many letters.
const MARKS: [&[u8]; 3] = [b"lockstock:held:", b"lockstock:want:", b"lockstock:kept:"];

/// Which keys are walked through.
#[derive(Clone, Copy)]
enum Walk {
    /// The holders of locks are among them.
    Strings,
    /// Queues, permits, readers and writers.
    Sides,
}

impl Redis {
    pub(in crate::store) async fn locks(&self) -> Result<Vec<LockInfo>> {
        let mut names = HashSet::new();
        for server in self.wire.servers() {
            for walk in [Walk::Strings, Walk::Sides] {
                self.walk(&server, walk, &mut names).await?;
            }
        }
        let looks = names.into_iter().map(|(kind, name)| async move {
            let keys = Keys::of(kind, &name)?;
            self.look(&keys, name).await
        });
        iter(looks)
            .buffer_unordered(NAMES_AT_ONCE)
            .try_collect()
            .await
    }

    /// Adds the names whose keys are there.
    async fn walk(
        &self,
        server: &ReadConnection,
        walk: Walk,
        names: &mut HashSet<(LockKind, Vec<u8>)>,
    ) -> Result<()> {
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("COUNT").arg(KEYS_A_STEP);
            match walk {
                Walk::Strings => scan.arg(&["TYPE", "string"]),
                Walk::Sides => scan.arg(&["TYPE", "zset", "MATCH", "lockstock:*"]),
            };
            let mut keys = Vec::new();
            for step in self
                .read_from::<(u64, Vec<Vec<u8>>)>(server, vec![scan])
                .await?
            {
                (cursor, keys) = step?;
            }
            if let Walk::Strings = walk {
                keys = self.marked(server, keys).await?;
            }
            names.extend(keys.iter().filter_map(|key| Keys::parse(key)));
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    /// Those of the keys that hold what a holder of ours has put there.
    async fn marked(
        &self,
        server: &ReadConnection,
        mut keys: Vec<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>> {
        let begin = |key| {
            let mut begin = redis::cmd("GETRANGE");
            begin.arg(key).arg(0).arg(MARKS[0].len() - 1);
            begin
        };
        let begins = self.read_from::<Vec<u8>>(server, keys.iter().map(begin).collect());
        let mut begins = begins.await?.into_iter();
        let mut refused = None;
        keys.retain(|_| match begins.next() {
            Some(Ok(begin)) => MARKS.contains(&&*begin),
            // It was a string a moment ago.
            Some(Err(error)) if error.code() == Some("WRONGTYPE") => false,
            Some(Err(error)) => {
                refused = Some(error);
                false
            }
            None => false,
        });
        match refused {
            Some(error) => Err(error.into()),
            None => Ok(keys),
        }
    }

    async fn read_from<T: FromRedisValue>(
        &self,
        server: &ReadConnection,
        commands: Vec<Cmd>,
    ) -> Result<Vec<RedisResult<T>>> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(command);
        }
        let until = Instant::now() + self.limit;
        server.read(&mut pipeline, until).await
    }

    /// What there is of one name.
    pub(in crate::store) async fn look(&self, keys: &Keys, name: Vec<u8>) -> Result<LockInfo> {
        let command = |by: Eval| {
            let mut look = by.command(&scripts::INSPECT);
            look.arg(2).arg(&keys.holder).arg(&keys.queue);
            look.arg(u8::from(keys.kind == LockKind::Lock));
            look
        };
        let until = Instant::now() + self.limit;
        let looked = self.wire.run::<Looked>(command, until).await?;
        let (now, one, sharers, waiters) = looked.value;
        let kind = keys.kind;
        let mut holders = one.and_then(holder).into_iter().collect::<Vec<_>>();
        let sharers = sharers.iter();
        holders.extend(sharers.filter_map(|(member, ends)| sharer(kind, member, *ends, now)));
        let waiters = waiters.iter();
        let waiters = waiters.filter_map(|(member, arrived)| waiter(kind, member, *arrived, now));
        Ok(LockInfo {
            kind,
            name,
            holders,
            waiters: waiters.collect(),
            observed_at: minted(now),
        })
    }

    /// Takes a lock away. Whether that holder had it.
    pub(in crate::store) async fn force(&self, keys: &Arc<Keys>, holder: HolderId) -> Result<bool> {
        let step = Operation::Force(holder);
        let answered = self.step(keys, step).await?;
        // If it was asked twice, it is gone by the first time.
        Ok(answered.repeated || parse(&answered)?)
    }
}

/// What `scripts/inspect.lua` answers. A member of a form that we do not know is of a version to
/// come.
type Looked = (u64, Option<Holder>, Vec<Member>, Vec<Member>);
type Holder = (String, String, u64, i64);
type Member = (Vec<u8>, f64);

fn holder((mark, token, fence, left): Holder) -> Option<HolderInfo> {
    let (who, fence) = match &*mark {
        "foreign" => (Who::Foreign(u64::from_str_radix(&token, 16).ok()?), None),
        _ => (Who::Ours(Token::parse(&token)?), Some(fence)),
    };
    Some(HolderInfo {
        id: HolderId(who),
        access: Access::Exclusive,
        acquired_at: fence.map(minted),
        remaining: u64::try_from(left).ok().map(Duration::from_millis),
        kept: mark == "kept",
        fence,
    })
}

fn sharer(kind: LockKind, member: &[u8], ends: f64, now: u64) -> Option<HolderInfo> {
    let (mode, token) = str::from_utf8(member).ok()?.split_once(':')?;
    // Its lease may have ended with nobody looking. To whole milliseconds, as the scripts do.
    let left = whole(ends)
        .checked_sub(now / 1000)
        .filter(|&left| left > 0)?;
    Some(HolderInfo {
        id: HolderId(Who::Ours(Token::parse(token)?)),
        access: access(kind, mode),
        acquired_at: None,
        remaining: Some(Duration::from_millis(left)),
        kept: false,
        fence: None,
    })
}

/// See `scripts/prelude.lua`.
fn waiter(kind: LockKind, member: &[u8], arrived: f64, now: u64) -> Option<WaiterInfo> {
    let mut parts = str::from_utf8(member).ok()?.split(':');
    let client_id = ClientId::parse(parts.next()?)?;
    let lease = parts.next()?.parse().ok()?;
    let wait = parts.next()?.parse::<i64>().ok()?;
    let mode = parts.nth(1)?;
    let waited = Duration::from_micros(now.saturating_sub(whole(arrived)));
    let timeout_in = match u64::try_from(wait) {
        // Passed over at a hand-over: it left without a word, or is about to.
        Ok(wait) => Some(Duration::from_millis(wait).checked_sub(waited)?),
        Err(_) => None,
    };
    Some(WaiterInfo {
        client_id,
        access: access(kind, mode),
        waited,
        timeout_in,
        lease: Duration::from_millis(lease),
    })
}

fn access(kind: LockKind, mode: &str) -> Access {
    match kind {
        _ if mode == "x" => Access::Exclusive,
        LockKind::Lock | LockKind::Semaphore => Access::Permit,
        LockKind::ReadWrite => Access::Read,
    }
}

/// A score as the whole number that was written.
fn whole(score: f64) -> u64 {
    // Exact below 2^53; a cast of what is none of ours saturates.
    score as u64
}
