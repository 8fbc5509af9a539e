//! The monotonic clock, for times that are looked at often: a copy in a near cache is found in the
//! time that two looks at the system's clock take.

use std::time::Duration;

/// How far [`latest_ns`] may be ahead of the time. Two ticks of a kernel with the fewest of them, 100
/// per second.
#[cfg(target_os = "linux")]
const MAX_LAG: Duration = Duration::from_millis(20);

/// Returns the time.
#[cfg(target_os = "linux")]
pub(super) fn now_ns() -> u64 {
    read_ns(rustix::time::ClockId::Monotonic)
}

/// Returns a time that is not earlier than [`now_ns`], nor much later. Costs a fraction of it.
#[cfg(target_os = "linux")]
pub(super) fn latest_ns() -> u64 {
    // The time of the last tick.
    let ticked_ns = read_ns(rustix::time::ClockId::MonotonicCoarse);
    ticked_ns.saturating_add(as_nanos(MAX_LAG))
}

#[cfg(target_os = "linux")]
fn read_ns(clock: rustix::time::ClockId) -> u64 {
    let time = rustix::time::clock_gettime(clock);
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

#[cfg(not(target_os = "linux"))]
pub(super) fn latest_ns() -> u64 {
    now_ns()
}

pub(super) fn as_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_time_is_never_earlier_than_the_time() {
        for _ in 0..100_000 {
            let now_ns = now_ns();
            let latest_ns = latest_ns();
            assert!(latest_ns >= now_ns, "{latest_ns} < {now_ns}");
        }
    }
}
