//! A lock of several names at once, for synchronous callers.

use std::fmt;
use std::time::{Duration, Instant};

use super::Store;
use super::guard::{Claim, not_owned};
use super::owned::Owned;
use crate::error::Result;
use crate::escaped::Escaped;
use crate::lock::{Acquired, LeasedTarget};
use crate::multi::{combined, in_order, leased};
use crate::runtime;

impl Store {
    /// Returns a builder for the locks of all `names` at once: as
    /// [`Store::lock_all`](crate::Store::lock_all).
    pub fn lock_all<N: AsRef<[u8]>>(&self, names: impl IntoIterator<Item = N>) -> MultiLockBuilder {
        MultiLockBuilder {
            store: self.clone(),
            names: in_order(names),
        }
    }
}

/// Several names without a lease: see [`Store::lock_all`].
#[derive(Clone)]
#[must_use = "set the lease to get a lock"]
pub struct MultiLockBuilder {
    store: Store,
    names: Vec<Vec<u8>>,
}

impl MultiLockBuilder {
    /// Sets how long a holder holds all of them: as
    /// [`MultiLockBuilder::lease`](crate::MultiLockBuilder::lease).
    ///
    /// # Errors
    ///
    /// As [`MultiLockBuilder::lease`](crate::MultiLockBuilder::lease).
    pub fn lease(self, lease: Duration) -> Result<MultiLock> {
        Ok(MultiLock {
            targets: leased(&self.names, lease)?,
            store: self.store,
        })
    }
}

/// Several locks that can be acquired together any number of times, in this process and in its
/// children.
#[derive(Clone)]
pub struct MultiLock {
    store: Store,
    targets: Vec<LeasedTarget>,
}

impl MultiLock {
    /// Acquires all of them, and waits without a time limit.
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](crate::Error::is_unavailable) if the store does not reply.
    pub fn acquire(&self) -> Result<MultiGuard> {
        let guard = runtime::wait(self.lock().acquire())??;
        Ok(MultiGuard::new(&self.store, guard))
    }

    /// Acquires all of them, and waits at most `wait` in total.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_within(&self, wait: Duration) -> Result<Acquired<MultiGuard>> {
        let outcome = runtime::wait(self.lock().acquire_within(wait))??;
        Ok(self.held(outcome))
    }

    /// Acquires all of them if they are free. Does not wait.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub fn try_acquire(&self) -> Result<Acquired<MultiGuard>> {
        let outcome = runtime::wait(self.lock().try_acquire())??;
        Ok(self.held(outcome))
    }

    /// Acquires all of them within `wait`, runs `work` while all are held, and gives them back: as
    /// [`Lock::with`](super::Lock::with).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lockstock::{Acquired, blocking::Store};
    /// # fn main() -> lockstock::Result<()> {
    /// # let store = Store::memory();
    /// let cart = store.lock_all(["shoes-42", "laces-7"]).lease(Duration::from_secs(3))?;
    /// let sold = cart.with(Duration::from_secs(1), |guards| guards.fence_of("shoes-42"))?;
    /// assert!(matches!(sold, Acquired::Held(Some(_))));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Lock::with`](super::Lock::with).
    pub fn with<T>(
        &self,
        wait: Duration,
        work: impl FnOnce(&MultiGuard) -> T,
    ) -> Result<Acquired<T>> {
        let guards = match self.acquire_within(wait)? {
            Acquired::Held(guards) => guards,
            Acquired::Busy(busy) => return Ok(Acquired::Busy(busy)),
        };
        let done = work(&guards);
        match guards.finish() {
            Err(error) if error.is_lost() => Err(error),
            // Retried in the background.
            Ok(()) | Err(_) => Ok(Acquired::Held(done)),
        }
    }

    /// Renews the locks of every holder automatically, for at most `max`: as
    /// [`Lock::auto_renew`](super::Lock::auto_renew).
    pub fn auto_renew(mut self, max: Duration) -> Self {
        for target in &mut self.targets {
            target.auto_renew = Some(max);
        }
        self
    }

    fn lock(&self) -> crate::MultiLock {
        crate::MultiLock::new(self.store.process(), &self.targets)
    }

    fn held(&self, outcome: Acquired<crate::MultiGuard>) -> Acquired<MultiGuard> {
        match outcome {
            Acquired::Held(guard) => Acquired::Held(MultiGuard::new(&self.store, guard)),
            Acquired::Busy(busy) => Acquired::Busy(busy),
        }
    }
}

