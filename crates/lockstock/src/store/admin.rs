//! For those who run a store: who holds what, and taking a lock away.

use std::sync::Arc;

use tracing::warn;

use super::{Backend, Store};
use crate::error::Result;
use crate::inspect::{HolderId, LockInfo};
use crate::key::{Keys, LockKind};

impl Store {
    /// Every lock, semaphore and read-write lock of this store that is held, kept or waited
    /// for, sorted by name. Changes nothing.
    ///
    /// For operators, not for requests: on Redis the whole key space is walked through, in
    /// small steps (`SCAN`), whatever else is kept there. Each name is told of as it was at
    /// one moment, but not all at the same one: a name that is taken or given back meanwhile
    /// may be there or not.
    ///
    /// Who waits:
    ///
    /// - Of each process only the first waiter of a lock stands in the store's queue. Those
    ///   behind it are known to their process only. For permits, readers and writers all do.
    /// - A foreign holder, one that took the lock with `SET NX` as redis-py does, is seen
    ///   only while one of ours waits for it: nothing tells its key from any other.
    /// - A waiter whose process died is there until the lock gets to it and passes it over.
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
    /// [`is_unavailable`](crate::Error::is_unavailable) when a step of the walk is not
    /// answered within the store's timeout, or refused.
    pub async fn locks(&self) -> Result<Vec<LockInfo>> {
        let mut locks = match &self.inner.backend {
            Backend::Memory(memory) => memory.locks(),
            Backend::Redis(redis) => redis.locks().await?,
        };
        locks.retain(LockInfo::is_anything);
        locks.sort_by(|one, other| (&one.name, one.kind).cmp(&(&other.name, other.kind)));
        Ok(locks)
    }

    /// What [`locks`](Self::locks) tells, of one name and without the walk; `None` if nobody
    /// holds it or waits for it. A foreign holder is seen whether or not somebody waits.
    ///
    /// # Errors
    ///
    /// [`is_invalid`](crate::Error::is_invalid) for a name that is empty or too long;
    /// [`is_unavailable`](crate::Error::is_unavailable) when the store does not answer.
    pub async fn lock_info(
        &self,
        kind: LockKind,
        name: impl AsRef<[u8]>,
    ) -> Result<Option<LockInfo>> {
        let name = name.as_ref();
        let keys = Keys::of(kind, name)?;
        let seen = match &self.inner.backend {
            Backend::Memory(memory) => memory.look(&keys),
            Backend::Redis(redis) => Some(redis.look(&keys, name.to_vec()).await?),
        };
        Ok(seen.filter(LockInfo::is_anything))
    }

    /// Takes a lock away from `holder`, or from everybody who holds or keeps it now: the next
    /// waiter is handed it at once, as in a release. Whether anybody lost it by this.
    ///
    /// The one who loses it is not told. It finds out when it releases or renews
    /// ([`is_lost`](crate::Error::is_lost)), at its deadline at the latest, and until then it
    /// may go on writing. What keeps that from doing harm is the [fence](crate::Guard::fence):
    /// those granted from here on are higher, so a write under one of them makes the
    /// database refuse every later one of the old holder. Name the `holder` that you have
    /// seen, so that nobody loses the lock who has only just got it.
    ///
    /// Each that is taken away is logged as a warning.
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
            // By their ids: sent twice, it would else hit whoever was handed the lock by the
            // first.
            None => {
                let seen = self.lock_info(kind, name).await?;
                let holders = seen.into_iter().flat_map(|seen| seen.holders);
                holders.map(|holder| holder.id).collect()
            }
        };
        let mut released = false;
        for holder in holders {
            let forced = match &self.inner.backend {
                Backend::Memory(memory) => memory.force(&keys, holder),
                Backend::Redis(redis) => redis.force(&keys, holder).await?,
            };
            if forced {
                let name = String::from_utf8_lossy(name);
                warn!(%kind, name = &*name, %holder, "released by force");
                released = true;
            }
        }
        Ok(released)
    }
}
