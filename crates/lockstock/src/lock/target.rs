//! What a lock is, apart from the store that it is in: kind, name, mode, and lease. The same for
//! asynchronous and for blocking callers.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::escaped::Escaped;
use crate::key::{Keys, LockKind};
use crate::lease::checked_lease;
use crate::store::Mode;
use crate::token::Token;

/// The maximum number of permits of a semaphore that one acquire takes: 1000. In Redis each is a
/// member of a sorted set.
pub const MAX_PERMITS_TAKEN: u32 = 1000;

/// A lock without a lease.
#[derive(Clone)]
pub(crate) struct LockTarget {
    /// `Err` describes an invalid name or number of permits.
    parts: std::result::Result<(Arc<Keys>, Mode), String>,
}

/// A lock with a lease.
#[derive(Clone)]
pub(crate) struct LeasedTarget {
    pub(crate) keys: Arc<Keys>,
    pub(crate) mode: Mode,
    pub(crate) lease: Duration,
    /// How long a holder renews the lock automatically.
    pub(crate) auto_renew: Option<Duration>,
    /// The token of the holder. `None`: a new one for each acquire.
    pub(crate) token: Option<Token>,
}

impl LockTarget {
    pub(crate) fn lock(name: &[u8]) -> Self {
        Self::new(LockKind::Lock, Ok(Mode::Exclusive), name)
    }

    pub(crate) fn semaphore(name: &[u8], permits: u32) -> Self {
        let mode = NonZeroU32::new(permits)
            .map(|max| Mode::Permits {
                max,
                taken: NonZeroU32::MIN,
            })
            .ok_or_else(|| "a semaphore needs at least one permit".to_owned());
        Self::new(LockKind::Semaphore, mode, name)
    }

    pub(crate) fn read(name: &[u8]) -> Self {
        Self::new(LockKind::ReadWrite, Ok(Mode::Read), name)
    }

    pub(crate) fn write(name: &[u8]) -> Self {
        Self::new(LockKind::ReadWrite, Ok(Mode::Exclusive), name)
    }

    fn new(kind: LockKind, mode: std::result::Result<Mode, String>, name: &[u8]) -> Self {
        let keys = Keys::of(kind, name).map_err(|error| error.to_string());
        Self {
            parts: keys.and_then(|keys| Ok((Arc::new(keys), mode?))),
        }
    }

    /// Sets how many permits an acquire takes.
    pub(crate) fn take(self, permits: u32) -> Self {
        let parts = self.parts.and_then(|(keys, mode)| {
            let max = match mode {
                Mode::Permits { max, .. } => max.get(),
                Mode::Exclusive | Mode::Read => 1,
            };
            let taken = NonZeroU32::new(permits)
                .filter(|taken| taken.get() <= max.min(MAX_PERMITS_TAKEN))
                .ok_or_else(|| {
                    format!(
                        "an acquire of this lock can take 1 to {} permits, not {permits}",
                        max.min(MAX_PERMITS_TAKEN)
                    )
                })?;
            let mode = match mode {
                Mode::Permits { max, .. } => Mode::Permits { max, taken },
                mode => mode,
            };
            Ok((keys, mode))
        });
        Self { parts }
    }

    /// Sets the lease, and reports what is invalid.
    pub(crate) fn leased(self, lease: Duration) -> Result<LeasedTarget> {
        let (keys, mode) = self.parts.map_err(Error::invalid)?;
        Ok(LeasedTarget {
            keys,
            mode,
            lease: checked_lease(lease)?,
            auto_renew: None,
            token: None,
        })
    }

    /// Formats the type `kind`, which has this target, for debugging.
    pub(crate) fn fmt_as(&self, kind: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.parts {
            Ok((keys, _)) => f
                .debug_struct(kind)
                .field("name", &Escaped(keys.name()))
                .field("kind", &keys.kind)
                .finish_non_exhaustive(),
            Err(reason) => f.debug_tuple(kind).field(reason).finish(),
        }
    }
}

impl LeasedTarget {
    /// Formats the type `kind`, which has this target, for debugging.
    pub(crate) fn fmt_as(&self, kind: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(kind)
            .field("name", &Escaped(self.keys.name()))
            .field("kind", &self.keys.kind)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}
