//! The lock on a SQLite file, which keeps other servers off it.
//!
//! With locks in memory, a second server on the file would not be excluded by the locks of the
//! first: one server locks the file exclusively. Servers that share a Redis share the lock. The
//! first server creates the tables while it holds the lock exclusively.
//!
//! The lock is one of the operating system, on a file beside the database. Its path is the
//! canonical path of the database, so that all names of a file lead to one lock. It is released
//! when the process ends, however it ends.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::StorageOptions;

const RETRY_DELAY: Duration = Duration::from_millis(20);

pub(super) struct FileLock(File);

impl FileLock {
    /// Locks the database `file`, which exists: exclusively if no other server uses it yet.
    pub(super) async fn acquire(file: &Path, options: StorageOptions) -> anyhow::Result<Self> {
        let path = fs::canonicalize(file)?.with_added_extension("lock");
        let lock = File::create(&path)
            .map_err(|error| anyhow::anyhow!("cannot write {}: {error}", path.display()))?;
        let deadline = Instant::now() + options.timeout;
        loop {
            let is_locked =
                lock.try_lock().is_ok() || !options.exclusive && lock.try_lock_shared().is_ok();
            if is_locked {
                return Ok(Self(lock));
            }
            // Another server may be creating the tables; it shares the file afterwards.
            if options.exclusive || Instant::now() >= deadline {
                anyhow::bail!(
                    "another lockstock is serving it: stop that one, choose another file with \
                     --database, or let all of them share a Redis with --store"
                );
            }
            sleep(RETRY_DELAY).await;
        }
    }

    /// Shares the lock, unless it must stay exclusive. Called when the tables exist.
    pub(super) fn share(self, options: StorageOptions) -> anyhow::Result<Self> {
        if !options.exclusive {
            self.0.lock_shared()?;
        }
        Ok(self)
    }
}
