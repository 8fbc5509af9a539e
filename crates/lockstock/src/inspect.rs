//! Who holds what, and who waits for it: what a store tells those who run it.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::key::LockKind;
use crate::token::{ClientId, Token};

/// A name that is held, kept or waited for, as it was at one moment: see
/// [`Store::locks`](crate::Store::locks).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockInfo {
    /// What kind of lock it is.
    pub kind: LockKind,
    /// Any bytes.
    pub name: Vec<u8>,
    /// Those whose lease ends first come first. Nobody, if those who wait have not been
    /// handed it yet.
    pub holders: Vec<HolderInfo>,
    /// In the order in which they will be served.
    pub waiters: Vec<WaiterInfo>,
    /// That moment, by the store's clock.
    pub observed_at: SystemTime,
}

/// One of those who hold a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HolderInfo {
    /// Who it is.
    pub id: HolderId,
    /// With whom it shares.
    pub access: Access,
    /// Since when, by the store's clock, where the store notes it: Redis does for locks, and
    /// not for semaphores and read-write locks. Passed on inside a process, it is the first
    /// holder's there.
    pub acquired_at: Option<SystemTime>,
    /// How long its lease lasts. `None` for a foreign holder that never expires.
    pub remaining: Option<Duration>,
    /// It is done, and nobody gets the lock for the rest of the lease
    /// ([`Guard::keep`](crate::Guard::keep)). Where several can hold, that is not told apart.
    pub kept: bool,
    /// The last of the [fences](crate::Guard::fence) that came with its grant, where
    /// [`acquired_at`](Self::acquired_at) is known.
    pub fence: Option<u64>,
}

/// One of those who wait.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaiterInfo {
    /// Whose it is. Behind it there may be others of the same process.
    pub client_id: ClientId,
    /// With whom it would share.
    pub access: Access,
    /// For how long already.
    pub waited: Duration,
    /// How long it goes on, `None` for as long as it takes.
    pub timeout_in: Option<Duration>,
    /// How long it wants to hold.
    pub lease: Duration,
}

/// How a holder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Alone: a lock, or a writer.
    Exclusive,
    /// One of several: a permit of a semaphore.
    Permit,
    /// With all who read.
    Read,
}

/// Which holder it is. Tells one grant of a name from every other.
///
/// Written as 32 hex digits, the holder's token; or as `foreign:` and 16 of them for a holder
/// that is none of ours, such as redis-py.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HolderId(pub(crate) Who);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Who {
    Ours(Token),
    /// By a digest of what its key holds.
    Foreign(u64),
}

impl HolderId {
    /// The process it is of; `None` for one that is none of ours.
    pub fn client_id(&self) -> Option<ClientId> {
        match self.0 {
            Who::Ours(token) => Some(token.client_id()),
            Who::Foreign(_) => None,
        }
    }

    /// None of ours: a client that took the lock with `SET NX`.
    pub fn is_foreign(&self) -> bool {
        matches!(self.0, Who::Foreign(_))
    }
}

impl fmt::Display for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Who::Ours(token) => token.fmt(f),
            Who::Foreign(digest) => write!(f, "foreign:{digest:016x}"),
        }
    }
}

impl LockInfo {
    /// Whether there is anything to tell.
    pub(crate) fn is_anything(&self) -> bool {
        !self.holders.is_empty() || !self.waiters.is_empty()
    }
}

/// When a fence was minted: it is the clock's microseconds, see `scripts/prelude.lua`.
pub(crate) fn minted(fence: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(fence)
}
