//! Locks in one Redis or Valkey, and values (`redis/values.rs`).
//!
//! Each step is part of a script. A waiter stands in a queue there and is handed the lock by
//! whoever releases it, through one channel a process; of one name only the first waiter of a
//! process does so, the others stand in line behind it here. What can be shared (permits,
//! readers) has no such line: there everybody asks.
//!
//! Every step may be taken twice with the same arguments, so a call whose answer was lost is
//! simply sent again, and waiters ask again after a break.

mod answers;
mod calls;
mod line;
mod listing;
mod values;
mod wakes;
mod wire;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rand::RngExt;
use tokio::time::{Instant, sleep};

pub(super) use self::answers::released;
use self::answers::{Holder, Said, granted_until, read, said};
pub(super) use self::calls::Asked;
use self::calls::{Calls, Step, What};
pub(crate) use self::line::{InLine, MOST_PASSES, Place};
use self::line::{Lines, Tenure};
use self::wakes::{Wake, Wakes};
use self::wire::{By, Lua, Wire};
use super::attempt::{Answer, Attempt, Claim, Grant, HandOver, How, Tenant};
use crate::error::{Error, Result};
use crate::key::{Family, Keys};
use crate::token::Process;

macro_rules! script {
    ($($file:literal),*) => {
        LazyLock::new(|| Lua::new(concat!($(include_str!(concat!("../lock/", $file))),*)))
    };
}

/// Locks: one holder at a time.
static LOCKS: LazyLock<Lua> = script!(
    "head.lua",
    "free.lua",
    "tell.lua",
    "waited.lua",
    "exclusive.lua",
    "queue.lua",
    "steps.lua",
    "keep.lua",
    "each.lua"
);
/// What is rarely done with them.
static LOCKS_RARELY: LazyLock<Lua> = script!(
    "head.lua",
    "tell.lua",
    "exclusive.lua",
    "queue.lua",
    "steps.lua",
    "others.lua",
    "each.lua"
);
/// Semaphores and read-write locks.
static SHARES: LazyLock<Lua> = script!(
    "head.lua",
    "tell.lua",
    "shared.lua",
    "queue.lua",
    "steps.lua",
    "others.lua",
    "each.lua"
);
static PING: LazyLock<Lua> = script!("ping.lua");
static LOOK: LazyLock<Lua> = script!("look.lua");

/// How long after the end of a lease its waiters ask, at least and at most: not all at once.
const AFTER_LEASE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(4));

/// How often a waiter asks while the holder is none of ours, who would tell nobody.
const FIRST_POLL: Duration = Duration::from_millis(20);
const LAST_POLL: Duration = Duration::from_millis(100);

pub(super) struct Redis {
    wire: Wire,
    calls: Calls,
    limit: Duration,
    /// This process, as the channel of its wakes and its waiters name it.
    process: Process,
    wakes: Wakes,
    lines: Lines,
}

impl Redis {
    pub(super) async fn connect(url: &str, process: Process, limit: Duration) -> Result<Self> {
        let (wakes, losers) = Wakes::new();
        let wire = Wire::connect(url, process, wakes.clone(), limit).await?;
        let redis = Self {
            calls: Calls::new(wire.clone(), limit),
            wire,
            limit,
            process,
            lines: Lines::new(wakes.clone(), losers),
            wakes,
        };
        redis.ping().await?;
        Ok(redis)
    }

    /// A script that writes, rather than `PING`: whoever cannot do that cannot lock.
    pub(super) async fn ping(&self) -> Result<()> {
        let ping = |by: By| {
            let mut ping = by.command(&PING);
            ping.arg(1).arg(format!("lockstock:ping:{}", self.process));
            ping
        };
        let until = Instant::now() + self.limit;
        self.wire.run::<bool>(ping, until).await.map(drop)
    }

