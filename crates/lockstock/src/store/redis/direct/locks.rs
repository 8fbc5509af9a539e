//! Locks over blocking connections: one call to acquire a lock that is free, one to release it, without
//! a runtime and without a thread. Waits are in `waits.rs`.
//!
//! Guarantees: those of the link. A request does not overtake a waiter, whether that is in
//! Redis' queue (the script looks) or in the local queue of its lock (then the link asks). What a
//! request may have been granted without a reply is given back: on the same connection, because the
//! server may execute it whenever it goes on, and over the link, because that connection may break.
//!
//! A lock that was acquired here, or after a wait here, has no local queue behind it. It is handed over as
//! if its holder and its waiters were in different processes.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstock_fork::generation;
use redis::{Cmd, Value};
use tokio::time::Instant;
use tracing::debug;

use super::super::attempt::{Attempt, Grant};
use super::super::connection::direct::DirectError;
use super::super::connection::{Eval, NO_SCRIPT};
use super::super::operation::{AcquireArgs, Operation, waited_us};
use super::super::replies::{AcquireReply, parse_acquire, parse_release};
use super::super::script;
use super::super::script_call::{Reply, replies, script_call};
use super::{DirectRedis, must_be_repeated};
use crate::error::{Error, Result};
use crate::key::Keys;
use crate::store::request::{Outcome, ReleaseOutcome, Request};

/// For how long after a lock was found busy it is asked for where the request can wait: the call here
/// would be one more.
const BUSY: Duration = Duration::from_millis(10);
/// Of a power of two, see [`BusyNames`].
const BUSY_NAMES: usize = 64;

/// What came of an operation over a blocking connection.
pub(crate) enum Attempted<T> {
    Done(T),
    /// The link has to carry it out. It was not carried out here.
    Left,
    /// The link has to carry it out. It may have been carried out here.
    Unsettled,
}

impl DirectRedis {
    /// Acquires a lock, and waits for it if that is possible on this thread. Continues with the request
    /// that the link has to carry out.
    pub(in crate::store::redis) fn acquire(
        &self,
        request: Request,
    ) -> Result<ControlFlow<Outcome<Grant>, Request>> {
        // A request that does not wait asks once, wherever.
        if request.has_timed_out() {
            return self.ask(request);
        }
        let has_local_queue = self
            .link
            .get()
            .is_some_and(|link| link.local_queues.has(&request.keys));
        if has_local_queue {
            return Ok(ControlFlow::Continue(request));
        }
        if self.busy.is_recent(&request.keys) {
            return self.wait(request);
        }
        self.ask(request)
    }

    /// Asks for a lock once, before it waits for it.
    fn ask(&self, request: Request) -> Result<ControlFlow<Outcome<Grant>, Request>> {
        let attempt = Arc::new(Attempt::new(request));
        attempt.ask_for_fences(1);
        let request = &attempt.request;
        let acquire = Operation::Acquire {
            args: AcquireArgs::immediate(&attempt),
            waited_us: waited_us(request),
        };
        let leave = Operation::Leave {
            args: AcquireArgs::waiting(&attempt),
            give_back: true,
        };
        let before = generation();
        let reply = match self.operate(&request.keys, acquire, true, Some(leave)) {
            Ok(Attempted::Done(reply)) => parse_acquire(&attempt, &reply),
            Ok(Attempted::Left) => return Ok(ControlFlow::Continue(request.clone())),
            Ok(Attempted::Unsettled) => {
                self.withdraw(&attempt);
                return Ok(ControlFlow::Continue(request.clone().renewed()));
            }
            Err(error) => Err(error),
        };
        match reply {
            Ok(AcquireReply::Granted(grant)) => Ok(ControlFlow::Break(Outcome::Acquired(grant))),
            Ok(AcquireReply::Busy(holder)) => {
                if request.has_timed_out() || holder.is_kept_beyond(request) {
                    return Ok(ControlFlow::Break(holder.busy()));
                }
                self.busy.note(&request.keys);
                self.wait(request.clone())
            }
            Err(error) => {
                // In a child of `fork` the request is that of the parent.
                if generation() == before {
                    self.withdraw(&attempt);
                }
                Err(error)
            }
        }
    }

    /// Releases a lock behind which no caller of this process waits. If that fails, it has to be retried
    /// over the link.
    pub(in crate::store::redis) fn release(
        &self,
        keys: &Arc<Keys>,
        release: Operation,
    ) -> Result<Attempted<ReleaseOutcome>> {
        Ok(match self.operate(keys, release, false, None)? {
            Attempted::Done(reply) => Attempted::Done(parse_release(&reply)?),
            Attempted::Left => Attempted::Left,
            Attempted::Unsettled => Attempted::Unsettled,
        })
    }

