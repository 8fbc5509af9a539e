//! What a store reports to operators: the holders and the waiters of its locks.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::escaped::Escaped;
use crate::key::LockKind;
use crate::token::{ClientId, Token};

/// Holders and waiters of one lock at one moment: see [`Store::locks`](crate::Store::locks).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockInfo {
    /// Kind of the lock. Each kind has its own names.
    pub kind: LockKind,
    /// Lock name, any bytes.
    pub name: Vec<u8>,
    /// Holders, the earliest deadline first. Empty if the lock is free but its waiters have
    /// not been granted it yet.
    pub holders: Vec<HolderInfo>,
    /// Waiters, in the order in which they will be granted the lock.
    pub waiters: Vec<WaiterInfo>,
    /// The moment, on the store's clock.
    pub observed_at: SystemTime,
}

/// Locks of a store, as far as a bounded search has found them: see
/// [`Store::locks_among`](crate::Store::locks_among).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockListing {
    /// The locks, sorted by name.
    pub locks: Vec<LockInfo>,
    /// Whether all keys of the store were visited.
    pub is_complete: bool,
}

/// A holder of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HolderInfo {
    /// Identity of the holder.
    pub id: HolderId,
    /// How it shares the lock.
    pub access: Access,
    /// How many permits of a semaphore it holds, 1 for other locks.
    pub permits: u32,
    /// When the lock was granted, on the store's clock. Redis records it for locks, not for
    /// semaphores and read-write locks. After a local hand-over it is the time of the first
    /// holder in the process.
    pub acquired_at: Option<SystemTime>,
    /// Rest of the lease. `None` for a foreign holder that never expires.
    pub remaining: Option<Duration>,
    /// The holder is done, and the lock stays taken to the end of the lease
    /// ([`Guard::keep`](crate::Guard::keep)). Always `false` for permits, readers and writers.
    pub kept: bool,
    /// The last of the [fences](crate::Guard::fence) minted with the grant. `None` if
    /// [`acquired_at`](Self::acquired_at) is.
    pub fence: Option<u64>,
}

/// A waiter of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaiterInfo {
    /// The client that waits. It may have more waiters behind this one.
    pub client_id: ClientId,
    /// How it would share the lock.
    pub access: Access,
    /// How many permits of a semaphore it waits for, 1 for other locks.
    pub permits: u32,
    /// How long it has been waiting.
    pub waited: Duration,
    /// Time until it gives up. `None` if it waits without end.
    pub timeout_in: Option<Duration>,
    /// Lease that it asks for.
    pub lease: Duration,
}

/// How a holder shares a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Excludes every other holder: a lock, or the writer of a read-write lock.
    Exclusive,
    /// Some permits of a semaphore.
    Permit,
    /// A reader of a read-write lock.
    Read,
}

/// How a lock came to its holder: see [`Guard::grant_kind`](crate::Guard::grant_kind).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GrantKind {
    /// The lock was free when the store was asked.
    Free,
    /// Handed over by the previous holder, in the same process.
    Local,
    /// Handed over by the previous holder, by way of the store.
    Remote,
    /// Acquired after the lease of the previous holder had ended.
    Expired,
}

/// Identity of a holder. Distinguishes one grant of a lock from every other.
///
/// Displayed as the holder's token, 32 hex digits; for a foreign client such as redis-py as
/// `foreign:` and 16 hex digits. `Debug` shows the client alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HolderId(pub(crate) Identity);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    /// A client of this crate.
    Client(Token),
    /// A digest of the value of the holder's key.
    Foreign(u64),
}

impl HolderId {
    /// Returns the client that holds the lock, `None` for a foreign holder.
    pub fn client_id(&self) -> Option<ClientId> {
        match self.0 {
            Identity::Client(token) => Some(token.client_id()),
            Identity::Foreign(_) => None,
        }
    }

    /// Returns whether the holder is a foreign client, one that took the lock with `SET NX`.
    pub fn is_foreign(&self) -> bool {
        matches!(self.0, Identity::Foreign(_))
    }
}

/// Parses a token, 32 hex digits as [`Display`](fmt::Display) writes them.
///
/// ```
/// use lockstock::HolderId;
///
/// let id: HolderId = "00112233445566778899aabbccddeeff".parse()?;
/// assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
/// assert!("42".parse::<HolderId>().unwrap_err().is_invalid());
/// # Ok::<_, lockstock::Error>(())
/// ```
impl FromStr for HolderId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_token = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let token = is_token.then(|| Token::parse(text)).flatten();
        let token = token.ok_or_else(|| {
            Error::invalid("the token of a holder must have 32 hexadecimal digits")
        })?;
        Ok(Self(Identity::Client(token)))
    }
}

impl fmt::Display for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Identity::Client(token) => token.fmt(f),
            Identity::Foreign(digest) => write!(f, "foreign:{digest:016x}"),
        }
    }
}

impl LockInfo {
    /// Returns whether the lock has neither holders nor waiters.
    pub(crate) fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.waiters.is_empty()
    }
}

impl fmt::Debug for LockInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockInfo")
            .field("kind", &self.kind)
            .field("name", &Escaped(&self.name))
            .field("holders", &self.holders)
            .field("waiters", &self.waiters)
            .field("observed_at", &self.observed_at)
            .finish()
    }
}

/// Returns when a fence was minted: a fence is a clock reading in microseconds, see `mint` in
/// `scripts/prelude.lua`.
pub(crate) fn minted_at(fence: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(fence)
}
