//! Moments of the monotonic clock as milliseconds since the epoch.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// One moment on both clocks. Moments and durations are measured on the monotonic clock, and
/// converted only when they are sent: a clock that is set does not change a duration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) instant: Instant,
    pub(crate) epoch_ms: i64,
}

impl Moment {
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            instant: Instant::now(),
            epoch_ms: since.map_or(0, whole_millis),
        }
    }

    /// Returns when `instant` was, or will be.
    pub(crate) fn epoch_ms_of(&self, instant: Instant) -> i64 {
        match instant.checked_duration_since(self.instant) {
            Some(later) => self.epoch_ms.saturating_add(whole_millis(later)),
            None => self
                .epoch_ms
                .saturating_sub(whole_millis(self.instant.duration_since(instant))),
        }
    }

    pub(crate) fn epoch_ms_after(&self, duration: Duration) -> i64 {
        self.epoch_ms.saturating_add(whole_millis(duration))
    }
}

pub(crate) fn whole_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Returns a duration in milliseconds, to the microsecond.
pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
