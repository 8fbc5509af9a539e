//! Locks in one Redis or Valkey, and values (`redis/values.rs`).
//!
//! Each step is part of a script. A waiter stands in a queue there and is handed the lock by
//! whoever releases it, through one channel a process; of one name only the first waiter of a
//! process does so, the others stand in line behind it here. What can be shared (permits,
//! readers) has no such line: there everybody asks.
//!
//! Every step may be taken twice with the same arguments, so a call whose answer was lost is
//! simply sent again, and waiters ask again after a break.

mod batch;
mod cohort;
mod connection;
mod inspect;
mod notifications;
mod replies;
mod scripts;
mod values;

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::time::{Instant, sleep};

pub(super) use self::batch::PendingReply;
use self::batch::{AcquireArgs, Operation, ScriptBatcher};
use self::cohort::{LocalGrant, LocalQueues};
pub(crate) use self::cohort::{LocalOutcome, MAX_LOCAL_HANDOVERS, QueueHead};
use self::connection::{Connection, Eval, LuaScript};
use self::notifications::{Notification, Notifications};
pub(super) use self::replies::parse_release;
use self::replies::{AcquireReply, CurrentHolder, deadline_of_pushed_grant, parse, parse_acquire};
use super::request::{Grant, Handover, HoldState, Outcome, Ownership, Request, Tenant};
use crate::error::{Error, Result};
use crate::key::{Keys, LockKind};
use crate::token::ClientId;

/// How long after the end of a lease its waiters ask, at least and at most: not all at once.
const AFTER_LEASE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(4));

/// How often a waiter asks while the holder is none of ours, who would tell nobody.
const FIRST_POLL: Duration = Duration::from_millis(20);
const LAST_POLL: Duration = Duration::from_millis(100);

pub(super) struct Redis {
    wire: Connection,
    calls: ScriptBatcher,
    limit: Duration,
    /// This process, as the channel of its wakes and its waiters name it.
    process: ClientId,
    wakes: Notifications,
    lines: LocalQueues,
}

impl Redis {
    pub(super) async fn connect(url: &str, process: ClientId, limit: Duration) -> Result<Self> {
        let (wakes, losers) = Notifications::new();
        let wire = Connection::connect(url, process, wakes.clone(), limit).await?;
        let redis = Self {
            calls: ScriptBatcher::new(wire.clone(), limit),
            wire,
            limit,
            process,
            lines: LocalQueues::new(wakes.clone(), losers),
            wakes,
        };
        redis.ping().await?;
        Ok(redis)
    }

    /// A script that writes, rather than `PING`: whoever cannot do that cannot lock.
    pub(super) async fn ping(&self) -> Result<()> {
        let ping = |by: Eval| {
            let mut ping = by.command(&scripts::PING);
            ping.arg(1).arg(format!("lockstock:ping:{}", self.process));
            ping
        };
        let until = Instant::now() + self.limit;
        self.wire.run::<bool>(ping, until).await.map(drop)
    }

    /// Waits for the lock as long as the attempt may. Whoever gets an error, or drops the
    /// future, withdraws the attempt.
    pub(super) async fn acquire(&self, attempt: &Arc<Request>) -> Result<Outcome> {
        if attempt.is_over() {
            return self.try_once(attempt).await;
        }
        if attempt.keys.kind != LockKind::Lock {
            return self.wait(attempt, None).await;
        }
        match self.lines.stand(attempt).await {
            LocalOutcome::First(place) => {
                let answer = self.wait(attempt, Some(&place)).await;
                match answer {
                    Ok(Outcome::Granted(grant)) => {
                        let place = Some(place);
                        Ok(Outcome::Granted(Grant { place, ..grant }))
                    }
                    Err(error) => {
                        // They would hear the same, one after another, each after its timeout.
                        place.tell_failed(&error.to_string());
                        Err(error)
                    }
                    busy => busy,
                }
            }
            LocalOutcome::Passed(grant) => {
                Handover::Local.count();
                Ok(Outcome::Granted(grant))
            }
            LocalOutcome::Kept(ends) => Ok(Outcome::Busy {
                left: Some(ends.saturating_duration_since(Instant::now())),
                how: HoldState::Kept,
            }),
            LocalOutcome::Failed(why) => Err(Error::unavailable(why)),
            // Under another token: whoever releases may be about to put this one in the queue.
            LocalOutcome::TooLate => Ok(Outcome::NotAsked),
        }
    }

