//! The contract between a lock and the backends: a request to acquire, and its outcome.
//!
//! Contains nothing that only one backend knows.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::inspect::Access;
use crate::key::Keys;
use crate::token::{ClientId, Token};

/// One attempt to acquire one lock.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) keys: Arc<Keys>,
    pub(crate) mode: Mode,
    pub(crate) token: Token,
    pub(crate) lease: Duration,
    /// End of the wait. `None` waits without end.
    pub(crate) wait_deadline: Option<Instant>,
    pub(crate) requested_at: Instant,
}

/// How a grant shares the lock with other grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Excludes every other grant.
    Exclusive,
    /// Takes some of the permits of a semaphore.
    Permits { max: NonZeroU32, taken: NonZeroU32 },
    /// Allows any number of readers.
    Read,
}

impl Mode {
    /// Returns how many permits a grant takes.
    pub(super) fn permits(self) -> u32 {
        match self {
            Self::Permits { taken, .. } => taken.get(),
            Self::Exclusive | Self::Read => 1,
        }
    }

    /// Returns the public counterpart.
    pub(super) fn access(self) -> Access {
        match self {
            Self::Exclusive => Access::Exclusive,
            Self::Permits { .. } => Access::Permit,
            Self::Read => Access::Read,
        }
    }
}

impl Request {
    pub(crate) fn new(
        client_id: ClientId,
        keys: Arc<Keys>,
        mode: Mode,
        lease: Duration,
        wait_deadline: Option<Instant>,
    ) -> Self {
        Self {
            keys,
            mode,
            token: Token::random(client_id),
            lease,
            wait_deadline,
            requested_at: Instant::now(),
        }
    }

    /// Returns a request for the same lock that does not wait and has a token of its own.
    pub(super) fn without_wait(&self) -> Self {
        let now = Instant::now();
        Self {
            keys: self.keys.clone(),
            token: Token::random(self.token.client_id()),
            wait_deadline: Some(now),
            requested_at: now,
            ..*self
        }
    }

    /// Returns the request with another token, for a store that may have granted it already.
    pub(super) fn renewed(self) -> Self {
        Self {
            token: Token::random(self.token.client_id()),
            ..self
        }
    }

    /// Returns the time until the wait deadline, `None` for a wait without end.
    pub(super) fn remaining_wait(&self) -> Option<Duration> {
        self.wait_deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    pub(super) fn has_timed_out(&self) -> bool {
        self.remaining_wait()
            .is_some_and(|remaining| remaining.is_zero())
    }
}

/// Outcome of a request. `H` is the lock as the backend holds it.
#[derive(Debug)]
pub(crate) enum Outcome<H> {
    Acquired(H),
    /// Another holder has the lock.
    Busy {
        /// Rest of its lease. `None` if it never expires.
        remaining: Option<Duration>,
        state: HoldState,
    },
}

impl<H> Outcome<H> {
    pub(super) fn map<T>(self, convert: impl FnOnce(H) -> T) -> Outcome<T> {
        match self {
            Self::Acquired(holding) => Outcome::Acquired(convert(holding)),
            Self::Busy { remaining, state } => Outcome::Busy { remaining, state },
        }
    }
}

/// State of a lock that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HoldState {
    /// The holder may release at any moment.
    Held,
    /// The lock stays taken to the end of the lease. A shorter wait cannot succeed.
    Kept,
}

/// Outcome of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReleaseOutcome {
    Released,
    /// The lock was lost before.
    NotHeld,
    /// The lock is gone, and the reply of an earlier try was lost: that try may have released
    /// it.
    Unknown,
}
