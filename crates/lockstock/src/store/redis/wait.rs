//! One wait in Redis' queue, whatever connects the waiter with Redis.
//!
//! A waiter asks Redis, sleeps until it is notified or the lease of the holder ends, and asks again.

use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;

use super::attempt::{Attempt, Grant};
use super::notifications::Notification;
use super::operation::{AcquireArgs, Operation, waited_us};
use super::replies::{AcquireReply, CurrentHolder, deadline_of_pushed_grant, parse_acquire};
use super::script_call::Reply;
use crate::error::Result;
use crate::inspect::GrantKind;
use crate::store::request::{HoldState, Outcome};

/// Random delay after the end of a lease, so that its waiters do not all ask at once.
const AFTER_LEASE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(4));

/// First and longest interval at which a waiter polls while the holder is a foreign client,
/// which notifies no waiter.
const MIN_POLL: Duration = Duration::from_millis(20);
const MAX_POLL: Duration = Duration::from_millis(100);

/// What connects a waiter with Redis.
pub(super) trait Transport {
    /// Asks for the lock. Notifications that come after this are delivered: the waiter is subscribed
    /// before it asks.
    async fn ask(&mut self, acquire: Operation) -> Result<Reply>;

    /// Leaves the queue.
    async fn leave(&mut self, leave: Operation) -> Result<Reply>;

    /// Waits for a notification.
    async fn next(&mut self, within: Duration) -> Result<Event>;

    /// Notes that the lock is kept until then.
    fn kept(&self, until: Instant);

    /// Notes that the request has left the queue without the lock.
    fn left(&self);
}

/// What ends a sleep of a waiter.
pub(super) enum Event {
    Notified(Notification),
    /// A connection broke, and notifications may be missing.
    Disconnected,
    /// The time has passed.
    Elapsed,
}

/// Waits in Redis' queue until the wait deadline of the request. The fences to ask for are set. `kind`
/// is that of a grant at the first question.
pub(super) async fn wait(
    attempt: &Attempt,
    transport: &mut impl Transport,
    mut kind: GrantKind,
) -> Result<Outcome<Grant>> {
    let request = &attempt.request;
    let args = AcquireArgs::waiting(attempt);
    let mut poll_interval = MIN_POLL;
    loop {
        let acquire = Operation::Acquire {
            args,
            waited_us: waited_us(request),
        };
        let reply = transport.ask(acquire).await?;
        let holder = match parse_acquire(attempt, &reply)? {
            AcquireReply::Granted(grant) => {
                return Ok(Outcome::Acquired(grant.of_kind(kind)));
            }
            AcquireReply::Busy(holder) => holder,
        };
        if holder.state == HoldState::Kept
            && let Some(remaining) = holder.remaining
        {
            transport.kept(Instant::now() + remaining);
        }
        if holder.is_kept_beyond(request) {
            return match holder.queued {
                // By Redis' clock the wait was just long enough.
                true => give_up(attempt, transport).await,
                false => Ok(holder.busy()),
            };
        }
        let mut pause = pause(&holder, request.remaining_wait(), &mut poll_interval);
        let event = loop {
            match transport.next(pause).await? {
                Event::Notified(Notification::Soon { within }) => {
                    pause = until_free(within, request.remaining_wait());
                }
                event => break event,
            }
        };
        match event {
            // Outdated: when Redis replied, the lock was no longer granted to this request.
            Event::Notified(Notification::Held { granted_at_us, .. })
                if granted_at_us <= holder.server_time_us => {}
            Event::Notified(Notification::Held {
                fence,
                lease,
                granted_at_us,
            }) => {
                if lease < request.lease {
                    // Redis cannot know whether this process is frozen. Asking again extends
                    // the grant. That is awaited: the caller may block the runtime.
                    kind = GrantKind::Remote;
                    continue;
                }
                let deadline = deadline_of_pushed_grant(&holder, lease, granted_at_us);
                if deadline <= Instant::now() {
                    // The lease ended before the notification arrived.
                    continue;
                }
                let grant = attempt.grant(fence, deadline);
                return Ok(Outcome::Acquired(grant.of_kind(GrantKind::Remote)));
            }
            Event::Notified(Notification::Kept { remaining }) => {
                transport.kept(Instant::now() + remaining);
                return Ok(Outcome::Busy {
                    remaining: Some(remaining),
                    state: HoldState::Kept,
                });
            }
            // The lease ended, or notifications may be missing.
            Event::Disconnected | Event::Elapsed if request.has_timed_out() => {
                return give_up(attempt, transport).await;
            }
            // A foreign holder may also have released it.
            Event::Elapsed if holder.is_foreign => kind = GrantKind::Free,
            Event::Elapsed => kind = GrantKind::Expired,
            Event::Notified(Notification::Ask | Notification::Lost | Notification::Soon { .. })
            | Event::Disconnected => {}
        }
    }
}

/// Leaves Redis' queue. A lock that was granted in the meantime is accepted.
async fn give_up(attempt: &Attempt, transport: &mut impl Transport) -> Result<Outcome<Grant>> {
    let leave = Operation::Leave {
        args: AcquireArgs::waiting(attempt),
        give_back: false,
    };
    let reply = transport.leave(leave).await?;
    Ok(match parse_acquire(attempt, &reply)? {
        AcquireReply::Granted(grant) => Outcome::Acquired(grant.of_kind(GrantKind::Remote)),
        AcquireReply::Busy(holder) => {
            transport.left();
            holder.busy()
        }
    })
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
