//! The head of a local queue: it talks to Redis for the waiters behind it.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::super::attempt::Attempt;
use super::{LocalGrant, LocalOutcome, LocalQueue, LocalQueues, MAX_LOCAL_HANDOVERS, Waiter};
use crate::key::Keys;
use crate::token::Token;

/// The waiter that becomes the head.
#[derive(Debug)]
pub(in crate::store::redis) struct NextWaiter {
    pub(super) waiter: Waiter,
    pub(super) head: QueueHead,
}

impl NextWaiter {
    pub(in crate::store::redis) fn attempt(&self) -> &Arc<Attempt> {
        &self.waiter.attempt
    }

    /// Returns the number of fences to ask for.
    pub(in crate::store::redis) fn fences_needed(&self) -> u64 {
        self.head.fences_needed()
    }

    /// Notifies the waiter that it is the head. Returns `false` if it has left; then the waiter
    /// behind it is promoted.
    pub(in crate::store::redis) fn promote(self) -> bool {
        let outcome = LocalOutcome::First(self.head);
        self.waiter.outcome.send(outcome).is_ok()
    }
}

/// The first position of a local queue. Dropping it promotes the next waiter.
#[derive(Debug)]
pub(in crate::store::redis) struct QueueHead {
    /// `None` once it is disarmed.
    pub(super) queues: Option<LocalQueues>,
    pub(super) keys: Arc<Keys>,
    pub(super) generation: u64,
}

impl QueueHead {
    /// Returns the number of fences to ask for: one for each possible holder if there are
    /// waiters to hand the lock over to.
    pub(in crate::store::redis) fn fences_needed(&self) -> u64 {
        match self.in_queue(|_, queue| !queue.waiters.is_empty()) {
            Some(true) => MAX_LOCAL_HANDOVERS,
            Some(false) | None => 1,
        }
    }

    /// Notes when the head wakes at the latest.
    pub(in crate::store::redis) fn set_wakes_at(&self, wakes_at: Instant) {
        self.in_queue(|queues, queue| {
            queue.wakes_at = Some(wakes_at);
            queues.watch(&self.keys, queue);
        });
    }

    /// Notes that the head holds the lock.
    pub(in crate::store::redis) fn set_grant(&self, grant: LocalGrant) {
        self.in_queue(|queues, queue| {
            queue.grant = Some(grant);
            queue.kept_until = None;
            queues.watch(&self.keys, queue);
        });
    }

    /// Moves the deadline of the grant.
    pub(in crate::store::redis) fn set_deadline(&self, deadline: Instant) {
        self.in_queue(|queues, queue| {
            if let Some(grant) = &mut queue.grant {
                grant.deadline = deadline;
                queues.watch(&self.keys, queue);
            }
        });
    }

    /// Sets the token of the grant, which is not handed over from now on.
    pub(in crate::store::redis) fn set_token(&self, token: Token) {
        self.in_queue(|_, queue| {
            if let Some(grant) = &mut queue.grant {
                grant.ownership.token = token;
                while grant.unused_fences.next().is_some() {}
            }
        });
    }

    /// Hands the lock over to the next waiter if that is fair and safe. Returns whether it did.
    pub(in crate::store::redis) fn hand_over(&self) -> bool {
        let Some(queues) = &self.queues else {
            return false;
        };
        let now = Instant::now();
        let disconnects = queues.0.notifications.disconnects();
        let mut state = queues.state();
        let state = &mut *state;
        let Some(queue) = state.queues.get_mut(&self.keys) else {
            return false;
        };
        if queue.generation != self.generation {
            return false;
        }
        while let Some(next) = queue.waiters.pop_front() {
            let Some(grant) = queue.grant_for(&next, disconnects, now) else {
                queue.waiters.push_front(next);
                return false;
            };
            state.last_generation += 1;
            let head = queues.head(&self.keys, state.last_generation);
            match next.outcome.send(LocalOutcome::HandedOver(grant, head)) {
                Ok(()) => {
                    queue.generation = state.last_generation;
                    return true;
                }
                // The waiter has just left. Disarmed, because dropping its head would lock
                // `state` a second time.
                Err(LocalOutcome::HandedOver(_, mut head)) => head.disarm(),
                Err(_) => {}
            }
        }
        false
    }

    /// Makes the next waiter the head.
    pub(in crate::store::redis) fn next(&self) -> Option<NextWaiter> {
        let queues = self.queues.as_ref()?;
        queues.next(&mut queues.state(), &self.keys, self.generation)
    }

    /// Closes the queue if there is no waiter in it: a caller that joins from now on asks Redis. Returns
    /// `false` if there is a waiter.
    pub(in crate::store::redis) fn close_if_empty(&self) -> bool {
        let Some(queues) = &self.queues else {
            return true;
        };
        let mut state = queues.state();
        match state.queues.get(&self.keys) {
            Some(queue) if queue.generation == self.generation => {
                let is_empty = queue.is_empty();
                if is_empty {
                    state.queues.remove(&self.keys);
                }
                is_empty
            }
            // It is not the head any more.
            Some(_) | None => true,
        }
    }

    /// Makes the next waiter the head, and notifies it.
    pub(in crate::store::redis) fn promote_next(&self) {
        self.next().map(NextWaiter::promote);
    }

    /// Notifies the waiters whose wait ends before the lock is free again, and those that
    /// join later.
    pub(in crate::store::redis) fn notify_kept(&self, kept_until: Instant) {
        self.in_queue(|_, queue| {
            queue.kept_until = Some(kept_until);
            let outlasted = |waiter: &Waiter| {
                let deadline = waiter.attempt.request.wait_deadline;
                deadline.is_some_and(|deadline| deadline < kept_until)
            };
            let (losing, waiting) = std::mem::take(&mut queue.waiters)
                .into_iter()
                .partition::<VecDeque<_>, _>(outlasted);
            queue.waiters = waiting;
            for loser in losing {
                let _ = loser.outcome.send(LocalOutcome::Kept(kept_until));
            }
        });
    }

    /// Notifies all waiters that the store does not reply.
    pub(in crate::store::redis) fn notify_failed(&self, reason: &str) {
        self.in_queue(|_, queue| {
            for waiter in queue.waiters.drain(..) {
                let _ = waiter.outcome.send(LocalOutcome::Failed(reason.to_owned()));
            }
        });
    }

    fn disarm(&mut self) {
        self.queues = None;
    }

    /// Calls `act` unless this head has been superseded.
    fn in_queue<T>(&self, act: impl FnOnce(&LocalQueues, &mut LocalQueue) -> T) -> Option<T> {
        let queues = self.queues.as_ref()?;
        let mut state = queues.state();
        let queue = state.queues.get_mut(&self.keys)?;
        (queue.generation == self.generation).then(|| act(queues, queue))
    }
}

impl Drop for QueueHead {
    fn drop(&mut self) {
        self.promote_next();
    }
}
