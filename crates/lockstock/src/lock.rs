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

mod target;

use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use metrics::{counter, histogram};
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, debug, debug_span};

pub use self::target::MAX_PERMITS_TAKEN;
pub(crate) use self::target::{LeasedTarget, LockTarget};
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::inspect::{GrantKind, HolderId, Identity};
use crate::key::LockKind;
use crate::store::{HoldState, Holding, Outcome, Request, Store};

impl Store {
    /// Returns a builder for the lock called `name`: any bytes, 1 byte to 1 KiB
    /// ([`MAX_NAME_BYTES`](crate::MAX_NAME_BYTES)). Sends nothing; set the
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
        LockBuilder::new(self, LockTarget::lock(name.as_ref()))
    }

    /// Returns a builder for the semaphore called `name`: at most `permits` holders at once,
    /// each with a lease of its own ([`take`](LockBuilder::take) several permits for a holder that needs
    /// more). Each request is admitted by its own `permits`, so all
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
        LockBuilder::new(self, LockTarget::semaphore(name.as_ref(), permits))
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
        LockBuilder::new(self, LockTarget::read(name.as_ref()))
    }

    /// Returns a builder for the write side of the read-write lock called `name`: one writer,
    /// and no [reader](Self::read_lock).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let write = store.write_lock("catalog").lease(Duration::from_secs(3))?;
    /// let writer = write.acquire().await?;
    /// let read = store.read_lock("catalog").lease(Duration::from_secs(3))?;
    /// assert!(read.try_acquire().await?.held().is_none());
    /// writer.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn write_lock(&self, name: impl AsRef<[u8]>) -> LockBuilder {
        LockBuilder::new(self, LockTarget::write(name.as_ref()))
    }
}

/// A lock without a lease: see [`Store::lock`].
#[derive(Clone)]
#[must_use = "set the lease to get a lock"]
pub struct LockBuilder {
    store: Store,
    target: LockTarget,
}

impl LockBuilder {
    pub(crate) fn new(store: &Store, target: LockTarget) -> Self {
        Self {
            store: store.clone(),
            target,
        }
    }

    /// Takes `permits` permits of a semaphore with each acquire, 1 by default, up to 1000
    /// ([`MAX_PERMITS_TAKEN`]): all at once, or none. They are renewed and released together.
    ///
    /// Requests are served in order of arrival, so that none starves: while the first waiter needs
    /// more permits than are free, those are left free for it, and the requests behind it wait.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let second = Duration::from_secs(1);
    /// let large = store.semaphore("uploads", 4).take(3).lease(second)?;
    /// let small = store.semaphore("uploads", 4).lease(second)?;
    /// let (_three, _one) = (large.acquire().await?, small.acquire().await?);
    /// assert!(small.try_acquire().await?.held().is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn take(mut self, permits: u32) -> Self {
        self.target = self.target.take(permits);
        self
    }

    /// Sets how long a holder holds the lock without [renewing](Guard::renew) it: 1 ms
    /// ([`MIN_LEASE`](crate::MIN_LEASE)) to 24 h ([`MAX_LEASE`](crate::MAX_LEASE)), in whole
    /// milliseconds. If a holder crashes, the lock becomes free after this time, so the lease
    /// should be a little longer than the longest work.
    ///
    /// # Errors
    ///
    /// [`is_invalid`](Error::is_invalid) if the lease is out of range, the name is empty or too
    /// long, a semaphore has no permits, or [`take`](Self::take) is out of range.
    pub fn lease(self, lease: Duration) -> Result<Lock> {
        Ok(Lock {
            target: self.target.leased(lease)?,
            store: self.store,
        })
    }
}

/// A lock that can be acquired any number of times, one name with one lease.
#[derive(Clone)]
pub struct Lock {
    store: Store,
    target: LeasedTarget,
}

/// Outcome of an acquire. A busy lock is a value, not an error.
#[derive(Debug)]
#[must_use = "a guard that is dropped gives the lock back"]
pub enum Acquired<G = Guard> {
    /// The caller holds the lock; of [`Lock::with`]: the result of the work under it.
    Held(G),
    /// Another holder had the lock until the wait was over.
    Busy(Busy),
}

