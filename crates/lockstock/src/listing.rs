//! Operations for operators: listing the locks of a store, and taking a lock away.

use std::sync::Arc;

use tracing::warn;

use crate::error::Result;
use crate::inspect::{HolderId, LockInfo, LockListing};
use crate::key::{Keys, LockKind};
use crate::store::Store;

impl Store {
    /// Returns every lock, semaphore and read-write lock that has holders or waiters, sorted by
    /// name. Changes nothing.
    ///
    /// For operators, not for requests: Redis scans the whole key space, in small steps
    /// (`SCAN`), including keys of other applications. Each lock is reported as it was at one
    /// moment, but not all of them at the same moment: a lock that is acquired or released
    /// during the scan may be missing.
    ///
    /// Not all waiters are visible:
    ///
    /// - Of the waiters of a lock only the first of each client is in the store's queue. The
    ///   others are known to their process only. Of permits, readers and writers every waiter
    ///   is in the queue.
    /// - A foreign holder, which took the lock with `SET NX` as redis-py does, is found only
    ///   while a waiter of this crate is in the queue: its key looks like any other.
    /// - Keys and locks that the user of the URL may not read are passed over: see
    ///   `docs/operations.md` for the rights.
    /// - A waiter whose process crashed stays until the lock would be handed over to it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let guard = store.lock("report").lease(Duration::from_secs(3))?.acquire().await?;
    /// let locks = store.locks().await?;
    /// assert_eq!(locks[0].name, b"report");
    /// assert_eq!(locks[0].holders[0].fence, Some(guard.fence()));
    /// assert_eq!(locks[0].holders[0].id.client_id(), Some(store.client_id()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](crate::Error::is_unavailable) if the store rejects a step of the scan
    /// or does not reply within its timeout.
    pub async fn locks(&self) -> Result<Vec<LockInfo>> {
        Ok(self.locks_among(usize::MAX).await?.locks)
    }

    /// Returns the locks as [`locks`](Self::locks) does, but visits at most about `max_keys` keys of
    /// each server: for a page that is shown again and again. A store in memory has no limit.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let listing = store.locks_among(100_000).await?;
    /// assert!(listing.locks.is_empty() && listing.is_complete);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`locks`](Self::locks).
    pub async fn locks_among(&self, max_keys: usize) -> Result<LockListing> {
        let (mut locks, is_complete) = self.inspect_all(max_keys).await?;
        locks.retain(|lock| !lock.is_empty());
        locks.sort_by(|one, other| (&one.name, one.kind).cmp(&(&other.name, other.kind)));
        Ok(LockListing { locks, is_complete })
    }

    /// Returns the holders and the waiters of one lock, without a scan. `None` if it has
    /// neither. Reports a foreign holder even if the lock has no waiters.
    ///
    /// # Errors
    ///
    /// [`is_invalid`](crate::Error::is_invalid) if the name is empty or too long;
    /// [`is_unavailable`](crate::Error::is_unavailable) if the store does not reply.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let guard = store.lock("report").lease(Duration::from_secs(3))?.acquire().await?;
    /// let lock = store.lock_info(lockstock::LockKind::Lock, "report").await?;
    /// assert_eq!(lock.map(|lock| lock.holders.len()), Some(1));
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn lock_info(
        &self,
        kind: LockKind,
        name: impl AsRef<[u8]>,
    ) -> Result<Option<LockInfo>> {
        let name = name.as_ref();
        let keys = Keys::of(kind, name)?;
        let lock = self.inspect(&keys, name).await?;
        Ok(lock.filter(|lock| !lock.is_empty()))
    }

    /// Takes a lock away from `holder`, or from every current holder. The next waiter is
    /// granted the lock at once, as after a release. Returns whether a holder lost it.
    ///
    /// The old holder is not notified. It notices the loss when it releases or renews
    /// ([`is_lost`](crate::Error::is_lost)), and at its deadline at the latest. Until then it
    /// may still write. The [fence](crate::Guard::fence) makes that harmless: later grants have
    /// higher fences, so after a write under one of them the database rejects the old holder's
    /// writes. Pass the `holder` that you have seen, so that a holder that has just acquired
    /// the lock does not lose it.
    ///
    /// Logs a warning for each holder that lost the lock.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lockstock::LockKind;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let guard = store.lock("report").lease(Duration::from_secs(3600))?.acquire().await?;
    /// assert!(store.force_release(LockKind::Lock, "report", None).await?);
    /// assert!(guard.release().await.unwrap_err().is_lost());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`lock_info`](Self::lock_info).
    pub async fn force_release(
        &self,
        kind: LockKind,
        name: impl AsRef<[u8]>,
        holder: Option<HolderId>,
    ) -> Result<bool> {
        let name = name.as_ref();
        let keys = Arc::new(Keys::of(kind, name)?);
        let holders = match holder {
            Some(holder) => vec![holder],
            // By identity: the operation may be executed twice, and the second time must not
            // release the lock of the next holder.
            None => {
                let lock = self.lock_info(kind, name).await?;
                let holders = lock.into_iter().flat_map(|lock| lock.holders);
                holders.map(|holder| holder.id).collect()
            }
        };
        let mut released = false;
        for holder in holders {
            if self.release_by_force(&keys, holder).await? {
                let name = String::from_utf8_lossy(name);
                warn!(%kind, name = &*name, %holder, "released by force");
                released = true;
            }
        }
        Ok(released)
    }
}
