//! The exclusive lock: one holder at a time per name, for at most the length of a lease.
//!
//! Guarantees: at most one holder by the store's own account, while the store keeps its
//! memory and its clock; every grant carries a [fence](Guard::fence) higher than any before
//! it; a guard never believes in its lock for longer than the store does
//! ([`deadline`](Guard::deadline)); a lock whose future or guard was dropped is given back.
//!
//! Not guaranteed, by this or any other lock: that a holder which was paused for longer
//! than its lease writes nothing afterwards. Hand the fence to the database and let it
//! compare: `UPDATE … SET fence = $f WHERE id = $id AND fence < $f`
//! ([Kleppmann 2016](https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html)).

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use tokio::time::Instant;
use tracing::{Instrument, debug, debug_span};

use crate::error::{Error, Result};
use crate::guard::{Guard, give_back};
use crate::key::{Keys, LockKind};
use crate::store::{HoldState, Mode, Outcome, Request, Store};

/// The shortest lease.
pub const MIN_LEASE: Duration = Duration::from_millis(1);
/// The longest lease.
pub const MAX_LEASE: Duration = Duration::from_secs(24 * 3600);

/// A lock that has a name and no lease yet: see [`Store::lock`].
#[derive(Debug, Clone)]
#[must_use = "say how long the lease is"]
pub struct LockBuilder {
    store: Store,
    /// Or what is wrong with the name or the number of permits.
    what: std::result::Result<(Arc<Keys>, Mode), String>,
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
            what: keys.and_then(|keys| Ok((Arc::new(keys), mode?))),
        }
    }

    /// Sets how long a holder may hold without [renewing](Guard::renew): [`MIN_LEASE`] to
    /// [`MAX_LEASE`], counted in whole milliseconds. A crashed holder frees the lock when
    /// this has passed, so it should be a little longer than the work ever takes.
    ///
    /// # Errors
    ///
    /// [`is_invalid`](Error::is_invalid) for a lease out of range, a name that is empty or
    /// too long, a semaphore without permits. There is no lock without a lease.
    pub fn lease(self, lease: Duration) -> Result<Lock> {
        let (keys, mode) = self.what.map_err(Error::invalid)?;
        Ok(Lock {
            keys,
            mode,
            lease: checked_lease(lease)?,
            store: self.store,
        })
    }
}

pub(crate) fn checked_lease(lease: Duration) -> Result<Duration> {
    if (MIN_LEASE..=MAX_LEASE).contains(&lease) {
        return Ok(whole_millis(lease));
    }
    Err(Error::invalid(format!(
        "a lease takes {MIN_LEASE:?} to {MAX_LEASE:?}, not {lease:?}"
    )))
}

/// A length of time as the stores count it.
pub(crate) fn whole_millis(time: Duration) -> Duration {
    time - Duration::from_nanos(u64::from(time.subsec_nanos() % 1_000_000))
}

/// One name and one lease, ready to be acquired any number of times.
#[derive(Debug, Clone)]
pub struct Lock {
    store: Store,
    keys: Arc<Keys>,
    mode: Mode,
    lease: Duration,
}

/// The answer to an attempt. That somebody else holds the lock is an ordinary answer.
#[derive(Debug)]
#[must_use = "a guard that is dropped gives the lock back"]
pub enum Acquired<G = Guard> {
    /// The lock is ours.
    Held(G),
    /// Somebody else has it, and still had it when the wait was over.
    Busy(Busy),
}

/// Why a lock was not to be had, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    left: Option<Duration>,
    kept: bool,
}

impl Busy {
    /// When it makes sense to ask again: what is left of the holder's lease. A holder that
    /// is not [kept](Self::is_kept) may release earlier. `None` if the holder is no lock of
    /// ours and never expires.
    pub fn retry_after(&self) -> Option<Duration> {
        self.left
    }

    /// The holder is done and the lock stays taken for the rest of the lease
    /// ([`Guard::keep`]): nobody gets it before [`retry_after`](Self::retry_after).
    pub fn is_kept(&self) -> bool {
        self.kept
    }
}