    /// Waits for the lock as long as the attempt may. Whoever gets an error, or drops the
    /// future, withdraws the attempt.
    pub(super) async fn acquire(&self, attempt: &Arc<Attempt>) -> Result<Answer> {
        if attempt.is_over() {
            return self.try_once(attempt).await;
        }
        if attempt.keys.family != Family::Lock {
            return self.wait(attempt, None).await;
        }
        match self.lines.stand(attempt).await {
            InLine::First(place) => {
                let answer = self.wait(attempt, Some(&place)).await;
                match answer {
                    Ok(Answer::Granted(grant)) => {
                        let place = Some(place);
                        Ok(Answer::Granted(Grant { place, ..grant }))
                    }
                    Err(error) => {
                        // They would hear the same, one after another, each after its timeout.
                        place.tell_failed(&error.to_string());
                        Err(error)
                    }
                    busy => busy,
                }
            }
            InLine::Passed(grant) => {
                HandOver::Local.count();
                Ok(Answer::Granted(grant))
            }
            InLine::Kept(ends) => Ok(Answer::Busy {
                left: Some(ends.saturating_duration_since(Instant::now())),
                how: How::Kept,
            }),
            InLine::Failed(why) => Err(Error::unavailable(why)),
            // Under another token: whoever releases may be about to put this one in the queue.
            InLine::TooLate => Ok(Answer::NotAsked),
        }
    }

    async fn try_once(&self, attempt: &Attempt) -> Result<Answer> {
        attempt.block.get_or_init(|| 1);
        Ok(match self.ask(attempt, false).await? {
            Said::Granted(grant) => Answer::Granted(grant),
            Said::Busy(holder) => holder.busy(),
        })
    }

