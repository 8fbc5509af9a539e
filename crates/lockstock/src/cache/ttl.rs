//! How long a value lives.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::lease::truncate_to_millis;

/// The minimum time to live: 1 ms.
pub const MIN_TTL: Duration = Duration::from_millis(1);
/// The maximum time to live: 366 days. [`Ttl::Never`] has no end.
pub const MAX_TTL: Duration = Duration::from_secs(366 * 24 * 3600);

/// Time to live of a value. A [`Duration`] converts to [`Ttl::After`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// The value expires after this time, from 1 ms ([`MIN_TTL`]) to 366 days ([`MAX_TTL`]),
    /// truncated to whole milliseconds.
    After(Duration),
    /// The value does not expire. The store may lose it nevertheless.
    Never,
}

impl From<Duration> for Ttl {
    fn from(ttl: Duration) -> Self {
        Self::After(ttl)
    }
}

impl Ttl {
    /// Returns the time to live in whole milliseconds if it is in range.
    pub(crate) fn checked(self) -> Result<Self> {
        match self {
            Self::After(ttl) if !(MIN_TTL..=MAX_TTL).contains(&ttl) => Err(Error::invalid(
                format!("the time to live must be {MIN_TTL:?} to {MAX_TTL:?}, not {ttl:?}"),
            )),
            Self::After(ttl) => Ok(Self::After(truncate_to_millis(ttl))),
            Self::Never => Ok(Self::Never),
        }
    }
}
