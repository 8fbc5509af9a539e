//! Listing and forced releases, for [`Store::locks`].

use std::sync::Arc;

use super::{Backend, Store};
use crate::error::Result;
use crate::inspect::{HolderId, LockInfo};
use crate::key::Keys;

impl Store {
    /// Returns the locks, and whether all keys were visited.
    pub(crate) async fn inspect_all(&self, max_keys: usize) -> Result<(Vec<LockInfo>, bool)> {
        match &self.inner.backend {
            Backend::Memory(memory) => Ok((memory.inspect_all(), true)),
            Backend::Redis(redis) => redis.inspect_all(max_keys).await,
            Backend::Direct(direct) => direct.link()?.inspect_all(max_keys).await,
        }
    }

    pub(crate) async fn inspect(&self, keys: &Keys, name: &[u8]) -> Result<Option<LockInfo>> {
        match &self.inner.backend {
            Backend::Memory(memory) => Ok(memory.inspect(keys)),
            Backend::Redis(redis) => redis.inspect(keys, name.to_vec()).await.map(Some),
            Backend::Direct(direct) => {
                let link = direct.link()?;
                link.inspect(keys, name.to_vec()).await.map(Some)
            }
        }
    }

    /// Takes the lock away from `holder`. Returns `false` if it did not hold the lock.
    pub(crate) async fn release_by_force(
        &self,
        keys: &Arc<Keys>,
        holder: HolderId,
    ) -> Result<bool> {
        match &self.inner.backend {
            Backend::Memory(memory) => Ok(memory.force_release(keys, holder)),
            Backend::Redis(redis) => redis.force_release(keys, holder).await,
            Backend::Direct(direct) => direct.link()?.force_release(keys, holder).await,
        }
    }
}
