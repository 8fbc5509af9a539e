//! The lock: one holder at a time, or as many as its kind admits, each for at most a lease.
//!
//! Guarantees: the store has at most one holder of a name at a time (a semaphore: as many as
//! it has permits; a read-write lock: one writer or any number of readers), as long as the
//! store keeps its memory and its clock; each grant has a [fence](Guard::fence) that is higher
//! than all before it; a guard never considers its lock held for longer than the store does
//! ([`deadline`](Guard::deadline)); a lock is given back if its future or its guard is dropped.
//!
//! Not guaranteed, by this or any other lock: that a holder which was paused for longer than
//! its lease writes nothing afterwards. Pass the fence to the database and let it compare:
//! `UPDATE … SET fence = $f WHERE id = $id AND fence < $f`
//! ([Kleppmann 2016](https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html)).

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use tokio::time::Instant;
use tracing::{Instrument, debug, debug_span};

use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::key::{Keys, LockKind};
use crate::lease::checked_lease;
use crate::store::{HoldState, Mode, Outcome, Request, Store};

impl Store {
    /// Returns a builder for the lock called `name`: any bytes, 1 to
    /// [`MAX_NAME_BYTES`](crate::MAX_NAME_BYTES). Sends nothing; set the
    /// [lease](LockBuilder::lease) to get a lock that can be acquired.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let lock = store.lock("product-update-lock-42").lease(Duration::from_secs(3))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn lock(&self, name: impl AsRef<[u8]>) -> LockBuilder {
        LockBuilder::new(self, LockKind::Lock, Ok(Mode::Exclusive), name.as_ref())
    }

    /// Returns a builder for the semaphore called `name`: at most `permits` holders at once,
    /// each with a lease of its own. Each request is admitted by its own `permits`, so all
    /// clients should pass the same number.
    ///
    /// Guarantees and use are those of a [`lock`](Self::lock). A semaphore and a lock of the
    /// same name are independent. The fences of a semaphore rise from grant to grant.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let uploads = store.semaphore("uploads", 2).lease(Duration::from_secs(30))?;
    /// let (one, _two) = (uploads.acquire().await?, uploads.acquire().await?);
    /// assert!(matches!(uploads.try_acquire().await?, lockstock::Acquired::Busy(_)));
    /// one.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn semaphore(&self, name: impl AsRef<[u8]>, permits: u32) -> LockBuilder {
        let mode = NonZeroU32::new(permits)
            .map(Mode::Permit)
            .ok_or_else(|| "a semaphore needs at least one permit".to_owned());
        LockBuilder::new(self, LockKind::Semaphore, mode, name.as_ref())
    }

    /// Returns a builder for the read side of the read-write lock called `name`: any number of
    /// readers at once, and no [writer](Self::write_lock). A reader that arrives after a waiting
    /// writer waits behind it, so that writers do not starve.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let read = store.read_lock("catalog").lease(Duration::from_secs(3))?;
    /// let write = store.write_lock("catalog").lease(Duration::from_secs(3))?;
    /// let (one, two) = (read.acquire().await?, read.acquire().await?);
    /// assert!(matches!(write.try_acquire().await?, lockstock::Acquired::Busy(_)));
    /// one.release().await?;
    /// two.release().await?;
    /// write.acquire().await?.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn read_lock(&self, name: impl AsRef<[u8]>) -> LockBuilder {
        LockBuilder::new(self, LockKind::ReadWrite, Ok(Mode::Read), name.as_ref())
    }

    /// Returns a builder for the write side of the read-write lock called `name`: one writer,
    /// and no [reader](Self::read_lock).
    pub fn write_lock(&self, name: impl AsRef<[u8]>) -> LockBuilder {
        LockBuilder::new(
            self,
            LockKind::ReadWrite,
            Ok(Mode::Exclusive),
            name.as_ref(),
        )
    }
}

/// A lock without a lease: see [`Store::lock`].
#[derive(Debug, Clone)]
#[must_use = "set the lease to get a lock"]
pub struct LockBuilder {
    store: Store,
    /// `Err` describes an invalid name or number of permits, which `lease` reports.
    target: std::result::Result<(Arc<Keys>, Mode), String>,
}

impl LockBuilder {
    pub(crate) fn new(
        store: &Store,
        kind: LockKind,
        mode: std::result::Result<Mode, String>,
        name: &[u8],
    ) -> Self {
        let keys = Keys::of(kind, name).map_err(|error| error.to_string());
        Self {
            store: store.clone(),
            target: keys.and_then(|keys| Ok((Arc::new(keys), mode?))),
        }
    }

