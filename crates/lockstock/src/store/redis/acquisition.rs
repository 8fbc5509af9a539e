//! Acquiring a lock in Redis: through the local queue, then through the queue in Redis.
//!
//! A waiter asks Redis, sleeps until it is notified or the lease of the holder ends, and asks
//! again. An acquisition that fails or is dropped is withdrawn in the background.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::time::{Instant, sleep};

use super::Redis;
use super::attempt::{Attempt, Grant};
use super::cohort::{Joined, LocalGrant, LocalOutcome, LocalWaiter, QueueHead};
use super::connection::Eval;
use super::holding::Holding;
use super::notifications::Notification;
use super::operation::{AcquireArgs, Operation, waited_us};
use super::replies::{AcquireReply, CurrentHolder, deadline_of_pushed_grant, parse_acquire};
use crate::error::{Error, Result};
use crate::key::LockKind;
use crate::lease::MAX_LEASE;
use crate::store::request::{Handover, HoldState, Outcome, Request};

/// Random delay after the end of a lease, so that its waiters do not all ask at once.
const AFTER_LEASE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(4));

/// First and longest interval at which a waiter polls while the holder is a foreign client,
/// which notifies no waiter.
const MIN_POLL: Duration = Duration::from_millis(20);
const MAX_POLL: Duration = Duration::from_millis(100);

impl Redis {
    /// Waits for the lock until the wait deadline.
    pub(in crate::store) async fn acquire(
        self: &Arc<Self>,
        request: Request,
    ) -> Result<Outcome<Holding>> {
        let mut acquisition = Acquisition::new(self, request);
        let outcome = acquisition.run().await?;
        acquisition.withdraw_on_drop = false;
        if let Some(outcome) = outcome {
            return Ok(outcome);
        }
        // The wait ended in the local queue. A holder that is releasing may put this token into
        // Redis' queue at this moment, so the last try has a token of its own.
        let request = acquisition.attempt.request.without_wait();
        let mut last_try = Acquisition::new(self, request);
        let outcome = last_try.try_once().await?;
        last_try.withdraw_on_drop = false;
        Ok(outcome)
    }

    /// Leaves the queue in the background, and gives back what was granted.
    ///
    /// Redis may stand still, with the request unread in its socket: it may grant the lock
    /// whenever it goes on. The withdrawal has to follow on that connection and succeed
    /// without a reply, so from the second try on it contains the text of its script.
    pub(super) fn withdraw(self: &Arc<Self>, attempt: &Arc<Attempt>) {
        let request = &attempt.request;
        // After this, neither a grant nor a position in the queue can block a waiter.
        let wait = request.remaining_wait().unwrap_or(MAX_LEASE);
        let deadline = Instant::now() + wait.saturating_add(request.lease);
        let (redis, attempt) = (self.clone(), attempt.clone());
        let withdraw = move |eval| {
            let (redis, attempt) = (redis.clone(), attempt.clone());
            async move {
                redis.give_back_late_grant(&attempt);
                redis.leave(&attempt, true, eval).await.map(drop)
            }
        };
        let first = withdraw(Eval::Sha);
        self.background
            .retry(deadline, first, move || withdraw(Eval::Source));
    }

    async fn leave(&self, attempt: &Attempt, give_back: bool, eval: Eval) -> Result<AcquireReply> {
        let args = AcquireArgs::waiting(attempt);
        let leave = Operation::Leave { args, give_back };
        let reply = self.submit_as(eval, &attempt.request.keys, leave).await?;
        parse_acquire(attempt, &reply)
    }

    /// Registers what to do if the lock is granted although the request has left the queue: a
    /// replica that took over may not know that it left.
    fn give_back_late_grant(self: &Arc<Self>, attempt: &Arc<Attempt>) {
        // Weak: the connection keeps the notifications.
        let (redis, left) = (Arc::downgrade(self), attempt.clone());
        let withdraw = move || {
            if let Some(redis) = redis.upgrade() {
                redis.withdraw(&left);
            }
        };
        self.notifications
            .remember_left(attempt.request.token, withdraw);
    }
}

/// One request on its way.
struct Acquisition<'a> {
    redis: &'a Arc<Redis>,
    attempt: Arc<Attempt>,
    /// While the request waits in the local queue.
    local: Option<LocalWaiter>,
    withdraw_on_drop: bool,
}

impl<'a> Acquisition<'a> {
    fn new(redis: &'a Arc<Redis>, request: Request) -> Self {
        Self {
            redis,
            attempt: Arc::new(Attempt::new(request)),
            local: None,
            withdraw_on_drop: true,
        }
    }

