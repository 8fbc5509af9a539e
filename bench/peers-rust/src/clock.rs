//! Nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Returns the time from now until `time_ns`.
pub fn until(time_ns: u64) -> Duration {
    Duration::from_nanos(time_ns.saturating_sub(now_ns()))
}
