//! Replies of Redis, parsed.

use std::time::Duration;

use redis::{FromRedisValue, Value};
use tokio::time::Instant;

use super::attempt::{Attempt, Grant};
use super::script_call::Reply;
use crate::error::{Error, Result};
use crate::store::request::{HoldState, Outcome, ReleaseOutcome, Request};

/// Reply to an `acquire` or a `leave`.
pub(super) enum AcquireReply {
    Granted(Grant),
    Busy(CurrentHolder),
}

/// The holder of a lock at the time of the reply.
pub(super) struct CurrentHolder {
    pub(super) state: HoldState,
    /// It took the lock with `SET NX`, as redis-py does.
    pub(super) is_foreign: bool,
    /// Rest of its lease. `None` if it never expires.
    pub(super) remaining: Option<Duration>,
    /// The request is in the queue behind it.
    pub(super) queued: bool,
    /// When Redis was asked, and the server's clock in its reply.
    pub(super) asked_at: Instant,
    pub(super) server_time_us: i64,
}

impl CurrentHolder {
    pub(super) fn busy<H>(&self) -> Outcome<H> {
        Outcome::Busy {
            remaining: self.remaining,
            state: self.state,
        }
    }

    /// Returns whether the lock is kept for longer than the request waits.
    pub(super) fn is_kept_beyond(&self, request: &Request) -> bool {
        let outlived = |wait| self.remaining.is_some_and(|remaining| remaining <= wait);
        self.state == HoldState::Kept
            && request.remaining_wait().is_some_and(|wait| !outlived(wait))
    }
}

/// Parses the reply to a `release` or a `pass`.
pub(super) fn parse_release(reply: &Reply) -> Result<ReleaseOutcome> {
    Ok(match (parse::<bool>(reply)?, reply.repeated) {
        (true, _) => ReleaseOutcome::Released,
        (false, false) => ReleaseOutcome::NotHeld,
        (false, true) => ReleaseOutcome::Unknown,
    })
}

/// Parses the reply to an `acquire` or a `leave`.
pub(super) fn parse_acquire(attempt: &Attempt, reply: &Reply) -> Result<AcquireReply> {
    // Counted from before the call was sent, so never later than the server's own deadline.
    let granted =
        |last_fence, lease| AcquireReply::Granted(attempt.grant(last_fence, reply.sent_at + lease));
    if let Value::Int(fence) = reply.value {
        let fence = u64::try_from(fence).unwrap_or_default();
        return Ok(granted(fence, attempt.request.lease));
    }
    let (state, fence, remaining_ms, queued) = parse::<(String, u64, i64, bool)>(reply)?;
    let remaining = u64::try_from(remaining_ms).ok().map(Duration::from_millis);
    if state == "granted" {
        return Ok(granted(fence, remaining.unwrap_or_default()));
    }
    Ok(AcquireReply::Busy(CurrentHolder {
        is_foreign: state == "foreign",
        state: if state == "kept" {
            HoldState::Kept
        } else {
            HoldState::Held
        },
        remaining,
        queued,
        asked_at: reply.sent_at,
        server_time_us: reply.server_time_us,
    }))
}

pub(super) fn parse<T: FromRedisValue>(reply: &Reply) -> Result<T> {
    T::from_redis_value_ref(&reply.value).map_err(Error::store_failed)
}

/// Returns the deadline, on the local clock, of a lock that was granted at `granted_at_us` on
/// the server's clock.
///
/// Both clocks were read when Redis was last asked, and the grant is later than that. It is
/// also earlier than its notification.
pub(super) fn deadline_of_pushed_grant(
    holder: &CurrentHolder,
    lease: Duration,
    granted_at_us: i64,
) -> Instant {
    let elapsed_us = granted_at_us.saturating_sub(holder.server_time_us);
    let elapsed_us = u64::try_from(elapsed_us).unwrap_or_default();
    // A clock that is being adjusted runs at most 0.05 % fast.
    let elapsed = Duration::from_micros(elapsed_us - elapsed_us / 1000);
    let granted_at = holder.asked_at + elapsed;
    granted_at.min(Instant::now()) + lease
}
