//! The clock of the database, as far as this server knows it.
//!
//! The end of a window is an instant of this server. So that the database can compare it when it
//! writes, and not only the server before it sends, it is sent as a time of the database's clock.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

/// The clock of the database. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct DatabaseClock(Arc<Mutex<Option<Reading>>>);

/// What the clock has shown.
#[derive(Clone, Copy)]
struct Reading {
    time: DateTime<Utc>,
    received_at: Instant,
}

impl DatabaseClock {
    /// Notes a time that has just been received.
    pub(super) fn note(&self, time: DateTime<Utc>) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = Some(Reading {
            time,
            received_at: Instant::now(),
        });
    }

    /// Returns what the clock shows at `instant`, or a little less: the time was older when it was
    /// received. `None` if no time was received.
    pub(super) fn at(&self, instant: Instant) -> Option<DateTime<Utc>> {
        let newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Reading { time, received_at } = (*newest)?;
        let until = |from: Instant, to: Instant| {
            TimeDelta::from_std(to.saturating_duration_since(from)).ok()
        };
        // Postgres rounds to the nearest microsecond.
        let elapsed = until(received_at, instant)? - until(instant, received_at)?;
        time.checked_add_signed(elapsed - TimeDelta::microseconds(1))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_never_later_than_the_clock() {
        let clock = DatabaseClock::default();
        assert_eq!(clock.at(Instant::now()), None);
        let before = Instant::now();
        let time = Utc::now();
        clock.note(time);
        let second = Duration::from_secs(1);
        let at = |instant| clock.at(instant).unwrap();
        assert!(at(before + second) < time + TimeDelta::seconds(1));
        assert!(at(before) <= time);
        assert_eq!(
            at(before + 3 * second) - at(before + second),
            TimeDelta::seconds(2)
        );
    }
}
