//! The locks for synchronous callers.

use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::Instant;

use super::Store;
use super::begun::Begun;
use super::guard::Guard;
use crate::error::{Error, Result};
use crate::lock::{Acquired, LeasedTarget, LockTarget};
use crate::runtime;

impl Store {
    /// Returns a builder for the lock called `name`: as [`Store::lock`](crate::Store::lock).
    pub fn lock(&self, name: impl AsRef<[u8]>) -> LockBuilder {
        self.lock_builder(LockTarget::lock(name.as_ref()))
    }

    /// Returns a builder for the semaphore called `name`, at most `permits` holders at once: as
    /// [`Store::semaphore`](crate::Store::semaphore).
    pub fn semaphore(&self, name: impl AsRef<[u8]>, permits: u32) -> LockBuilder {
        self.lock_builder(LockTarget::semaphore(name.as_ref(), permits))
    }

    /// Returns a builder for the read side of the read-write lock called `name`: as
    /// [`Store::read_lock`](crate::Store::read_lock).
    pub fn read_lock(&self, name: impl AsRef<[u8]>) -> LockBuilder {
        self.lock_builder(LockTarget::read(name.as_ref()))
    }

    /// Returns a builder for the write side of the read-write lock called `name`: as
    /// [`Store::write_lock`](crate::Store::write_lock).
    pub fn write_lock(&self, name: impl AsRef<[u8]>) -> LockBuilder {
        self.lock_builder(LockTarget::write(name.as_ref()))
    }

    fn lock_builder(&self, target: LockTarget) -> LockBuilder {
        LockBuilder {
            store: self.clone(),
            target,
        }
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
    /// Takes `permits` permits of a semaphore with each acquire: as
    /// [`LockBuilder::take`](crate::LockBuilder::take).
    pub fn take(mut self, permits: u32) -> Self {
        self.target = self.target.take(permits);
        self
    }

    /// Sets how long a holder holds the lock without renewing it: as
    /// [`LockBuilder::lease`](crate::LockBuilder::lease).
    ///
    /// # Errors
    ///
    /// As [`LockBuilder::lease`](crate::LockBuilder::lease).
    pub fn lease(self, lease: Duration) -> Result<Lock> {
        Ok(Lock {
            target: self.target.leased(lease)?,
            store: self.store,
        })
    }
}

/// A lock that can be acquired any number of times, in this process and in its children.
#[derive(Clone)]
pub struct Lock {
    store: Store,
    target: LeasedTarget,
}

impl Lock {
    /// Acquires the lock within `wait`, runs `work` while it is held, and gives it back: as
    /// [`Lock::with`](crate::Lock::with), except that work whose lock is lost runs to its end. The
    /// result is lost then.
    ///
    /// # Errors
    ///
    /// As [`Lock::with`](crate::Lock::with).
    pub fn with<T>(&self, wait: Duration, work: impl FnOnce(&Guard) -> T) -> Result<Acquired<T>> {
        let guard = match self.acquire_within(wait)? {
            Acquired::Held(guard) => guard,
            Acquired::Busy(busy) => return Ok(Acquired::Busy(busy)),
        };
        let done = work(&guard);
        match guard.finish() {
            Err(error) if error.is_lost() => Err(error),
            // Retried in the background. An error would suggest that the work was not done.
            Ok(()) | Err(_) => Ok(Acquired::Held(done)),
        }
    }

    /// Renews the lock of every holder automatically, for at most `max` after the acquire: as
    /// [`Lock::auto_renew`](crate::Lock::auto_renew).
    pub fn auto_renew(mut self, max: Duration) -> Self {
        self.target.auto_renew = Some(max);
        self
    }

    /// Acquires the lock, and waits for it without a time limit.
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](Error::is_unavailable) if the store does not reply.
    pub fn acquire(&self) -> Result<Guard> {
        match self.acquire_before(None)? {
            Acquired::Held(guard) => Ok(guard),
            Acquired::Busy(_) => Err(Error::unavailable(
                "the store ended a wait that has no time limit",
            )),
        }
    }

    /// Acquires the lock, and waits for it at most `wait`: as
    /// [`Lock::acquire_within`](crate::Lock::acquire_within).
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_within(&self, wait: Duration) -> Result<Acquired<Guard>> {
        self.acquire_before(Instant::now().checked_add(wait))
    }

    /// Acquires the lock if it is free. Does not wait.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub fn try_acquire(&self) -> Result<Acquired<Guard>> {
        self.acquire_before(Some(Instant::now()))
    }

    /// Acquires the lock, and waits for it without end or at most `wait`. As far as that is possible over
    /// connections of this thread, it is done when this returns; signals interrupt it, see
    /// [`StoreBuilder::on_interrupt`](super::StoreBuilder::on_interrupt). Otherwise returns what waits for
    /// it on the [runtime](Store::runtime): for bindings to other languages, which wait in their own way.
    /// If that is dropped, the request is withdrawn.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub fn begin_acquire(&self, wait: Option<Duration>) -> Result<Begun<Acquired<Guard>>> {
        self.begin(wait.and_then(|wait| Instant::now().checked_add(wait)))
    }

    fn acquire_before(&self, wait_deadline: Option<Instant>) -> Result<Acquired<Guard>> {
        self.begin(wait_deadline)?.wait()
    }

    fn begin(&self, wait_deadline: Option<Instant>) -> Result<Begun<Acquired<Guard>>> {
        runtime::assert_may_block()?;
        let lock = crate::Lock::new(self.store.process(), &self.target);
        let store = self.store.clone();
        let owned = move |acquired| match acquired {
            Acquired::Held(guard) => Acquired::Held(Guard::new(&store, guard)),
            Acquired::Busy(busy) => Acquired::Busy(busy),
        };
        Ok(match lock.acquire_by_caller(lock.request(wait_deadline))? {
            ControlFlow::Break(acquired) => Begun::Done(owned(acquired)),
            ControlFlow::Continue(request) => Begun::Waiting(Box::pin(async move {
                lock.acquire_requested(request).await.map(owned)
            })),
        })
    }
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
