//! Scans for the keys of values, for [`Cache::keys`](crate::Cache::keys).

use std::sync::Arc;

use tokio::time::Instant;

use super::{Backend, Store, memory, redis};
use crate::error::Result;

/// Scan for the keys that begin with a prefix and whose rest matches a glob pattern.
pub(crate) struct Scan(Source);

enum Source {
    Memory(memory::Memory, memory::Scan),
    Redis(Arc<redis::Redis>, redis::Scan),
    /// The link is opened by the first page.
    Direct(Store, redis::Scan),
}

impl Store {
    pub(crate) fn scan(&self, prefix: &[u8], pattern: &[u8]) -> Scan {
        Scan(match &self.inner.backend {
            Backend::Memory(memory) => {
                Source::Memory(memory.clone(), memory::Scan::new(prefix, pattern))
            }
            Backend::Redis(redis) => {
                Source::Redis(redis.clone(), redis::Scan::new(prefix, pattern))
            }
            Backend::Direct(_) => Source::Direct(self.clone(), redis::Scan::new(prefix, pattern)),
        })
    }
}

impl Scan {
    /// Returns the next keys, about a thousand at most and possibly none. `None`: there are no more.
    pub(crate) async fn next_page(&mut self) -> Result<Option<Vec<Vec<u8>>>> {
        match &mut self.0 {
            Source::Memory(memory, scan) => Ok(scan.next_page(&memory.values(), Instant::now())),
            Source::Redis(redis, scan) => scan.next_page(redis).await,
            Source::Direct(store, scan) => match &store.inner.backend {
                Backend::Direct(direct) => scan.next_page(direct.link()?).await,
                Backend::Memory(_) | Backend::Redis(_) => Ok(None),
            },
        }
    }
}
