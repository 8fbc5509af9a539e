//! Who else uses the same SQLite file.
//!
//! With locks in memory a second server on the file would know nothing of ours, so the file
//! is claimed for one; servers that share a Redis claim it together. Whoever opens it first
//! creates its tables alone. A claim is a lock of the system on a file beside it, found by
//! the path that all names of the file lead to, and ends with the process.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Limits;

pub(super) struct Claim(File);

impl Claim {
    /// Claims `file`, which exists: for us alone, if nobody uses it yet.
    pub(super) async fn on(file: &Path, limits: Limits) -> anyhow::Result<Self> {
        let path = fs::canonicalize(file)?.with_added_extension("lock");
        let lock = File::create(&path)
            .map_err(|why| anyhow::anyhow!("cannot write {}: {why}", path.display()))?;
        let deadline = Instant::now() + limits.timeout;
        loop {
            let claimed =
                lock.try_lock().is_ok() || !limits.alone && lock.try_lock_shared().is_ok();
            if claimed {
                return Ok(Self(lock));
            }
            // Another one may be creating the tables; it shares the file afterwards.
            if limits.alone || Instant::now() >= deadline {
                anyhow::bail!(
                    "another lockstock is serving it: stop that one, choose another file with \
                     --database, or let all of them share a Redis with --store"
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The tables are there: lets the others in, if there may be others.
    pub(super) fn opened(self, limits: Limits) -> anyhow::Result<Self> {
        if !limits.alone {
            self.0.lock_shared()?;
        }
        Ok(self)
    }
}