    async fn try_once(&self, attempt: &Request) -> Result<Outcome> {
        attempt.block.get_or_init(|| 1);
        Ok(match self.ask(attempt, false).await? {
            AcquireReply::Granted(grant) => Outcome::Granted(grant),
            AcquireReply::Busy(holder) => holder.busy(),
        })
    }

    /// Waits for what Redis says.
    async fn wait(&self, attempt: &Request, place: Option<&QueueHead>) -> Result<Outcome> {
        // As many fences as there may be holders, if there is somebody to pass it on to.
        let block = attempt.block_for(place.is_some_and(QueueHead::is_waited_for));
        let mut poll = FIRST_POLL;
        let mut lease_ended = false;
        // Listening before asking: a grant that comes in between is heard.
        let mut listening = self.wakes.listen(attempt.token);
        loop {
            let breaks = self.wakes.breaks();
            self.wire.ensure_subscribed(&attempt.keys).await?;
            let holder = match self.ask(attempt, true).await? {
                AcquireReply::Granted(grant) => {
                    if lease_ended {
                        Handover::Expiry.count();
                    }
                    return Ok(Outcome::Granted(self.hold(attempt, grant, place, breaks)));
                }
                AcquireReply::Busy(holder) => holder,
            };
            if holder.how == HoldState::Kept
                && let (Some(left), Some(place)) = (holder.left, place)
            {
                place.tell_kept(Instant::now() + left);
            }
            if holder.is_kept_beyond(attempt) {
                return match holder.queued {
                    // The store thought that there was just time enough.
                    true => self.give_up(attempt, place, breaks).await,
                    false => Ok(holder.busy()),
                };
            }
            let nap = nap(&holder, attempt.patience(), &mut poll);
            if let Some(place) = place {
                place.sleeps_until(Instant::now() + nap);
            }
            let told = tokio::select! {
                biased;
                told = listening.next(breaks) => told,
                () = sleep(nap) => {
                    lease_ended = holder.is_ours;
                    None
                }
            };
            match told {
                // Heard of too late: when we asked after it, it was not ours any more.
                Some(Notification::Held { at, .. }) if at <= holder.clock => {}
                Some(Notification::Held { fence, lease, at }) => {
                    let deadline = deadline_of_pushed_grant(&holder, lease, at);
                    if deadline <= Instant::now() {
                        // The lease has ended on the way here.
                        continue;
                    }
                    Handover::Remote.count();
                    let grant = Grant {
                        claim: Ownership {
                            token: attempt.token,
                            last_fence: fence,
                            block,
                        },
                        fence,
                        deadline,
                        place: None,
                    };
                    return Ok(Outcome::Granted(self.hold(attempt, grant, place, breaks)));
                }
                Some(Notification::Kept { left }) => {
                    if let Some(place) = place {
                        place.tell_kept(Instant::now() + left);
                    }
                    let (left, how) = (Some(left), HoldState::Kept);
                    return Ok(Outcome::Busy { left, how });
                }
                None if attempt.is_over() => return self.give_up(attempt, place, breaks).await,
                // The lease ended, or the connection broke and whatever was pushed is lost.
                Some(Notification::Ask | Notification::Lost) | None => {}
            }
        }
    }

    /// The wait is over, unless the lock was granted in this moment.
    async fn give_up(
        &self,
        attempt: &Request,
        place: Option<&QueueHead>,
        breaks: u64,
    ) -> Result<Outcome> {
        Ok(match self.leave(attempt, false).await? {
            AcquireReply::Granted(grant) => {
                Outcome::Granted(self.hold(attempt, grant, place, breaks))
            }
            AcquireReply::Busy(holder) => {
                self.left(attempt);
                holder.busy()
            }
        })
    }

    /// It left the queue. Should it be granted the lock all the same, it goes back.
    fn left(&self, attempt: &Request) {
        let (what, give_back) = (what(attempt, true), true);
        let leave = Operation::Leave { what, give_back };
        let script = script(attempt.keys.kind, leave);
        let give_back = self.calls.later(script, &attempt.keys, leave);
        self.wakes.left(attempt.token, give_back);
    }

    /// Makes a grant known to those in line behind: it may be passed on to them.
    fn hold(
        &self,
        attempt: &Request,
        mut grant: Grant,
        place: Option<&QueueHead>,
        breaks: u64,
    ) -> Grant {
        if let Some(place) = place {
            grant.fence = grant.claim.first_fence();
            place.hold(LocalGrant {
                claim: grant.claim,
                lease: attempt.lease,
                ends: grant.deadline,
                since: grant.deadline - attempt.lease,
                fences: grant.fence + 1..=grant.claim.last_fence,
                breaks,
            });
        }
        grant
    }

