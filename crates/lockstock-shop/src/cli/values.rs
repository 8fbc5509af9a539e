//! Parsers of option values. Each error gives the accepted range and an example.

use std::fmt::Display;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::str::FromStr;
use std::time::Duration;

/// Help text for the options whose value is a TIME.
pub(crate) const TIME_HELP: &str = "A TIME is a number and a unit: 500ms, 3s, 10m, 12h, 1d.";

/// Leases that a lock can have.
pub(crate) const LEASE: RangeInclusive<Duration> = lockstock::MIN_LEASE..=lockstock::MAX_LEASE;
/// Timeouts of network and database calls.
pub(crate) const TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(3600);

/// Returns a parser of durations in `range`.
pub(crate) fn duration_in(
    range: RangeInclusive<Duration>,
    example: &'static str,
) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let parsed = humantime::parse_duration(text).ok();
        parsed.filter(|it| range.contains(it)).ok_or_else(|| {
            let (min, max) = (short(*range.start()), short(*range.end()));
            format!("expected a number and a unit, from {min} to {max}, like {example}")
        })
    }
}

/// Returns a parser of durations in `range` that are whole seconds.
pub(crate) fn whole_seconds_in(
    range: RangeInclusive<Duration>,
    example: &'static str,
) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    let duration = duration_in(range, example);
    move |text| match duration(text)? {
        seconds if seconds.subsec_nanos() == 0 => Ok(seconds),
        _ => Err(format!("expected whole seconds, like {example}")),
    }
}

/// Returns a parser of whole numbers in `range`. Unlike clap's, it gives the range also for a
/// text that is no number.
pub(crate) fn number_in<T: FromStr + PartialOrd + Display + Clone>(
    range: impl RangeBounds<T> + Clone,
    example: T,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let parsed = text.parse().ok();
        parsed.filter(|it| range.contains(it)).ok_or_else(|| {
            let limits = match (range.start_bound(), range.end_bound()) {
                (Bound::Included(min), Bound::Included(max)) => format!(" from {min} to {max}"),
                (Bound::Included(min), _) => format!(" of at least {min}"),
                _ => String::new(),
            };
            format!("expected a whole number{limits}, like {example}")
        })
    }
}

/// A duration in its largest whole unit: `24h` is `1d`.
fn short(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
    ];
    match units.iter().find(|(_, size)| millis.is_multiple_of(*size)) {
        _ if millis == 0 => "0s".to_owned(),
        Some((unit, size)) => format!("{}{unit}", millis / size),
        None => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_outside_the_range_or_without_a_unit_are_rejected() {
        let lease = duration_in(LEASE, "3s");
        assert_eq!(lease("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(lease("1d"), Ok(Duration::from_secs(86_400)));
        for text in ["0s", "3", "24h 1ms", ""] {
            let error = lease(text).unwrap_err();
            assert_eq!(
                error,
                "expected a number and a unit, from 1ms to 1d, like 3s"
            );
        }
    }

    #[test]
    fn fractions_of_a_second_are_rejected_where_seconds_are_whole() {
        let seconds = whole_seconds_in(Duration::from_secs(1)..=Duration::from_secs(90), "10s");
        assert_eq!(seconds("1m"), Ok(Duration::from_secs(60)));
        assert!(seconds("1500ms").unwrap_err().contains("whole seconds"));
        assert!(seconds("2m").unwrap_err().contains("from 1s to 90s"));
    }

    #[test]
    fn numbers_outside_the_range_are_rejected() {
        let number = number_in(2..=1000_u32, 5);
        assert_eq!(number("2"), Ok(2));
        for text in ["1", "1001", "many", "-3"] {
            let error = number(text).unwrap_err();
            assert_eq!(error, "expected a whole number from 2 to 1000, like 5");
        }
        let error = number_in(1_i64.., 1)("0").unwrap_err();
        assert_eq!(error, "expected a whole number of at least 1, like 1");
    }
}