impl<G> Acquired<G> {
    /// Returns the guard, `None` if the lock is busy. For callers that skip work which another
    /// holder is doing already.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let nightly = store.lock("nightly-report").lease(Duration::from_secs(600))?;
    /// let Some(guard) = nightly.try_acquire().await?.held() else {
    ///     return Ok(()); // another replica writes it
    /// };
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn held(self) -> Option<G> {
        match self {
            Self::Held(guard) => Some(guard),
            Self::Busy(_) => None,
        }
    }
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
    pub(crate) fn new(store: &Store, target: &LeasedTarget) -> Self {
        Self {
            store: store.clone(),
            target: target.clone(),
        }
    }

    /// Acquires the lock within `wait`, runs `work` while it is held, and gives it back. `work`
    /// gets the guard, for its [fence](Guard::fence) and to [renew](Guard::renew) the lock; it is
    /// dropped if the lock is lost, as by [`Guard::run`].
    ///
    /// The outcome is one of four: `Held` with what `work` returned, an error of its own
    /// included; `Busy`, and `work` was not called; an error that
    /// [`is_unavailable`](Error::is_unavailable), and `work` was not called; an error that
    /// [`is_lost`](Error::is_lost). If the store does not reply to the release, the release is
    /// retried in the background and the outcome is `Held`.
    ///
    /// To leave the lock taken after the work, [acquire](Self::acquire_within) it and
    /// [`keep`](Guard::keep) the guard.
    ///
    /// ```
    /// use std::time::Duration;
    /// use lockstock::{Acquired, Store};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = Store::memory();
    /// let lock = store.lock("product-update-lock-42").lease(Duration::from_secs(3))?;
    /// let outcome = lock.with(Duration::from_secs(1), async |guard| {
    ///     // UPDATE … SET fence = $f WHERE id = 42 AND fence < $f, with
    ///     guard.fence()
    /// }).await?;
    /// match outcome {
    ///     Acquired::Held(fence) => println!("written under {fence}"),
    ///     Acquired::Busy(busy) => println!("try again in {:?}", busy.retry_after()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](Error::is_unavailable) if the store did not reply to the acquire.
    /// [`is_lost`](Error::is_lost) if the lock was lost before the work was done: the work was
    /// dropped, or its result is. What it had done by then stays done, and another holder may
    /// have worked at the same time.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the work is dropped, and the lock is given back.
    pub async fn with<T>(
        &self,
        wait: Duration,
        work: impl AsyncFnOnce(&Guard) -> T,
    ) -> Result<Acquired<T>> {
        let guard = match self.acquire_within(wait).await? {
            Acquired::Held(guard) => guard,
            Acquired::Busy(busy) => return Ok(Acquired::Busy(busy)),
        };
        let done = guard.run(work(&guard)).await?;
        match guard.release().await {
            Err(error) if error.is_lost() => Err(error),
            // Retried in the background. An error would suggest that the work was not done.
            Ok(()) | Err(_) => Ok(Acquired::Held(done)),
        }
    }

