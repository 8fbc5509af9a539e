//! What Redis answers, as it is meant.

use std::time::Duration;

use redis::{FromRedisValue, Value};
use tokio::time::Instant;

use super::calls::Answered;
use crate::error::{Error, Result};
use crate::store::attempt::{Answer, Attempt, Claim, Grant, How, Release};

/// What the store said to one question.
pub(super) enum Said {
    Granted(Grant),
    Busy(Holder),
}

/// Who has the lock, as far as Redis tells.
pub(super) struct Holder {
    pub(super) how: How,
    pub(super) is_ours: bool,
    pub(super) left: Option<Duration>,
    /// Whether we stand in the queue behind it.
    pub(super) queued: bool,
    /// When we asked, and what the server's clock said in its answer, in µs.
    pub(super) asked: Instant,
    pub(super) clock: i64,
}

impl Holder {
    pub(super) fn busy(&self) -> Answer {
        Answer::Busy {
            left: self.left,
            how: self.how,
        }
    }

    /// Whether waiting for it is in vain.
    pub(super) fn is_kept_beyond(&self, attempt: &Attempt) -> bool {
        let outlived = |patience| self.left.is_some_and(|left| left <= patience);
        self.how == How::Kept
            && attempt
                .patience()
                .is_some_and(|patience| !outlived(patience))
    }
}

/// Reads the answer to a `release`.
pub(in crate::store) fn released(answered: &Answered) -> Result<Release> {
    Ok(match (read::<bool>(answered)?, answered.repeated) {
        (true, _) => Release::Done,
        (false, false) => Release::NotOurs,
        (false, true) => Release::Unclear,
    })
}

/// Reads the answer to an `acquire` or a `leave`.
pub(super) fn said(attempt: &Attempt, answered: &Answered) -> Result<Said> {
    // From before the last call was sent: never later than the server's own end.
    let granted = |fence, left| {
        Said::Granted(Grant {
            claim: Claim {
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
    let (how, fence, left, queued) = read::<(String, u64, i64, bool)>(answered)?;
    let left = u64::try_from(left).ok().map(Duration::from_millis);
    if how == "granted" {
        return Ok(granted(fence, left.unwrap_or_default()));
    }
    Ok(Said::Busy(Holder {
        is_ours: how != "foreign",
        how: if how == "kept" { How::Kept } else { How::Held },
        left,
        queued,
        asked: answered.begun,
        clock: answered.clock,
    }))
}

pub(super) fn read<T: FromRedisValue>(answered: &Answered) -> Result<T> {
    T::from_redis_value_ref(&answered.value).map_err(Error::refused)
}

/// Until when a lock is ours that was granted `at`, by the server's clock: later than our last
/// question, of which we know when we had sent it and what that clock said; and we cannot have
/// been told before it happened.
pub(super) fn granted_until(holder: &Holder, lease: Duration, at: i64) -> Instant {
    let since_asked = u64::try_from(at.saturating_sub(holder.clock)).unwrap_or_default();
    // Clocks that are being set run fast by half a thousandth at most.
    let since_asked = Duration::from_micros(since_asked - since_asked / 1000);
    let granted = holder.asked + since_asked;
    granted.min(Instant::now()) + lease
}