    /// Lets calls use the blocking connections again: the link has reached the server.
    pub(in crate::store) fn reached(&self, keys: &Keys) {
        let key = redis::cmd("EXISTS").arg(&keys.holder).take();
        if let Ok(Some(pool)) = self.pool(&key)
            && pool.is_bypassed()
        {
            pool.end_bypass();
        }
    }

    /// Leaves the queue in the background, and gives back what was granted.
    pub(super) fn withdraw(&self, attempt: &Arc<Attempt>) {
        match self.link() {
            Ok(link) => link.withdraw(attempt),
            // The lease ends it.
            Err(error) => debug!(%error, "a request is not withdrawn"),
        }
    }

    fn operate(
        &self,
        keys: &Arc<Keys>,
        operation: Operation,
        is_repeatable: bool,
        withdrawal: Option<Operation>,
    ) -> Result<Attempted<Reply>> {
        let slot = match &self.single {
            Some(_) => self.slot.clone(),
            None => self.link()?.connection.slot(keys),
        };
        let command = |operation, eval| {
            let operations = std::iter::once((&**keys, operation));
            script_call(script(keys.kind, operation), &slot, operations, eval)
        };
        let mut cmd = command(operation, Eval::Sha);
        let Some(pool) = self.pool(&cmd)? else {
            return Ok(Attempted::Left);
        };
        if pool.is_bypassed() {
            return Ok(Attempted::Left);
        }
        // With the text of its script: its reply is not read.
        let withdrawal = withdrawal.map(|operation| move || command(operation, Eval::Source));
        let withdrawal = withdrawal.as_ref().map(|build| build as &dyn Fn() -> Cmd);
        let limits = self.limits();
        // Before the first attempt, if there are two: the deadline of a grant counts from it.
        let sent_at = Instant::now();
        let mut call = pool.call_or_withdraw(&cmd, is_repeatable, &limits, withdrawal);
        if call.as_ref().is_ok_and(is_unknown_script) {
            cmd = command(operation, Eval::Source);
            call = pool.call_or_withdraw(&cmd, is_repeatable, &limits, withdrawal);
        }
        match call {
            Ok(Value::Array(values)) => match replies(values, sent_at, false).next() {
                Some(reply) => reply.map(Attempted::Done),
                None => Ok(Attempted::Unsettled),
            },
            // The link may succeed, or knows what to report.
            Ok(reply) => {
                must_be_repeated(&pool, &reply);
                Ok(Attempted::Left)
            }
            Err(DirectError::Unreachable(reason)) => {
                debug!(reason, "no blocking connection");
                pool.bypass();
                Ok(Attempted::Left)
            }
            Err(DirectError::Broken { reason, .. }) => {
                debug!(reason, "a blocking connection broke");
                Ok(Attempted::Unsettled)
            }
            Err(DirectError::TimedOut) => Err(self.timed_out(&pool, &cmd, sent_at.into_std())),
            Err(DirectError::Interrupted(reason)) => Err(Error::interrupted(reason)),
        }
    }
}

pub(super) fn is_unknown_script(reply: &Value) -> bool {
    let Value::ServerError(error) = reply else {
        return false;
    };
    error.kind().is_some_and(|kind| NO_SCRIPT == kind.into())
}

impl fmt::Debug for DirectRedis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not derived: the settings contain the password.
        f.write_str("DirectRedis")
    }
}

/// When locks were last found busy. Names that share a place are asked for over the link without
/// need, which is harmless.
pub(super) struct BusyNames {
    created_at: Instant,
    hasher: RandomState,
    /// In ms since `created_at`, 0 for never.
    last_ms: [AtomicU64; BUSY_NAMES],
}

impl BusyNames {
    pub(super) fn new() -> Self {
        Self {
            created_at: Instant::now(),
            hasher: RandomState::new(),
            last_ms: [const { AtomicU64::new(0) }; BUSY_NAMES],
        }
    }

    pub(super) fn note(&self, keys: &Keys) {
        self.place(keys).store(self.now_ms(), Ordering::Relaxed);
    }

    fn is_recent(&self, keys: &Keys) -> bool {
        let last_ms = self.place(keys).load(Ordering::Relaxed);
        last_ms != 0 && u128::from(self.now_ms() - last_ms) < BUSY.as_millis()
    }

    fn place(&self, keys: &Keys) -> &AtomicU64 {
        let hash = self.hasher.hash_one(&keys.holder);
        let places = u64::try_from(BUSY_NAMES).unwrap_or(1);
        &self.last_ms[usize::try_from(hash % places).unwrap_or_default()]
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.created_at.elapsed().as_millis()).map_or(u64::MAX, |ms| ms + 1)
    }
}
