//! Nanoseconds of CLOCK_MONOTONIC, which all processes read alike.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// From now until then.
pub fn until(then: u64) -> Duration {
    Duration::from_nanos(then.saturating_sub(now()))
}
