//! One error for the whole crate: ask what it means, not which variant it is.
//!
//! A lock that somebody else holds is *not* an error: it is
//! [`Acquired::Busy`](crate::Acquired::Busy). An [`Error`] means that the question
//! could not be answered, that it made no sense, or that a lock was lost.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What every fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. Match with [`is_unavailable`](Self::is_unavailable),
/// [`is_lost`](Self::is_lost) and [`is_invalid`](Self::is_invalid); the kind itself is
/// private so that new causes are not breaking changes.
///
/// No error text ever holds a password: URLs are shown without their credentials.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

#[derive(Debug, Clone)]
enum Kind {
    Invalid(String),
    Lost,
    Unavailable(String),
}

impl Error {
    pub(crate) fn invalid(why: impl Into<String>) -> Self {
        Self {
            kind: Kind::Invalid(why.into()),
            source: None,
        }
    }

    pub(crate) fn lost() -> Self {
        Self {
            kind: Kind::Lost,
            source: None,
        }
    }

    pub(crate) fn unavailable(why: impl Into<String>) -> Self {
        Self {
            kind: Kind::Unavailable(why.into()),
            source: None,
        }
    }

    /// The server's own word (NOAUTH, READONLY, OOM, LOADING …) is kept: it tells the operator
    /// what to do, and it is never mistaken for "busy" or "granted".
    pub(crate) fn refused(why: impl fmt::Display) -> Self {
        Self::unavailable(format!("the store failed: {why}"))
    }

    pub(crate) fn no_answer(within: Duration) -> Self {
        Self::unavailable(format!("the store did not answer within {within:?}"))
    }

    /// The store could not be asked, or could not answer: it is down, it timed out, it
    /// refused the command. Nothing is known about the lock. Never means "busy".
    pub fn is_unavailable(&self) -> bool {
        matches!(self.kind, Kind::Unavailable(_))
    }

    /// The lock is no longer held by this guard: its lease ended, or the store forgot it.
    /// Whatever was done under it may have been done by somebody else as well.
    pub fn is_lost(&self) -> bool {
        matches!(self.kind, Kind::Lost)
    }

    /// The call could never work: a name too long, a lease out of range, a malformed URL.
    pub fn is_invalid(&self) -> bool {
        matches!(self.kind, Kind::Invalid(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Invalid(why) | Kind::Unavailable(why) => f.write_str(why),
            Kind::Lost => f.write_str("the lock is lost: its lease ended, or the store forgot it"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

impl From<redis::RedisError> for Error {
    fn from(error: redis::RedisError) -> Self {
        Self {
            source: Some(Arc::new(error.clone())),
            ..Self::refused(error)
        }
    }
}