    /// Renews the lock of every holder automatically, for at most `max` after the acquire, as
    /// [`Guard::auto_renew`] does for one. For [`with`](Self::with), whose caller has no guard.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lockstock::{Acquired, Store};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = Store::memory();
    /// let lock = store.lock("report").lease(Duration::from_secs(3))?;
    /// let lock = lock.auto_renew(Duration::from_secs(600));
    /// let minute = Duration::from_secs(60);
    /// let done = lock.with(minute, async |_| tokio::time::sleep(minute).await).await?;
    /// assert!(done.held().is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn auto_renew(mut self, max: Duration) -> Self {
        self.target.auto_renew = Some(max);
        self
    }

    /// Sets the identity of the holder, which is otherwise a new one for each acquire: for another
    /// program that releases the lock by it, with [`Store::force_release`]. No two holders may have
    /// the same identity. An acquire has one round trip more.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let id = "00112233445566778899aabbccddeeff".parse()?;
    /// let lock = store.lock("report").lease(Duration::from_secs(3))?.held_as(id)?;
    /// assert_eq!(lock.acquire().await?.id(), id);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`is_invalid`](Error::is_invalid) for a semaphore or a read-write lock, and for the identity of
    /// a foreign holder.
    pub fn held_as(mut self, id: HolderId) -> Result<Self> {
        match id.0 {
            Identity::Client(token) if self.target.keys.kind == LockKind::Lock => {
                self.target.token = Some(token);
                Ok(self)
            }
            _ => Err(Error::invalid(
                "only the holder of an exclusive lock has a token that can be chosen",
            )),
        }
    }

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
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let lock = store.lock("report").lease(Duration::from_secs(3))?;
    /// let guard = lock.try_acquire().await?.held();
    /// assert!(guard.is_some() && lock.try_acquire().await?.held().is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn try_acquire(&self) -> Result<Acquired> {
        self.acquire_before(Some(Instant::now())).await
    }

    pub(crate) async fn acquire_before(&self, wait_deadline: Option<Instant>) -> Result<Acquired> {
        self.acquire_requested(self.request(wait_deadline)).await
    }

    /// Returns a request for the lock, which waits from now on.
    pub(crate) fn request(&self, wait_deadline: Option<Instant>) -> Request {
        let LeasedTarget {
            keys, mode, lease, ..
        } = &self.target;
        let client_id = self.store.client_id();
        Request::new(client_id, keys.clone(), *mode, *lease, wait_deadline)
    }

    pub(crate) async fn acquire_requested(&self, request: Request) -> Result<Acquired> {
        let requested_at = request.requested_at;
        let span = debug_span!("lock.wait", lock = %self.target.keys, outcome = Empty);
        let outcome = self.store.acquire(request).instrument(span.clone()).await;
        span.record("outcome", outcome_name(&outcome));
        let guard = match self.acquired(outcome?, requested_at) {
            Acquired::Held(guard) => guard,
            busy @ Acquired::Busy(_) => return Ok(busy),
        };
        let guard = match self.target.token {
            Some(token) => guard.renamed(token).await?,
            None => guard,
        };
        Ok(Acquired::Held(match self.target.auto_renew {
            Some(max) => guard.auto_renew(max),
            None => guard,
        }))
    }

    /// Acquires the lock on the thread of the caller, as far as that is possible. Continues with the
    /// request for [`acquire_requested`](Self::acquire_requested).
    pub(crate) fn acquire_by_caller(
        &self,
        request: Request,
    ) -> Result<ControlFlow<Acquired, Request>> {
        if self.target.token.is_some() || self.target.auto_renew.is_some() {
            // It needs the runtime anyway.
            return Ok(ControlFlow::Continue(request));
        }
        let requested_at = request.requested_at;
        Ok(match self.store.acquire_by_caller(request)? {
            ControlFlow::Break(outcome) => ControlFlow::Break(self.acquired(outcome, requested_at)),
            ControlFlow::Continue(request) => ControlFlow::Continue(request),
        })
    }

    fn acquired(&self, outcome: Outcome<Holding>, requested_at: Instant) -> Acquired {
        let waited = requested_at.elapsed();
        histogram!("lockstock_lock_wait_seconds").record(waited);
        match outcome {
            Outcome::Acquired(holding) => {
                counter!("lockstock_lock_held_total").increment(1);
                debug!(lock = %self.target.keys, fence = holding.fence(), "held");
                count_handover(holding.grant_kind());
                Acquired::Held(Guard::new(&self.store, holding, waited))
            }
            Outcome::Busy { remaining, state } => {
                counter!("lockstock_lock_busy_total").increment(1);
                let kept = state == HoldState::Kept;
                Acquired::Busy(Busy { remaining, kept })
            }
        }
    }
}

/// Returns the name of an outcome in its span.
fn outcome_name(outcome: &Result<Outcome<Holding>>) -> &'static str {
    match outcome {
        Ok(Outcome::Acquired(_)) => "held",
        Ok(Outcome::Busy { state, .. }) if *state == HoldState::Kept => "kept",
        Ok(Outcome::Busy { .. }) => "busy",
        Err(_) => "unavailable",
    }
}

fn count_handover(kind: GrantKind) {
    let kind = match kind {
        GrantKind::Free => return,
        GrantKind::Local => "local",
        GrantKind::Remote => "remote",
        GrantKind::Expired => "expiry",
    };
    counter!("lockstock_lock_handovers_total", "kind" => kind).increment(1);
}

impl fmt::Debug for LockBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt_as("LockBuilder", f)
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt_as("Lock", f)
    }
}
