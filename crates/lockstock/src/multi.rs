//! Several names at once: all of them, or none.
//!
//! Guarantees: as of a single [lock](crate::lock), for each of the names. No deadlock, because
//! everybody takes them in the same order; nothing is held in the end of an attempt that
//! failed or was cancelled.

use std::time::Duration;

use futures_util::future::{join_all, select_all};
use tokio::time::{Instant, timeout};

use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::lock::{Acquired, Busy, Lock};
use crate::store::Store;

/// Names that have no lease yet: see [`Store::lock_all`].
#[derive(Debug, Clone)]
#[must_use = "say how long the lease is"]
pub struct MultiLockBuilder {
    store: Store,
    /// In the order in which everybody takes them.
    names: Vec<Vec<u8>>,
}

impl MultiLockBuilder {
    pub(crate) fn new<N: AsRef<[u8]>>(store: &Store, names: impl IntoIterator<Item = N>) -> Self {
        let names = names.into_iter().map(|name| name.as_ref().to_vec());
        let mut names = names.collect::<Vec<_>>();
        names.sort_unstable();
        names.dedup();
        Self {
            store: store.clone(),
            names,
        }
    }

    /// Sets how long a holder may hold all of them, as
    /// [`LockBuilder::lease`](crate::LockBuilder::lease) does for one.
    ///
    /// # Errors
    ///
    /// [`is_invalid`](Error::is_invalid) for a lease out of range, for a name that is empty or
    /// too long, and for no names at all.
    pub fn lease(self, lease: Duration) -> Result<MultiLock> {
        if self.names.is_empty() {
            return Err(Error::invalid("there is no name to lock"));
        }
        let locks = self.names.into_iter().map(|name| {
            let lock = self.store.lock(&name).lease(lease)?;
            Ok((name, lock))
        });
        Ok(MultiLock {
            locks: locks.collect::<Result<_>>()?,
            lease,
        })
    }
}

/// Several names and one lease, ready to be acquired any number of times.
#[derive(Debug, Clone)]
pub struct MultiLock {
    locks: Vec<(Vec<u8>, Lock)>,
    lease: Duration,
}

impl MultiLock {
    /// Waits for all of them as long as it takes.
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](Error::is_unavailable) when the store cannot be asked.
    pub async fn acquire(&self) -> Result<MultiGuard> {
        match self.attempt(None).await? {
            Acquired::Held(guards) => Ok(guards),
            Acquired::Busy(_) => Err(Error::unavailable("the store let a waiter go unanswered")),
        }
    }

    /// Waits for all of them at most `wait` in all.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_within(&self, wait: Duration) -> Result<Acquired<MultiGuard>> {
        self.attempt(Instant::now().checked_add(wait)).await
    }

    /// Takes all of them if they are free this moment.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn try_acquire(&self) -> Result<Acquired<MultiGuard>> {
        self.attempt(Some(Instant::now())).await
    }

    async fn attempt(&self, until: Option<Instant>) -> Result<Acquired<MultiGuard>> {
        loop {
            match self.take_each(until).await {
                Ok(Taken::All(guards)) => return Ok(Acquired::Held(guards)),
                Ok(Taken::NotAll(busy, guards)) => {
                    // Nothing was done under them: that one is lost is no harm.
                    match guards.release().await {
                        Err(error) if !error.is_lost() => return Err(error),
                        _ => return Ok(Acquired::Busy(busy)),
                    }
                }
                // One was lost while we waited for another: from the beginning.
                Err(error) if error.is_lost() => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn take_each(&self, until: Option<Instant>) -> Result<Taken> {
        let mut taken = MultiGuard { guards: Vec::new() };
        for (name, lock) in &self.locks {
            let mut next = std::pin::pin!(lock.attempt(until));
            let acquired = loop {
                // Those that we have must not run out while we wait for the next.
                match timeout(self.lease / 3, &mut next).await {
                    Ok(acquired) => break acquired?,
                    Err(_) => taken.renew().await?,
                }
            };
            match acquired {
                Acquired::Held(guard) => taken.guards.push((name.clone(), guard)),
                Acquired::Busy(busy) => return Ok(Taken::NotAll(busy, taken)),
            }
        }
        // They are one: what is left of the first is left of all.
        if taken.remaining() < self.lease * 9 / 10 {
            taken.renew().await?;
        }
        Ok(Taken::All(taken))
    }
}

enum Taken {
    All(MultiGuard),
    /// What the first is busy with that was not to be had, and those before it.
    NotAll(Busy, MultiGuard),
}

/// Several locks that are ours until [`deadline`](Self::deadline). Dropping it gives them back.
#[derive(Debug)]
#[must_use = "guards that are dropped give the locks back"]
pub struct MultiGuard {
    guards: Vec<(Vec<u8>, Guard)>,
}

impl MultiGuard {
    /// The [fence](Guard::fence) of one of them; `None` for a name that is not among them.
    /// Each name has its own: let each row refuse what is not higher than the last it saw.
    pub fn fence_of(&self, name: impl AsRef<[u8]>) -> Option<u64> {
        let name = name.as_ref();
        let mut named = self.guards.iter().filter(|(other, _)| other == name);
        named.next().map(|(_, guard)| guard.fence())
    }

    /// Until when all of them are ours, as [`Guard::deadline`].
    pub fn deadline(&self) -> Instant {
        let deadlines = self.guards.iter().map(|(_, guard)| guard.deadline());
        deadlines.min().unwrap_or_else(Instant::now)
    }

    /// What is left until the [`deadline`](Self::deadline).
    pub fn remaining(&self) -> Duration {
        self.deadline().saturating_duration_since(Instant::now())
    }

    /// Resolves when one of them is no longer ours, as [`Guard::lost`].
    pub fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        let lost = self.guards.iter().map(|(_, guard)| Box::pin(guard.lost()));
        let any = select_all(lost.collect::<Vec<_>>());
        async {
            any.await;
        }
    }

    /// Runs `work` for as long as all of them are ours, as [`Guard::run`].
    ///
    /// # Errors
    ///
    /// [`is_lost`](Error::is_lost) when it was stopped. What it had done by then is done.
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
    /// As [`Guard::renew`], if one of them could not be renewed.
    pub async fn renew(&mut self) -> Result<()> {
        let renewals = self.guards.iter_mut().map(|(_, guard)| guard.renew());
        worst(join_all(renewals).await)
    }

    /// Gives all of them back. Once called it is carried out, even if its future is dropped.
    ///
    /// # Errors
    ///
    /// As [`Guard::release`], if one of them could not be released.
    pub fn release(self) -> impl Future<Output = Result<()>> + Send {
        let releases = self.guards.into_iter().map(|(_, guard)| guard.release());
        let releases = join_all(releases);
        async { worst(releases.await) }
    }

    /// Leaves all of them taken for the rest of their leases. Once called it is carried out,
    /// even if its future is dropped.
    ///
    /// # Errors
    ///
    /// As [`Guard::keep`], if one of them could not be kept.
    pub fn keep(self) -> impl Future<Output = Result<()>> + Send {
        let keeps = self.guards.into_iter().map(|(_, guard)| guard.keep());
        let keeps = join_all(keeps);
        async { worst(keeps.await) }
    }
}

/// That one was lost is what the caller has to know first.
fn worst(results: Vec<Result<()>>) -> Result<()> {
    let errors = results.into_iter().filter_map(Result::err);
    match errors.max_by_key(Error::is_lost) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
