//! A lock of several names at once: all of them, or none.
//!
//! Guarantees: those of a single [lock](crate::lock), for each name. Multi-locks do not
//! deadlock each other, because each acquires its names in the same order. An attempt that
//! fails or is cancelled holds nothing in the end.

use std::fmt;
use std::time::Duration;

use futures_util::future::{join_all, select_all};
use tokio::time::{Instant, timeout};

use crate::error::{Error, Result};
use crate::escaped::Escaped;
use crate::guard::Guard;
use crate::lock::{Acquired, Busy, LeasedTarget, Lock, LockTarget};
use crate::store::Store;

impl Store {
    /// Returns a builder for the locks of all `names` at once, such as the products in a cart.
    /// Each is the [`lock`](Self::lock) of its name. They are acquired one after another, in an
    /// order that is the same for all callers, so that two carts never deadlock. All or none: if
    /// one of them is busy, those before it are released. Duplicate names count once.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lockstock::{Acquired, Store};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let cart = store.lock_all(["shoes-42", "laces-7"]).lease(Duration::from_secs(3))?;
    /// if let Acquired::Held(guards) = cart.acquire_within(Duration::from_secs(1)).await? {
    ///     // UPDATE … WHERE id = 42 AND fence < $f, for each of them
    ///     assert!(guards.fence_of("shoes-42").is_some());
    ///     guards.release().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn lock_all<N: AsRef<[u8]>>(&self, names: impl IntoIterator<Item = N>) -> MultiLockBuilder {
        MultiLockBuilder::new(self, names)
    }
}

/// Several names without a lease: see [`Store::lock_all`].
#[derive(Clone)]
#[must_use = "set the lease to get a lock"]
pub struct MultiLockBuilder {
    store: Store,
    /// Sorted, which is the order of acquisition.
    names: Vec<Vec<u8>>,
}

impl MultiLockBuilder {
    fn new<N: AsRef<[u8]>>(store: &Store, names: impl IntoIterator<Item = N>) -> Self {
        Self {
            store: store.clone(),
            names: in_order(names),
        }
    }

    /// Sets how long a holder holds all of them, as
    /// [`LockBuilder::lease`](crate::LockBuilder::lease) does for one.
    ///
    /// # Errors
    ///
    /// [`is_invalid`](Error::is_invalid) if the lease is out of range, a name is empty or too
    /// long, or there are no names.
    pub fn lease(self, lease: Duration) -> Result<MultiLock> {
        Ok(MultiLock::new(&self.store, &leased(&self.names, lease)?))
    }
}

/// Several locks that can be acquired together any number of times.
#[derive(Clone)]
pub struct MultiLock {
    /// In the order of acquisition.
    locks: Vec<Lock>,
    lease: Duration,
}

/// Returns names in the order of acquisition, each once.
pub(crate) fn in_order<N: AsRef<[u8]>>(names: impl IntoIterator<Item = N>) -> Vec<Vec<u8>> {
    let names = names.into_iter().map(|name| name.as_ref().to_vec());
    let mut names = names.collect::<Vec<_>>();
    names.sort_unstable();
    names.dedup();
    names
}

/// Returns the locks of these names, unless a name or the lease is invalid.
pub(crate) fn leased(names: &[Vec<u8>], lease: Duration) -> Result<Vec<LeasedTarget>> {
    if names.is_empty() {
        return Err(Error::invalid("a multi-lock needs at least one name"));
    }
    let targets = names
        .iter()
        .map(|name| LockTarget::lock(name).leased(lease));
    targets.collect()
}

impl MultiLock {
    /// Of locks with the same lease.
    pub(crate) fn new(store: &Store, targets: &[LeasedTarget]) -> Self {
        Self {
            locks: targets
                .iter()
                .map(|target| Lock::new(store, target))
                .collect(),
            lease: targets[0].lease,
        }
    }

