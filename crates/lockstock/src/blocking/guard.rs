//! A lock that a synchronous caller holds.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Store;
use super::begun::Begun;
use super::owned::Owned;
use crate::error::{Error, Result};
use crate::escaped::Escaped;
use crate::inspect::HolderId;
use crate::key::Keys;
use crate::runtime;

/// A lock that the caller holds until [`deadline`](Self::deadline), as the asynchronous
/// [`Guard`](crate::Guard).
///
/// [`release`](Self::release) it when the work is done. Dropping it gives the lock back too, in the
/// background: that never blocks and never fails. In a child of `fork`, dropping it does nothing: the
/// parent holds the lock.
#[must_use = "a guard that is dropped gives the lock back"]
pub struct Guard {
    store: Store,
    held: Owned<crate::Guard>,
    /// Copied: a child must not read the guard of its parent.
    claim: Claim,
    fence: u64,
    lease: Duration,
}

/// What a store needs to know to take a lock away from its holder.
#[derive(Clone)]
pub(super) struct Claim {
    pub(super) keys: Arc<Keys>,
    holder: HolderId,
}

impl Claim {
    pub(super) fn of(guard: &crate::Guard) -> Self {
        Self {
            keys: guard.keys().clone(),
            holder: guard.id(),
        }
    }

    /// Releases a lock that the parent of this process holds.
    pub(super) async fn release(&self, store: &crate::Store) -> Result<()> {
        match store.release_by_force(&self.keys, self.holder).await? {
            true => Ok(()),
            false => Err(Error::lost()),
        }
    }
}

impl Guard {
    pub(super) fn new(store: &Store, guard: crate::Guard) -> Self {
        Self {
            store: store.clone(),
            claim: Claim::of(&guard),
            fence: guard.fence(),
            lease: guard.lease(),
            held: Owned::new(guard),
        }
    }

    /// Takes over a guard of the [asynchronous](Store::asynchronous) store.
    pub fn from_asynchronous(store: &Store, guard: crate::Guard) -> Self {
        Self::new(store, guard)
    }

    /// Returns the guard for asynchronous callers, `None` in a child of `fork`, which does not own
    /// the lock of its parent.
    pub fn into_asynchronous(mut self) -> Option<crate::Guard> {
        self.held.take()
    }

    /// Returns the identity of this grant, under which [`Store::locks`] lists it.
    pub fn id(&self) -> HolderId {
        self.claim.holder
    }

    /// Returns the name of the lock.
    pub fn name(&self) -> &[u8] {
        self.claim.keys.name()
    }

    /// Returns the lease of the lock, at which [`renew`](Self::renew) starts again.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Returns the number of this grant, which is higher than that of every earlier grant of the
    /// name: see [`Guard::fence`](crate::Guard::fence).
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// Returns when the lease ends, on the monotonic clock of this machine. In a child of `fork`, the
    /// present: the child does not hold the lock.
    pub fn deadline(&self) -> Instant {
        match self.held.get() {
            Some(guard) => guard.deadline().into_std(),
            None => Instant::now(),
        }
    }

    /// Returns the time until the [`deadline`](Self::deadline), zero once the lock is lost.
    pub fn remaining(&self) -> Duration {
        self.deadline().saturating_duration_since(Instant::now())
    }

    /// Returns whether the lock is lost: the deadline has passed, or a reply of the store has shown
    /// the loss.
    pub fn is_lost(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Adds `by` to the rest of the lease: as [`Guard::extend`](crate::Guard::extend).
    ///
    /// # Errors
    ///
    /// As [`Guard::extend`](crate::Guard::extend), and [`is_invalid`](Error::is_invalid) in a child
    /// of `fork`.
    pub fn extend(&self, by: Duration) -> Result<()> {
        runtime::wait(self.held()?.extend(by))?
    }

    /// Starts the lease again, at its full length: as [`Guard::renew`](crate::Guard::renew).
    ///
    /// # Errors
    ///
    /// As [`extend`](Self::extend).
    pub fn renew(&self) -> Result<()> {
        runtime::wait(self.held()?.renew())?
    }

    /// Renews the lock automatically, for at most `max`: as
    /// [`Guard::auto_renew`](crate::Guard::auto_renew). A child of `fork` does not renew it.
    pub fn auto_renew(mut self, max: Duration) -> Self {
        if let Some(guard) = self.held.take() {
            self.held = Owned::new(guard.auto_renew(max));
        }
        self
    }

    /// Gives the lock back. The next waiter is granted it. In a child of `fork`, gives back the lock
    /// that the parent holds.
    ///
    /// # Errors
    ///
    /// As [`Guard::release`](crate::Guard::release).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lockstock::blocking::Store;
    /// # fn main() -> lockstock::Result<()> {
    /// let lock = Store::memory().lock("report").lease(Duration::from_secs(3))?;
    /// let guard = lock.acquire()?;
    /// assert!(lock.try_acquire()?.held().is_none());
    /// guard.release()?;
    /// assert!(lock.try_acquire()?.held().is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn release(self) -> Result<()> {
        self.begin_release()?.wait()
    }

    /// Gives the lock back as [`release`](Self::release), over a connection of this thread as far as that
    /// is possible. Otherwise returns what waits for that, on the [runtime](Store::runtime): for
    /// bindings to other languages, which wait in their own way. The release is carried out even if
    /// that is dropped, except for a lock of the parent of this process.
    ///
    /// # Errors
    ///
    /// As [`release`](Self::release).
    pub fn begin_release(mut self) -> Result<Begun<()>> {
        match self.held.take() {
            Some(guard) => Self::begin_release_of(guard),
            None => {
                runtime::assert_may_block()?;
                let (claim, store) = (self.claim.clone(), self.store.clone());
                Ok(Begun::Waiting(Box::pin(async move {
                    claim.release(store.process()).await
                })))
            }
        }
    }

    fn begin_release_of(guard: crate::Guard) -> Result<Begun<()>> {
        runtime::assert_may_block()?;
        Ok(match guard.release_by_caller()? {
            ControlFlow::Break(()) => Begun::Done(()),
            ControlFlow::Continue((guard, may_be_released)) => {
                let _entered = runtime::enter()?;
                Begun::Waiting(Box::pin(guard.release_again(may_be_released)))
            }
        })
    }

    /// Leaves the lock taken to the end of the lease: as [`Guard::keep`](crate::Guard::keep).
    ///
    /// # Errors
    ///
    /// As [`Guard::keep`](crate::Guard::keep), and [`is_invalid`](Error::is_invalid) in a child of
    /// `fork`.
    pub fn keep(mut self) -> Result<()> {
        runtime::wait(self.held.take().ok_or_else(not_owned)?.keep())?
    }

    /// Gives the lock back after work under it, unless that work has returned in a child of `fork`.
    pub(super) fn finish(mut self) -> Result<()> {
        match self.held.take() {
            Some(guard) => Self::begin_release_of(guard)?.wait(),
            None => Ok(()),
        }
    }

    fn held(&self) -> Result<&crate::Guard> {
        self.held.get().ok_or_else(not_owned)
    }
}

pub(super) fn not_owned() -> Error {
    Error::invalid("the lock is held by the parent of this process")
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("name", &Escaped(self.name()))
            .field("fence", &self.fence)
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}
