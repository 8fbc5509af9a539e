//! What Redis answers, as it is meant.

use std::time::Duration;

use redis::{FromRedisValue, Value};
use tokio::time::Instant;

use super::batch::Reply;
use crate::error::{Error, Result};
use crate::store::request::{Grant, HoldState, Outcome, Ownership, Release, Request};

/// What the store said to one question.
pub(super) enum AcquireReply {
    Granted(Grant),
    Busy(CurrentHolder),
}

/// Who has the lock, as far as Redis tells.
pub(super) struct CurrentHolder {
    pub(super) how: HoldState,
    pub(super) is_ours: bool,
    pub(super) left: Option<Duration>,
    /// Whether we stand in the queue behind it.
    pub(super) queued: bool,
    /// When we asked, and what the server's clock said in its answer, in µs.
    pub(super) asked: Instant,
    pub(super) clock: i64,
}

impl CurrentHolder {
    pub(super) fn busy(&self) -> Outcome {
        Outcome::Busy {
            left: self.left,
            how: self.how,
        }
    }

    /// Whether waiting for it is in vain.
    pub(super) fn is_kept_beyond(&self, attempt: &Request) -> bool {
        let outlived = |patience| self.left.is_some_and(|left| left <= patience);
        self.how == HoldState::Kept
            && attempt
                .patience()
                .is_some_and(|patience| !outlived(patience))
    }
}

/// Reads the answer to a `release`.
pub(in crate::store) fn parse_release(answered: &Reply) -> Result<Release> {
    Ok(match (parse::<bool>(answered)?, answered.repeated) {
        (true, _) => Release::Done,
        (false, false) => Release::NotOurs,
        (false, true) => Release::Unclear,
    })
}

/// Reads the answer to an `acquire` or a `leave`.
pub(super) fn parse_acquire(attempt: &Request, answered: &Reply) -> Result<AcquireReply> {
    // From before the last call was sent: never later than the server's own end.
    let granted = |fence, left| {
        AcquireReply::Granted(Grant {
            claim: Ownership {
                token: attempt.token,
                last_fence: fence,
                block: attempt.block.get().copied().unwrap_or(1),
            },
            fence,
            deadline: answered.begun + left,
            place: None,
        })
    };
    if let Value::Int(fence) = answered.value {
        let fence = u64::try_from(fence).unwrap_or_default();
        return Ok(granted(fence, attempt.lease));
    }
    let (how, fence, left, queued) = parse::<(String, u64, i64, bool)>(answered)?;
    let left = u64::try_from(left).ok().map(Duration::from_millis);
    if how == "granted" {
        return Ok(granted(fence, left.unwrap_or_default()));
    }
    Ok(AcquireReply::Busy(CurrentHolder {
        is_ours: how != "foreign",
        how: if how == "kept" {
            HoldState::Kept
        } else {
            HoldState::Held
        },
        left,
        queued,
        asked: answered.begun,
        clock: answered.clock,
    }))
}

pub(super) fn parse<T: FromRedisValue>(answered: &Reply) -> Result<T> {
    T::from_redis_value_ref(&answered.value).map_err(Error::store_failed)
}

/// Until when a lock is ours that was granted `at`, by the server's clock: later than our last
/// question, of which we know when we had sent it and what that clock said; and we cannot have
/// been told before it happened.
pub(super) fn deadline_of_pushed_grant(
    holder: &CurrentHolder,
    lease: Duration,
    at: i64,
) -> Instant {
    let since_asked = u64::try_from(at.saturating_sub(holder.clock)).unwrap_or_default();
    // Clocks that are being set run fast by half a thousandth at most.
    let since_asked = Duration::from_micros(since_asked - since_asked / 1000);
    let granted = holder.asked + since_asked;
    granted.min(Instant::now()) + lease
}