    /// Returns `None` if the wait ended before Redis was asked.
    async fn run(&mut self) -> Result<Option<Outcome<Holding>>> {
        if self.attempt.request.has_timed_out() {
            return self.try_once().await.map(Some);
        }
        // Permits and readers have no local queue: each request asks Redis.
        if self.attempt.request.keys.kind != LockKind::Lock {
            let outcome = self.wait(None).await?;
            return Ok(Some(outcome.map(|grant| self.holding(grant, None))));
        }
        let head = match self.join_local_queue().await {
            Some(LocalOutcome::First(head)) => head,
            Some(LocalOutcome::HandedOver(grant, head)) => {
                Handover::Local.count();
                let holding = self.holding(grant, Some(head));
                return Ok(Some(Outcome::Acquired(holding)));
            }
            Some(LocalOutcome::Kept(deadline)) => {
                return Ok(Some(Outcome::Busy {
                    remaining: Some(deadline.saturating_duration_since(Instant::now())),
                    state: HoldState::Kept,
                }));
            }
            Some(LocalOutcome::Failed(reason)) => return Err(Error::unavailable(reason)),
            None => return Ok(None),
        };
        match self.wait(Some(&head)).await {
            Ok(outcome) => Ok(Some(outcome.map(|grant| self.holding(grant, Some(head))))),
            Err(error) => {
                // The waiters behind would get the same error one after another, each after a
                // timeout of its own.
                head.notify_failed(&error.to_string());
                Err(error)
            }
        }
    }

    async fn join_local_queue(&mut self) -> Option<LocalOutcome> {
        match self.redis.local_queues.join(&self.attempt) {
            Joined::First(head) => Some(LocalOutcome::First(head)),
            Joined::Kept(deadline) => Some(LocalOutcome::Kept(deadline)),
            Joined::Waiting(waiter) => {
                let waiter = self.local.insert(waiter);
                let outcome = waiter.outcome(self.attempt.request.wait_deadline).await;
                self.local = None;
                outcome
            }
        }
    }

    async fn try_once(&mut self) -> Result<Outcome<Holding>> {
        self.attempt.ask_for_fences(1);
        let args = AcquireArgs::immediate(&self.attempt);
        Ok(match self.ask(args).await? {
            AcquireReply::Granted(grant) => Outcome::Acquired(self.holding(grant, None)),
            AcquireReply::Busy(holder) => holder.busy(),
        })
    }

    /// Waits in Redis' queue.
    async fn wait(&self, head: Option<&QueueHead>) -> Result<Outcome<Grant>> {
        let request = &self.attempt.request;
        self.attempt
            .ask_for_fences(head.map_or(1, QueueHead::fences_needed));
        let args = AcquireArgs::waiting(&self.attempt);
        let mut poll_interval = MIN_POLL;
        let mut handover = None::<Handover>;
        // Subscribed before asking, so that a grant in between is not missed.
        let mut subscription = self.redis.notifications.listen(request.token);
        let mut asked = false;
        loop {
            if std::mem::replace(&mut asked, true) {
                self.expect(head, self.redis.local_queues.reply_timeout());
            }
            let disconnects = self.redis.notifications.disconnects();
            self.redis
                .connection
                .ensure_subscribed(&request.keys)
                .await?;
            let holder = match self.ask(args).await? {
                AcquireReply::Granted(grant) => {
                    if let Some(handover) = handover {
                        handover.count();
                    }
                    return Ok(self.granted(grant, head, disconnects));
                }
                AcquireReply::Busy(holder) => holder,
            };
            if holder.state == HoldState::Kept
                && let (Some(remaining), Some(head)) = (holder.remaining, head)
            {
                head.notify_kept(Instant::now() + remaining);
            }
            if holder.is_kept_beyond(request) {
                return match holder.queued {
                    // By Redis' clock the wait was just long enough.
                    true => self.give_up(head, disconnects).await,
                    false => Ok(holder.busy()),
                };
            }
            let mut pause = pause(&holder, request.remaining_wait(), &mut poll_interval);
            let notification = loop {
                self.expect(head, pause);
                tokio::select! {
                    biased;
                    notification = subscription.next(disconnects) => match notification {
                        Some(Notification::Soon { within }) => {
                            pause = until_free(within, request.remaining_wait());
                        }
                        notification => break notification,
                    },
                    () = sleep(pause) => {
                        handover = (!holder.is_foreign).then_some(Handover::Expiry);
                        break None;
                    }
                }
            };
            match notification {
                // Outdated: when Redis replied, the lock was no longer granted to this request.
                Some(Notification::Held { granted_at_us, .. })
                    if granted_at_us <= holder.server_time_us => {}
                Some(Notification::Held {
                    fence,
                    lease,
                    granted_at_us,
                }) => {
                    if lease < request.lease {
                        // Redis cannot know whether this process is frozen. Asking again extends
                        // the grant. That is awaited: the caller may block the runtime.
                        handover = Some(Handover::Remote);
                        continue;
                    }
                    let deadline = deadline_of_pushed_grant(&holder, lease, granted_at_us);
                    if deadline <= Instant::now() {
                        // The lease ended before the notification arrived.
                        continue;
                    }
                    Handover::Remote.count();
                    let grant = self.attempt.grant(fence, deadline);
                    return Ok(self.granted(grant, head, disconnects));
                }
                Some(Notification::Kept { remaining }) => {
                    if let Some(head) = head {
                        head.notify_kept(Instant::now() + remaining);
                    }
                    return Ok(Outcome::Busy {
                        remaining: Some(remaining),
                        state: HoldState::Kept,
                    });
                }
                None if request.has_timed_out() => return self.give_up(head, disconnects).await,
                // The lease ended, or the connection broke and notifications may be missing.
                Some(Notification::Ask | Notification::Lost | Notification::Soon { .. }) | None => {
                }
            }
        }
    }

