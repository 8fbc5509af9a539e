//! What the lock and its stores say to each other.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use metrics::counter;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::redis::{LocalOutcome, MAX_LOCAL_HANDOVERS, QueueHead};
use crate::inspect::Access;
use crate::key::Keys;
use crate::token::{ClientId, Token};

/// One attempt to get one lock, from the first question to the answer.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) keys: Arc<Keys>,
    pub(crate) mode: Mode,
    pub(crate) token: Token,
    pub(crate) lease: Duration,
    /// When it gives up; never, if `None`.
    pub(crate) until: Option<Instant>,
    pub(crate) begun: Instant,
    /// How many fences the store was asked for, once it was asked: until then there is nothing
    /// there that could be withdrawn.
    pub(super) block: OnceLock<u64>,
    /// How it hears of its place in line, while it stands there.
    line: Mutex<Option<oneshot::Receiver<LocalOutcome>>>,
}

/// With whom a lock can be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// With nobody.
    Exclusive,
    /// With so many others less one.
    Permit(NonZeroU32),
    /// With everybody who reads.
    Read,
}

impl Mode {
    /// As it is told to others.
    pub(super) fn access(self) -> Access {
        match self {
            Self::Exclusive => Access::Exclusive,
            Self::Permit(_) => Access::Permit,
            Self::Read => Access::Read,
        }
    }
}

impl Request {
    pub(crate) fn new(
        process: ClientId,
        keys: Arc<Keys>,
        mode: Mode,
        lease: Duration,
        until: Option<Instant>,
    ) -> Self {
        Self {
            keys,
            mode,
            token: Token::random(process),
            lease,
            until,
            begun: Instant::now(),
            block: OnceLock::new(),
            line: Mutex::default(),
        }
    }

    /// What is left of the wait; `None` for one without end.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.until
            .map(|until| until.saturating_duration_since(Instant::now()))
    }

    pub(super) fn is_over(&self) -> bool {
        self.patience().is_some_and(|patience| patience.is_zero())
    }

    /// How many fences it asks for: as many as there may be holders, if somebody waits to whom
    /// the lock can be passed on. The same each time.
    pub(super) fn block_for(&self, is_waited_for: bool) -> u64 {
        let block = if is_waited_for {
            MAX_LOCAL_HANDOVERS
        } else {
            1
        };
        *self.block.get_or_init(|| block)
    }

    /// Stands in line no longer, and hears what it was told in this moment.
    pub(super) fn leave_line(&self) -> Option<LocalOutcome> {
        let mut hears = self.line().take()?;
        hears.close();
        hears.try_recv().ok()
    }

    /// The lock, if it was passed on in the moment in which nobody waited for it any more.
    pub(crate) fn passed_too_late(&self) -> Option<Grant> {
        match self.leave_line()? {
            LocalOutcome::Passed(grant) => Some(grant),
            _ => None,
        }
    }

    pub(super) fn line(&self) -> MutexGuard<'_, Option<oneshot::Receiver<LocalOutcome>>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the store may know of it.
    pub(crate) fn was_made(&self) -> bool {
        self.block.get().is_some()
    }
}

/// What a store says to one attempt.
#[derive(Debug)]
pub(crate) enum Outcome {
    Granted(Grant),
    Busy {
        left: Option<Duration>,
        how: HoldState,
    },
    /// The wait was over before the store was asked.
    NotAsked,
}

/// As the store knows a holder: of whoever in this process had the lock first, if it was passed
/// on here; with the last of the fences that came with the grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ownership {
    pub(crate) token: Token,
    pub(crate) last_fence: u64,
    /// How many fences came with it.
    pub(crate) block: u64,
}

impl Ownership {
    pub(crate) fn first_fence(self) -> u64 {
        self.last_fence + 1 - self.block
    }
}

/// Whoever holds a lock.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) keys: Arc<Keys>,
    pub(crate) lease: Duration,
    pub(crate) claim: Ownership,
    pub(crate) fence: u64,
}

impl Tenant {
    pub(crate) fn new(attempt: &Request, grant: &Grant) -> Self {
        Self {
            keys: attempt.keys.clone(),
            lease: attempt.lease,
            claim: grant.claim,
            fence: grant.fence,
        }
    }

    /// How far the fences were used that came with the grant, if there were several.
    pub(super) fn used(&self) -> Option<u64> {
        (self.claim.block > 1).then_some(self.fence)
    }
}

/// A lock that is ours.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) claim: Ownership,
    pub(crate) fence: u64,
    pub(crate) deadline: Instant,
    /// The place in front of those who wait in this process.
    pub(crate) place: Option<QueueHead>,
}

/// In which way a lock is not free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HoldState {
    /// Held: it may be released at any moment.
    Held,
    /// Kept: it stays taken to the end of its lease, waiting for less is in vain.
    Kept,
}

/// What became of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    Done,
    NotOurs,
    /// It is not ours any more; whether by this very release, whose first answer was lost,
    /// nobody can tell.
    Unclear,
}

/// How a lock went from one holder to the next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Handover {
    /// Passed on in this process.
    Local,
    /// Granted by another process, or by the store for it.
    Remote,
    /// Taken when the lease before it had ended.
    Expiry,
}

impl Handover {
    pub(super) fn count(self) {
        let kind = match self {
            Self::Local => "local",
            Self::Remote => "remote",
            Self::Expiry => "expiry",
        };
        counter!("lockstock_lock_handovers_total", "kind" => kind).increment(1);
    }
}