impl Lock {
    /// Waits for the lock as long as it takes.
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](Error::is_unavailable) when the store cannot be asked.
    ///
    /// # Cancellation
    ///
    /// Dropping the future of this or of any other acquire leaves the queue and gives back
    /// a lock that was already on its way.
    pub async fn acquire(&self) -> Result<Guard> {
        match self.attempt(None).await? {
            Acquired::Held(guard) => Ok(guard),
            Acquired::Busy(_) => Err(Error::unavailable("the store let a waiter go unanswered")),
        }
    }

    /// Waits for the lock at most `wait`. Answers busy as soon as it is certain that the
    /// wait is in vain: when the lock is [kept](Guard::keep) for longer than that, at once.
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
    ///         guard.release().await?; // or keep(): nobody for the rest of the lease
    ///     }
    ///     Acquired::Busy(busy) => println!("try again in {:?}", busy.retry_after()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn acquire_within(&self, wait: Duration) -> Result<Acquired> {
        // A wait too long to be added to the clock is a wait without end.
        self.attempt(Instant::now().checked_add(wait)).await
    }

    /// Takes the lock if it is free this moment.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn try_acquire(&self) -> Result<Acquired> {
        self.attempt(Some(Instant::now())).await
    }

    pub(crate) async fn attempt(&self, until: Option<Instant>) -> Result<Acquired> {
        let begun = Instant::now();
        let answered = match self.ask(until).await? {
            (_, Outcome::NotAsked) => self.ask(Some(Instant::now())).await?,
            answered => answered,
        };
        histogram!("lockstock_lock_wait_seconds").record(begun.elapsed());
        match answered {
            (attempt, Outcome::Granted(grant)) => {
                counter!("lockstock_lock_held_total").increment(1);
                debug!(lock = %self.keys, fence = grant.fence, "held");
                Ok(Acquired::Held(Guard::new(&self.store, &attempt, grant)))
            }
            (_, Outcome::Busy { left, how }) => {
                counter!("lockstock_lock_busy_total").increment(1);
                let kept = how == HoldState::Kept;
                Ok(Acquired::Busy(Busy { left, kept }))
            }
            (_, Outcome::NotAsked) => Err(Error::unavailable("the store was not asked")),
        }
    }

    async fn ask(&self, until: Option<Instant>) -> Result<(Arc<Request>, Outcome)> {
        let (keys, lease) = (self.keys.clone(), self.lease);
        let attempt = Request::new(self.store.client_id(), keys, self.mode, lease, until);
        let mut pending = Pending {
            store: &self.store,
            attempt: Some(Arc::new(attempt)),
        };
        let wait = debug_span!("lock.wait", lock = %self.keys);
        let answer = self
            .store
            .acquire(pending.attempt())
            .instrument(wait)
            .await?;
        Ok((pending.settle(), answer))
    }
}

/// An attempt that nobody knows the end of yet. Dropped, because its future is or because the
/// store did not answer, it is withdrawn: it may have been granted, or queued.
struct Pending<'a> {
    store: &'a Store,
    attempt: Option<Arc<Request>>,
}

impl Pending<'_> {
    fn attempt(&self) -> &Arc<Request> {
        self.attempt.as_ref().expect("taken by `settle` only")
    }

    fn settle(&mut self) -> Arc<Request> {
        self.attempt.take().expect("settled once")
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let Some(attempt) = self.attempt.take() else {
            return;
        };
        if let Some(grant) = attempt.passed_too_late() {
            drop(Guard::new(self.store, &attempt, grant));
        } else if attempt.was_made() {
            // For so long a grant or a place in the queue could stand in somebody's way.
            let wait = attempt.patience().unwrap_or(MAX_LEASE);
            let matters_until = Instant::now() + wait.saturating_add(attempt.lease);
            let store = self.store.clone();
            give_back(self.store, matters_until, move || {
                let (store, attempt) = (store.clone(), attempt.clone());
                async move { store.withdraw(&attempt).await }
            });
        }
    }
}