    /// Acquires all of them, and waits without a time limit.
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](Error::is_unavailable) if the store does not reply.
    pub async fn acquire(&self) -> Result<MultiGuard> {
        match self.acquire_before(None).await? {
            Acquired::Held(guards) => Ok(guards),
            Acquired::Busy(_) => Err(Error::unavailable(
                "the store ended a wait that has no time limit",
            )),
        }
    }

    /// Acquires all of them, and waits at most `wait` in total.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_within(&self, wait: Duration) -> Result<Acquired<MultiGuard>> {
        self.acquire_before(Instant::now().checked_add(wait)).await
    }

    /// Acquires all of them if they are free. Does not wait.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn try_acquire(&self) -> Result<Acquired<MultiGuard>> {
        self.acquire_before(Some(Instant::now())).await
    }

    /// Acquires all of them within `wait`, runs `work` while all are held, and gives them back:
    /// as [`Lock::with`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lockstock::{Acquired, Store};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = Store::memory();
    /// let cart = store.lock_all(["shoes-42", "laces-7"]).lease(Duration::from_secs(3))?;
    /// let sold = cart.with(Duration::from_secs(1), async |guards| {
    ///     guards.fence_of("shoes-42") // UPDATE … WHERE id = 42 AND fence < $f
    /// }).await?;
    /// assert!(matches!(sold, Acquired::Held(Some(_))));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Lock::with`].
    pub async fn with<T>(
        &self,
        wait: Duration,
        work: impl AsyncFnOnce(&MultiGuard) -> T,
    ) -> Result<Acquired<T>> {
        let guards = match self.acquire_within(wait).await? {
            Acquired::Held(guards) => guards,
            Acquired::Busy(busy) => return Ok(Acquired::Busy(busy)),
        };
        let done = guards.run(work(&guards)).await?;
        match guards.release().await {
            Err(error) if error.is_lost() => Err(error),
            // Retried in the background.
            Ok(()) | Err(_) => Ok(Acquired::Held(done)),
        }
    }

    /// Renews the locks of every holder automatically, for at most `max`: as
    /// [`Lock::auto_renew`].
    pub fn auto_renew(self, max: Duration) -> Self {
        let locks = self.locks.into_iter();
        Self {
            locks: locks.map(|lock| lock.auto_renew(max)).collect(),
            lease: self.lease,
        }
    }

    async fn acquire_before(&self, wait_deadline: Option<Instant>) -> Result<Acquired<MultiGuard>> {
        loop {
            match self.acquire_each(wait_deadline).await {
                Ok(Progress::All(guards)) => return Ok(Acquired::Held(guards)),
                Ok(Progress::Busy(busy, guards)) => {
                    // The caller has not worked under these guards, so a loss is harmless.
                    match guards.release().await {
                        Err(error) if !error.is_lost() => return Err(error),
                        _ => return Ok(Acquired::Busy(busy)),
                    }
                }
                // A lock was lost during the wait for another: start again.
                Err(error) if error.is_lost() => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn acquire_each(&self, wait_deadline: Option<Instant>) -> Result<Progress> {
        let mut acquired = MultiGuard { guards: Vec::new() };
        for lock in &self.locks {
            let mut next = std::pin::pin!(lock.acquire_before(wait_deadline));
            let outcome = loop {
                // The locks acquired so far must not expire during the wait for the next.
                match timeout(self.lease / 3, &mut next).await {
                    Ok(outcome) => break outcome?,
                    Err(_) => acquired.renew().await?,
                }
            };
            match outcome {
                Acquired::Held(guard) => acquired.guards.push(guard),
                Acquired::Busy(busy) => return Ok(Progress::Busy(busy, acquired)),
            }
        }
        // The caller gets one deadline, the earliest, and should have most of the lease.
        if acquired.remaining() < self.lease * 9 / 10 {
            acquired.renew().await?;
        }
        Ok(Progress::All(acquired))
    }
}

enum Progress {
    All(MultiGuard),
    /// The first lock that was busy, and the guards acquired before it.
    Busy(Busy, MultiGuard),
}

/// Several locks that the caller holds until [`deadline`](Self::deadline). Dropping it gives
/// them back.
#[must_use = "guards that are dropped give the locks back"]
pub struct MultiGuard {
    /// In the order of their names.
    guards: Vec<Guard>,
}

impl MultiGuard {
    /// Returns the guards of the locks, in the order of their names.
    pub fn guards(&self) -> &[Guard] {
        &self.guards
    }

    /// Returns the [fence](Guard::fence) of one name, `None` if the name is not among them.
    /// Each name has a fence of its own: each row should reject a write whose fence is not
    /// higher than the last one that it has seen.
    pub fn fence_of(&self, name: impl AsRef<[u8]>) -> Option<u64> {
        let name = name.as_ref();
        let mut guards = self.guards.iter();
        guards.find(|guard| guard.name() == name).map(Guard::fence)
    }

    /// Returns the earliest deadline of the locks, as [`Guard::deadline`].
    pub fn deadline(&self) -> Instant {
        let deadlines = self.guards.iter().map(Guard::deadline);
        deadlines.min().unwrap_or_else(Instant::now)
    }

    /// Returns the time until the [`deadline`](Self::deadline).
    pub fn remaining(&self) -> Duration {
        self.deadline().saturating_duration_since(Instant::now())
    }

    /// Resolves when one of the locks is lost, as [`Guard::lost`].
    pub fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        let lost = self.guards.iter().map(|guard| Box::pin(guard.lost()));
        let any = select_all(lost.collect::<Vec<_>>());
        async {
            any.await;
        }
    }

    /// Runs `work` while all locks are held, and drops it if one is lost, as [`Guard::run`].
    ///
    /// # Errors
    ///
    /// [`is_lost`](Error::is_lost) if a lock was lost first. What `work` had done by then stays
    /// done.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.lost() => Err(Error::lost()),
        }
    }

    /// Starts all leases again.
    ///
    /// # Errors
    ///
    /// As [`Guard::renew`], if one of the locks could not be renewed.
    pub async fn renew(&self) -> Result<()> {
        let renewals = self.guards.iter().map(Guard::renew);
        combined(join_all(renewals).await)
    }

    /// Adds `by` to the rest of each lease.
    ///
    /// # Errors
    ///
    /// As [`Guard::extend`], if one of the locks could not be extended.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let cart = store.lock_all(["shoes-42", "laces-7"]).lease(Duration::from_secs(3))?;
    /// let guards = cart.acquire().await?;
    /// guards.extend(Duration::from_secs(60)).await?;
    /// assert!(guards.remaining() > Duration::from_secs(60));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn extend(&self, by: Duration) -> Result<()> {
        let extensions = self.guards.iter().map(|guard| guard.extend(by));
        combined(join_all(extensions).await)
    }

    /// Sets the rest of each lease, to more or less than before.
    ///
    /// # Errors
    ///
    /// As [`Guard::set_remaining`], if it failed for one of the locks.
    pub async fn set_remaining(&self, remaining: Duration) -> Result<()> {
        let changes = self.guards.iter();
        let changes = changes.map(|guard| guard.set_remaining(remaining));
        combined(join_all(changes).await)
    }

    /// Renews all locks automatically, for at most `max`, as [`Guard::auto_renew`].
    pub fn auto_renew(self, max: Duration) -> Self {
        let guards = self.guards.into_iter();
        Self {
            guards: guards.map(|guard| guard.auto_renew(max)).collect(),
        }
    }

    /// Gives all locks back. Once called, it is carried out even if its future is dropped.
    ///
    /// # Errors
    ///
    /// As [`Guard::release`], if one of the locks could not be released.
    pub fn release(self) -> impl Future<Output = Result<()>> + Send {
        let releases = self.guards.into_iter().map(Guard::release);
        let releases = join_all(releases);
        async { combined(releases.await) }
    }

    /// Leaves all locks taken to the end of their leases. Once called, it is carried out even
    /// if its future is dropped.
    ///
    /// # Errors
    ///
    /// As [`Guard::keep`], if one of the locks could not be kept.
    pub fn keep(self) -> impl Future<Output = Result<()>> + Send {
        let keeps = self.guards.into_iter().map(Guard::keep);
        let keeps = join_all(keeps);
        async { combined(keeps.await) }
    }
}

impl fmt::Debug for MultiLockBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names.iter().map(|name| Escaped(name));
        f.debug_tuple("MultiLockBuilder")
            .field(&names.collect::<Vec<_>>())
            .finish()
    }
}

impl fmt::Debug for MultiLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MultiLock").field(&self.locks).finish()
    }
}

impl fmt::Debug for MultiGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MultiGuard").field(&self.guards).finish()
    }
}

/// Returns the most important error: a lost lock before an unavailable store.
pub(crate) fn combined(results: Vec<Result<()>>) -> Result<()> {
    let errors = results.into_iter().filter_map(Result::err);
    match errors.max_by_key(Error::is_lost) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