    /// Notes that the request does something within `pause`.
    fn expect(&self, head: Option<&QueueHead>, pause: Duration) {
        if let Some(head) = head {
            head.set_wakes_at(Instant::now() + pause);
        }
    }

    async fn ask(&self, args: AcquireArgs) -> Result<AcquireReply> {
        let request = &self.attempt.request;
        let acquire = Operation::Acquire {
            args,
            waited_us: waited_us(request),
        };
        let reply = self.redis.submit(&request.keys, acquire).await?;
        parse_acquire(&self.attempt, &reply)
    }

    /// Leaves Redis' queue. A lock that was granted in the meantime is accepted.
    async fn give_up(&self, head: Option<&QueueHead>, disconnects: u64) -> Result<Outcome<Grant>> {
        Ok(
            match self.redis.leave(&self.attempt, false, Eval::Sha).await? {
                AcquireReply::Granted(grant) => self.granted(grant, head, disconnects),
                AcquireReply::Busy(holder) => {
                    self.redis.give_back_late_grant(&self.attempt);
                    holder.busy()
                }
            },
        )
    }

    /// Makes a grant of Redis available for local hand-over.
    fn granted(&self, grant: Grant, head: Option<&QueueHead>, disconnects: u64) -> Outcome<Grant> {
        if let Some(head) = head {
            let lease = self.attempt.request.lease;
            head.set_grant(LocalGrant {
                ownership: grant.ownership,
                lease,
                deadline: grant.deadline,
                granted_at: grant.deadline - lease,
                unused_fences: grant.fence + 1..=grant.ownership.last_fence,
                disconnects,
            });
        }
        Outcome::Acquired(grant)
    }

    fn holding(&self, grant: Grant, head: Option<QueueHead>) -> Holding {
        Holding::new(self.redis, &self.attempt.request, grant, head)
    }
}

impl Drop for Acquisition<'_> {
    fn drop(&mut self) {
        if !self.withdraw_on_drop {
            return;
        }
        let background = &self.redis.background;
        let local = self.local.take().and_then(|mut local| local.leave());
        if let Some(LocalOutcome::HandedOver(grant, head)) = local {
            let holding = Arc::new(self.holding(grant, Some(head)));
            let deadline = holding.granted_deadline;
            let release = move || {
                let pending = holding.release();
                async {
                    match pending {
                        Some(pending) => pending.await.map(drop),
                        None => Ok(()),
                    }
                }
            };
            background.retry(deadline, release(), release);
        } else if self.attempt.was_sent() {
            self.redis.withdraw(&self.attempt);
        }
    }
}

/// Returns how long to wait for a notification before asking again: until shortly after the
/// lease of the holder, which may have crashed, or until the wait deadline.
fn pause(
    holder: &CurrentHolder,
    remaining_wait: Option<Duration>,
    poll_interval: &mut Duration,
) -> Duration {
    let mut rng = rand::rng();
    let lease_ends = holder.remaining.map(|remaining| remaining + after_lease());
    let next_poll = holder.is_foreign.then(|| {
        let pause = poll_interval.mul_f64(rng.random_range(0.8..1.0));
        *poll_interval = (*poll_interval * 2).min(MAX_POLL);
        pause
    });
    [lease_ends, next_poll, remaining_wait]
        .into_iter()
        .flatten()
        .min()
        // Unreachable: a holder without a lease is foreign, and is polled.
        .unwrap_or(MAX_POLL)
}

/// Returns how long to wait before asking again if the lock may be free after `within`.
fn until_free(within: Duration, remaining_wait: Option<Duration>) -> Duration {
    let pause = within + after_lease();
    remaining_wait.map_or(pause, |wait| wait.min(pause))
}

fn after_lease() -> Duration {
    rand::rng().random_range(AFTER_LEASE.0..AFTER_LEASE.1)
}
