//! The one clock that all processes of a machine read alike.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`. Unlike an `Instant` it means the same in two processes,
/// and unlike the time of day nobody sets it.
pub(super) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // Both count up from zero at the machine's start.
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds * 1_000_000_000 + nanos
}
