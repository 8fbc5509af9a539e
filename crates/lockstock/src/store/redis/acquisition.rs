//! Acquiring a lock in Redis: through the local queue, then through the queue in Redis.
//!
//! How a waiter waits in Redis' queue is in `wait.rs`. An acquisition that fails or is dropped is
//! withdrawn in the background.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Redis;
use super::attempt::{Attempt, Grant};
use super::cohort::{Joined, LocalGrant, LocalOutcome, LocalWaiter, QueueHead};
use super::connection::Eval;
use super::holding::Holding;
use super::notifications::Subscription;
use super::operation::{AcquireArgs, Operation, waited_us};
use super::replies::{AcquireReply, parse_acquire};
use super::script_call::Reply;
use super::wait::{Event, Transport, wait};
use crate::error::{Error, Result};
use crate::inspect::GrantKind;
use crate::key::LockKind;
use crate::lease::MAX_LEASE;
use crate::store::request::{HoldState, Outcome, Request};

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
                let leave = Operation::Leave {
                    args: AcquireArgs::waiting(&attempt),
                    give_back: true,
                };
                let reply = redis.submit_for(&attempt, leave, eval).await?;
                parse_acquire(&attempt, &reply).map(drop)
            }
        };
        let first = withdraw(Eval::Sha);
        self.background
            .retry(deadline, first, move || withdraw(Eval::Source));
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

/// The link between a waiter and Redis.
struct OverLink<'a> {
    redis: &'a Arc<Redis>,
    attempt: &'a Arc<Attempt>,
    head: Option<&'a QueueHead>,
    subscription: Subscription<'a>,
    has_asked: bool,
    /// Number of broken connections when Redis was last asked.
    disconnects: u64,
}

impl OverLink<'_> {
    /// Notes that the request does something within `pause`.
    fn expect(&self, pause: Duration) {
        if let Some(head) = self.head {
            head.set_wakes_at(Instant::now() + pause);
        }
    }
}

impl Transport for OverLink<'_> {
    async fn ask(&mut self, acquire: Operation) -> Result<Reply> {
        if std::mem::replace(&mut self.has_asked, true) {
            self.expect(self.redis.local_queues.reply_timeout());
        }
        self.disconnects = self.redis.notifications.disconnects();
        let keys = &self.attempt.request.keys;
        self.redis.connection.ensure_subscribed(keys).await?;
        self.redis.submit(keys, acquire).await
    }

    async fn leave(&mut self, leave: Operation) -> Result<Reply> {
        let keys = &self.attempt.request.keys;
        self.redis.submit(keys, leave).await
    }

    async fn next(&mut self, within: Duration) -> Result<Event> {
        self.expect(within);
        Ok(tokio::select! {
            biased;
            notification = self.subscription.next(self.disconnects) => match notification {
                Some(notification) => Event::Notified(notification),
                None => Event::Disconnected,
            },
            () = sleep(within) => Event::Elapsed,
        })
    }

    fn kept(&self, until: Instant) {
        if let Some(head) = self.head {
            head.notify_kept(until);
        }
    }

    fn left(&self) {
        self.redis.give_back_late_grant(self.attempt);
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
        // If the previous holder has put it into the queue, Redis may have granted it already.
        let kind = match self.attempt.was_sent() {
            true => GrantKind::Remote,
            false => GrantKind::Free,
        };
        self.attempt
            .ask_for_fences(head.map_or(1, QueueHead::fences_needed));
        // Subscribed before asking, so that a grant in between is not missed.
        let token = self.attempt.request.token;
        let mut link = OverLink {
            redis: self.redis,
            attempt: &self.attempt,
            head,
            subscription: self.redis.notifications.listen(token),
            has_asked: false,
            disconnects: 0,
        };
        let outcome = wait(&self.attempt, &mut link, kind).await?;
        if let (Outcome::Acquired(grant), Some(head)) = (&outcome, head) {
            // From now on it is handed over within this process.
            let lease = self.attempt.request.lease;
            head.set_grant(LocalGrant {
                ownership: grant.ownership,
                lease,
                deadline: grant.deadline,
                granted_at: grant.deadline - lease,
                unused_fences: grant.fence + 1..=grant.ownership.last_fence,
                disconnects: link.disconnects,
            });
        }
        Ok(outcome)
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