    /// Undoes an attempt whose end nobody knows or wants: leaves the queue, gives back what
    /// was granted.
    pub(super) async fn withdraw(&self, attempt: &Request) -> Result<()> {
        self.left(attempt);
        self.leave(attempt, true).await.map(drop)
    }

    async fn ask(&self, attempt: &Request, waits: bool) -> Result<AcquireReply> {
        let step = Operation::Acquire {
            what: what(attempt, waits),
            waited: waited(attempt),
        };
        parse_acquire(attempt, &self.step(&attempt.keys, step).await?)
    }

    async fn leave(&self, attempt: &Request, give_back: bool) -> Result<AcquireReply> {
        let what = what(attempt, true);
        let step = Operation::Leave { what, give_back };
        parse_acquire(attempt, &self.step(&attempt.keys, step).await?)
    }

    /// Gives the lock back. Whoever is next in line here stands in the queue before that, so
    /// that nobody is given it who came later.
    pub(super) fn release(&self, tenant: &Tenant, place: Option<&QueueHead>) -> PendingReply {
        let (claim, used) = (tenant.claim, tenant.used());
        let Some(next) = place.and_then(QueueHead::next) else {
            return self.step(&tenant.keys, Operation::Release { claim, used });
        };
        let attempt = next.attempt().clone();
        attempt.block_for(next.is_waited_for());
        let (what, waited) = (what(&attempt, true), waited(&attempt));
        let pass = Operation::Pass {
            claim,
            used,
            what,
            waited,
        };
        let asked = self.step(&tenant.keys, pass);
        if !next.call() {
            // It left, and may not know that it stands there.
            let give_back = true;
            drop(self.step(&tenant.keys, Operation::Leave { what, give_back }));
        }
        asked
    }

    pub(super) async fn keep(&self, tenant: &Tenant) -> Result<bool> {
        let (claim, used) = (tenant.claim, tenant.used());
        parse(
            &self
                .step(&tenant.keys, Operation::Keep { claim, used })
                .await?,
        )
    }

    pub(super) async fn renew(&self, tenant: &Tenant, left: Duration) -> Result<bool> {
        let step = Operation::Renew(tenant.claim.token, millis(left));
        parse(&self.step(&tenant.keys, step).await?)
    }

    /// Asks for a step from now on, whatever becomes of the answer.
    fn step(&self, keys: &Arc<Keys>, step: Operation) -> PendingReply {
        self.calls.ask(script(keys.kind, step), keys, step)
    }
}

fn script(kind: LockKind, step: Operation) -> &'static LuaScript {
    match kind {
        LockKind::Lock if step.is_rare() => &scripts::LOCKS_RARE,
        LockKind::Lock => &scripts::LOCKS,
        LockKind::Semaphore | LockKind::ReadWrite => &scripts::SHARED,
    }
}

/// For how long it has been waiting here, which counts as waiting there; in µs.
fn waited(attempt: &Request) -> u64 {
    match attempt.begun.elapsed().as_micros() {
        ..1000 => 0,
        waited => u64::try_from(waited).unwrap_or(u64::MAX),
    }
}

/// What is waited for, or only asked for once.
fn what(attempt: &Request, waits: bool) -> AcquireArgs {
    let wait = attempt
        .until
        .map_or(-1, |until| signed_millis(until - attempt.begun));
    AcquireArgs {
        token: attempt.token,
        lease: millis(attempt.lease),
        wait: waits.then_some(wait),
        block: attempt.block.get().copied().unwrap_or(1),
        mode: attempt.mode,
    }
}

/// How long to wait before asking again, should nobody tell us anything: until a little
/// after the lease of the holder, who may have died, or the end of the wait.
fn nap(holder: &CurrentHolder, patience: Option<Duration>, poll: &mut Duration) -> Duration {
    let mut rng = rand::rng();
    let lease_ends = holder
        .left
        .map(|left| left + rng.random_range(AFTER_LEASE.0..AFTER_LEASE.1));
    let next_poll = (!holder.is_ours).then(|| {
        let pause = poll.mul_f64(rng.random_range(0.8..1.0));
        *poll = (*poll * 2).min(LAST_POLL);
        pause
    });
    [lease_ends, next_poll, patience]
        .into_iter()
        .flatten()
        .min()
        // A holder of ours always has a lease; if one had none, this would be a poll.
        .unwrap_or(LAST_POLL)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn signed_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
