//! Times as Django REST framework writes them.

use chrono::{DateTime, SecondsFormat, Timelike, Utc};

/// Formats a time as RFC 3339 in UTC: with microseconds, or without a fraction if that is zero.
pub(crate) fn format(time: DateTime<Utc>) -> String {
    let precision = match time.nanosecond() {
        0 => SecondsFormat::Secs,
        _ => SecondsFormat::Micros,
    };
    time.to_rfc3339_opts(precision, true)
}
