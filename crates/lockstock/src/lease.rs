//! Bounds and resolution of a lease.

use std::time::Duration;

use crate::error::{Error, Result};

/// Shortest lease: 1 ms.
pub const MIN_LEASE: Duration = Duration::from_millis(1);
/// Longest lease: 24 h.
pub const MAX_LEASE: Duration = Duration::from_secs(24 * 3600);

/// Returns `lease` in whole milliseconds if it is in range.
///
/// # Errors
///
/// [`is_invalid`](Error::is_invalid) below [`MIN_LEASE`] and above [`MAX_LEASE`].
pub(crate) fn checked_lease(lease: Duration) -> Result<Duration> {
    if (MIN_LEASE..=MAX_LEASE).contains(&lease) {
        return Ok(truncate_to_millis(lease));
    }
    Err(Error::invalid(format!(
        "the lease must be {MIN_LEASE:?} to {MAX_LEASE:?}, not {lease:?}"
    )))
}

/// Drops the fraction of a millisecond: the stores count in whole milliseconds.
pub(crate) fn truncate_to_millis(duration: Duration) -> Duration {
    duration - Duration::from_nanos(u64::from(duration.subsec_nanos() % 1_000_000))
}

/// Returns the number of whole milliseconds, at most `u64::MAX`.
pub(crate) fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