/// Several locks that the caller holds until [`deadline`](Self::deadline). Dropping it gives them
/// back, except in a child of `fork`: the parent holds them.
#[must_use = "guards that are dropped give the locks back"]
pub struct MultiGuard {
    store: Store,
    held: Owned<crate::MultiGuard>,
    /// Copied, with the fence of each: a child must not read the guard of its parent.
    claims: Vec<(Claim, u64)>,
}

impl MultiGuard {
    fn new(store: &Store, guard: crate::MultiGuard) -> Self {
        let claims = guard.guards().iter();
        Self {
            store: store.clone(),
            claims: claims.map(|one| (Claim::of(one), one.fence())).collect(),
            held: Owned::new(guard),
        }
    }

    /// Returns the [fence](super::Guard::fence) of one name, `None` if the name is not among them.
    pub fn fence_of(&self, name: impl AsRef<[u8]>) -> Option<u64> {
        let name = name.as_ref();
        let mut claims = self.claims.iter();
        let found = claims.find(|(claim, _)| claim.keys.name() == name);
        found.map(|(_, fence)| *fence)
    }

    /// Returns the earliest deadline of the locks: as [`Guard::deadline`](super::Guard::deadline).
    pub fn deadline(&self) -> Instant {
        match self.held.get() {
            Some(guard) => guard.deadline().into_std(),
            None => Instant::now(),
        }
    }

    /// Returns the time until the [`deadline`](Self::deadline), zero once one of the locks is lost.
    pub fn remaining(&self) -> Duration {
        self.deadline().saturating_duration_since(Instant::now())
    }

    /// Returns whether one of the locks is lost: as [`Guard::is_lost`](super::Guard::is_lost).
    pub fn is_lost(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Starts all leases again.
    ///
    /// # Errors
    ///
    /// As [`Guard::renew`](super::Guard::renew), if one of the locks could not be renewed.
    pub fn renew(&self) -> Result<()> {
        runtime::wait(self.held()?.renew())?
    }

    /// Adds `by` to the rest of each lease.
    ///
    /// # Errors
    ///
    /// As [`Guard::extend`](super::Guard::extend), if one of the locks could not be extended.
    pub fn extend(&self, by: Duration) -> Result<()> {
        runtime::wait(self.held()?.extend(by))?
    }

    /// Gives all locks back: as [`Guard::release`](super::Guard::release).
    ///
    /// # Errors
    ///
    /// As [`Guard::release`](super::Guard::release), if one of the locks could not be released.
    pub fn release(mut self) -> Result<()> {
        if let Some(guard) = self.held.take() {
            return runtime::wait(guard.release())?;
        }
        let store = self.store.process();
        let release = |(claim, _): &(Claim, u64)| runtime::wait(claim.release(store))?;
        combined(self.claims.iter().map(release).collect())
    }

    /// Leaves all locks taken to the end of their leases: as [`Guard::keep`](super::Guard::keep).
    ///
    /// # Errors
    ///
    /// As [`Guard::keep`](super::Guard::keep), if one of the locks could not be kept.
    pub fn keep(mut self) -> Result<()> {
        runtime::wait(self.held.take().ok_or_else(not_owned)?.keep())?
    }

    /// Gives the locks back after work under them, unless that work has returned in a child of
    /// `fork`.
    fn finish(mut self) -> Result<()> {
        match self.held.take() {
            Some(guard) => runtime::wait(guard.release())?,
            None => Ok(()),
        }
    }

    fn held(&self) -> Result<&crate::MultiGuard> {
        self.held.get().ok_or_else(not_owned)
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
        let names = self.targets.iter();
        let names = names.map(|target| Escaped(target.keys.name()));
        f.debug_tuple("MultiLock")
            .field(&names.collect::<Vec<_>>())
            .finish()
    }
}

impl fmt::Debug for MultiGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.claims.iter();
        let names = names.map(|(claim, _)| Escaped(claim.keys.name()));
        f.debug_tuple("MultiGuard")
            .field(&names.collect::<Vec<_>>())
            .finish()
    }
}