    /// Sets how long a holder holds the lock without [renewing](Guard::renew) it: 1 ms
    /// ([`MIN_LEASE`](crate::MIN_LEASE)) to 24 h ([`MAX_LEASE`](crate::MAX_LEASE)), in whole
    /// milliseconds. If a holder crashes, the lock becomes free after this time, so the lease
    /// should be a little longer than the longest work.
    ///
    /// # Errors
    ///
    /// [`is_invalid`](Error::is_invalid) if the lease is out of range, the name is empty or too
    /// long, or a semaphore has no permits.
    pub fn lease(self, lease: Duration) -> Result<Lock> {
        let (keys, mode) = self.target.map_err(Error::invalid)?;
        Ok(Lock {
            keys,
            mode,
            lease: checked_lease(lease)?,
            store: self.store,
        })
    }
}

/// A lock that can be acquired any number of times, one name with one lease.
#[derive(Debug, Clone)]
pub struct Lock {
    store: Store,
    keys: Arc<Keys>,
    mode: Mode,
    lease: Duration,
}

/// Outcome of an acquire. A busy lock is a value, not an error.
#[derive(Debug)]
#[must_use = "a guard that is dropped gives the lock back"]
pub enum Acquired<G = Guard> {
    /// The caller holds the lock.
    Held(G),
    /// Another holder had the lock until the wait was over.
    Busy(Busy),
}

/// Why a lock is busy, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    remaining: Option<Duration>,
    kept: bool,
}

impl Busy {
    /// Returns the rest of the holder's lease, after which a retry makes sense. Unless the lock
    /// is [kept](Self::is_kept), the holder may release it earlier. `None` if the holder is a
    /// foreign client whose lock never expires.
    pub fn retry_after(&self) -> Option<Duration> {
        self.remaining
    }

    /// Returns whether the holder is done and the lock stays taken to the end of the lease
    /// ([`Guard::keep`]). Then no request succeeds before [`retry_after`](Self::retry_after).
    pub fn is_kept(&self) -> bool {
        self.kept
    }
}

impl Lock {
    /// Acquires the lock, and waits for it without a time limit.
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](Error::is_unavailable) if the store does not reply.
    ///
    /// # Cancellation
    ///
    /// If the future of this or any other acquire is dropped, the request leaves the queue, and
    /// a lock that was already granted is given back.
    pub async fn acquire(&self) -> Result<Guard> {
        match self.acquire_before(None).await? {
            Acquired::Held(guard) => Ok(guard),
            Acquired::Busy(_) => Err(Error::unavailable(
                "the store ended a wait that has no time limit",
            )),
        }
    }

    /// Acquires the lock, and waits for it at most `wait`. Returns busy as soon as the wait is
    /// certain to fail: at once, if the lock is [kept](Guard::keep) for longer than that.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    ///
    /// ```
    /// use std::time::Duration;
    /// use lockstock::{Acquired, Store};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// let store = Store::connect("memory://").await?; // or "redis://127.0.0.1:6379/1"
    /// let lock = store.lock("product-update-lock-42").lease(Duration::from_secs(3))?;
    ///
    /// match lock.acquire_within(Duration::from_secs(1)).await? {
    ///     Acquired::Held(guard) => {
    ///         // … WHERE fence < {guard.fence()}
    ///         guard.release().await?; // or keep(): taken to the end of the lease
    ///     }
    ///     Acquired::Busy(busy) => println!("try again in {:?}", busy.retry_after()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn acquire_within(&self, wait: Duration) -> Result<Acquired> {
        // A wait that overflows the clock has no end.
        self.acquire_before(Instant::now().checked_add(wait)).await
    }

    /// Acquires the lock if it is free. Does not wait.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn try_acquire(&self) -> Result<Acquired> {
        self.acquire_before(Some(Instant::now())).await
    }

    pub(crate) async fn acquire_before(&self, wait_deadline: Option<Instant>) -> Result<Acquired> {
        let started_at = Instant::now();
        let request = Request::new(
            self.store.client_id(),
            self.keys.clone(),
            self.mode,
            self.lease,
            wait_deadline,
        );
        let span = debug_span!("lock.wait", lock = %self.keys);
        let outcome = self.store.acquire(request).instrument(span).await?;
        histogram!("lockstock_lock_wait_seconds").record(started_at.elapsed());
        match outcome {
            Outcome::Acquired(holding) => {
                counter!("lockstock_lock_held_total").increment(1);
                debug!(lock = %self.keys, fence = holding.fence(), "held");
                Ok(Acquired::Held(Guard::new(&self.store, holding)))
            }
            Outcome::Busy { remaining, state } => {
                counter!("lockstock_lock_busy_total").increment(1);
                let kept = state == HoldState::Kept;
                Ok(Acquired::Busy(Busy { remaining, kept }))
            }
        }
    }
}