    /// Waits for what Redis says.
    async fn wait(&self, attempt: &Attempt, place: Option<&Place>) -> Result<Answer> {
        // As many fences as there may be holders, if there is somebody to pass it on to.
        let block = attempt.block_for(place.is_some_and(Place::is_waited_for));
        let mut poll = FIRST_POLL;
        let mut lease_ended = false;
        // Listening before asking: a grant that comes in between is heard.
        let mut listening = self.wakes.listen(attempt.token);
        loop {
            let breaks = self.wakes.breaks();
            self.wire.hear(&attempt.keys).await?;
            let holder = match self.ask(attempt, true).await? {
                Said::Granted(grant) => {
                    if lease_ended {
                        HandOver::Expiry.count();
                    }
                    return Ok(Answer::Granted(self.hold(attempt, grant, place, breaks)));
                }
                Said::Busy(holder) => holder,
            };
            if holder.how == How::Kept
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
                Some(Wake::Held { at, .. }) if at <= holder.clock => {}
                Some(Wake::Held { fence, lease, at }) => {
                    let deadline = granted_until(&holder, lease, at);
                    if deadline <= Instant::now() {
                        // The lease has ended on the way here.
                        continue;
                    }
                    HandOver::Remote.count();
                    let grant = Grant {
                        claim: Claim {
                            token: attempt.token,
                            last_fence: fence,
                            block,
                        },
                        fence,
                        deadline,
                        place: None,
                    };
                    return Ok(Answer::Granted(self.hold(attempt, grant, place, breaks)));
                }
                Some(Wake::Kept { left }) => {
                    if let Some(place) = place {
                        place.tell_kept(Instant::now() + left);
                    }
                    let (left, how) = (Some(left), How::Kept);
                    return Ok(Answer::Busy { left, how });
                }
                None if attempt.is_over() => return self.give_up(attempt, place, breaks).await,
                // The lease ended, or the connection broke and whatever was pushed is lost.
                Some(Wake::Ask | Wake::Lost) | None => {}
            }
        }
    }

    /// The wait is over, unless the lock was granted in this moment.
    async fn give_up(
        &self,
        attempt: &Attempt,
        place: Option<&Place>,
        breaks: u64,
    ) -> Result<Answer> {
        Ok(match self.leave(attempt, false).await? {
            Said::Granted(grant) => Answer::Granted(self.hold(attempt, grant, place, breaks)),
            Said::Busy(holder) => {
                self.left(attempt);
                holder.busy()
            }
        })
    }

    /// It left the queue. Should it be granted the lock all the same, it goes back.
    fn left(&self, attempt: &Attempt) {
        let (what, give_back) = (what(attempt, true), true);
        let leave = Step::Leave { what, give_back };
        let script = script(attempt.keys.family, leave);
        let give_back = self.calls.later(script, &attempt.keys, leave);
        self.wakes.left(attempt.token, give_back);
    }

    /// Makes a grant known to those in line behind: it may be passed on to them.
    fn hold(
        &self,
        attempt: &Attempt,
        mut grant: Grant,
        place: Option<&Place>,
        breaks: u64,
    ) -> Grant {
        if let Some(place) = place {
            grant.fence = grant.claim.first_fence();
            place.hold(Tenure {
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
    pub(super) async fn withdraw(&self, attempt: &Attempt) -> Result<()> {
        self.left(attempt);
        self.leave(attempt, true).await.map(drop)
    }

    async fn ask(&self, attempt: &Attempt, waits: bool) -> Result<Said> {
        let step = Step::Acquire {
            what: what(attempt, waits),
            waited: waited(attempt),
        };
        said(attempt, &self.step(&attempt.keys, step).await?)
    }

    async fn leave(&self, attempt: &Attempt, give_back: bool) -> Result<Said> {
        let what = what(attempt, true);
        let step = Step::Leave { what, give_back };
        said(attempt, &self.step(&attempt.keys, step).await?)
    }

    /// Gives the lock back. Whoever is next in line here stands in the queue before that, so
    /// that nobody is given it who came later.
    pub(super) fn release(&self, tenant: &Tenant, place: Option<&Place>) -> Asked {
        let (claim, used) = (tenant.claim, tenant.used());
        let Some(next) = place.and_then(Place::next) else {
            return self.step(&tenant.keys, Step::Release { claim, used });
        };
        let attempt = next.attempt().clone();
        attempt.block_for(next.is_waited_for());
        let (what, waited) = (what(&attempt, true), waited(&attempt));
        let pass = Step::Pass {
            claim,
            used,
            what,
            waited,
        };
        let asked = self.step(&tenant.keys, pass);
        if !next.call() {
            // It left, and may not know that it stands there.
            let give_back = true;
            drop(self.step(&tenant.keys, Step::Leave { what, give_back }));
        }
        asked
    }

    pub(super) async fn keep(&self, tenant: &Tenant) -> Result<bool> {
        let (claim, used) = (tenant.claim, tenant.used());
        read(&self.step(&tenant.keys, Step::Keep { claim, used }).await?)
    }

    pub(super) async fn renew(&self, tenant: &Tenant, left: Duration) -> Result<bool> {
        let step = Step::Renew(tenant.claim.token, millis(left));
        read(&self.step(&tenant.keys, step).await?)
    }

    /// Asks for a step from now on, whatever becomes of the answer.
    fn step(&self, keys: &Arc<Keys>, step: Step) -> Asked {
        self.calls.ask(script(keys.family, step), keys, step)
    }
}

fn script(family: Family, step: Step) -> &'static Lua {
    match family {
        Family::Lock if step.is_rare() => &LOCKS_RARELY,
        Family::Lock => &LOCKS,
        Family::Semaphore | Family::ReadWrite => &SHARES,
    }
}

/// For how long it has been waiting here, which counts as waiting there; in µs.
fn waited(attempt: &Attempt) -> u64 {
    match attempt.begun.elapsed().as_micros() {
        ..1000 => 0,
        waited => u64::try_from(waited).unwrap_or(u64::MAX),
    }
}

/// What is waited for, or only asked for once.
fn what(attempt: &Attempt, waits: bool) -> What {
    let wait = attempt
        .until
        .map_or(-1, |until| signed_millis(until - attempt.begun));
    What {
        token: attempt.token,
        lease: millis(attempt.lease),
        wait: waits.then_some(wait),
        block: attempt.block.get().copied().unwrap_or(1),
        mode: attempt.mode,
    }
}

/// How long to wait before asking again, should nobody tell us anything: until a little
/// after the lease of the holder, who may have died, or the end of the wait.
fn nap(holder: &Holder, patience: Option<Duration>, poll: &mut Duration) -> Duration {
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
