//! The clock of the copies of near caches. It never goes backwards, and counts the time in which the
//! machine is suspended: the values in the store expire meanwhile.
//!
//! Not a coarse clock, which costs a fraction: it stands still as long as the kernel, or the hypervisor
//! below it, is late with a tick, without a bound.

use std::time::Duration;

/// Returns the time.
#[cfg(target_os = "linux")]
pub(super) fn now_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(not(target_os = "linux"))]
pub(super) fn now_ns() -> u64 {
    use std::sync::LazyLock;
    use std::time::Instant;
    // Later than 0, which stands for never.
    static BEGAN_AT: LazyLock<Instant> = LazyLock::new(Instant::now);
    as_nanos(BEGAN_AT.elapsed()) + 1
}

pub(super) fn as_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
