//! The lock on a SQLite file, which keeps other servers off it.
//!
//! With locks in memory, a second server on the file would not be excluded by the locks of the
//! first: one server locks the file exclusively. Servers that share a Redis share the lock. The
//! first server creates the tables while it holds the lock exclusively.
//!
//! The lock is one of the operating system, `flock(2)`, on the database file itself, so that every
//! path to the file leads to one lock. SQLite locks byte ranges of the file with `fcntl(2)`; on a
//! local disk the two kinds of locks do not affect each other. It is released when the process
//! ends, however it ends.
//!
//! A second lock, on a file beside the database, is held in the same mode. If it is free although
//! another server shares the database, that server has opened the file under another path: the
//! file was renamed since, and the two would have different write-ahead logs. If it is held although
//! no other server shares the database, another server has opened another file under this path: the
//! file was replaced since, and the two would have one log for two databases.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::StorageOptions;
use super::database_file::{DatabaseFile, Identity};

const RETRY_DELAY: Duration = Duration::from_millis(20);

const OTHER_PATH: &str = "another lockstock has opened the file under another path: stop that one, or \
                          give both the same path";
const OTHER_FILE: &str = "another lockstock, which still runs, has opened the file that was here before, \
                          or is an earlier version: stop that one";

pub(super) struct FileLock {
    database: DatabaseFile,
    beside: File,
}

/// How a command that writes beside servers has found the file.
pub(super) enum Joined {
    /// No server uses it, and none starts while the lock is held.
    Alone(FileLock),
    /// A server uses it, under the same path.
    BesideServer,
}

/// Opens a database file, which is created if it does not exist, for a command that may write beside a
/// server. Unlike a server, such a command needs no lock that keeps others off the file: it only has
/// to use the same write-ahead log.
pub(super) fn join(file: &Path) -> anyhow::Result<(Identity, Joined)> {
    let lock = FileLock::open(file)?;
    let identity = lock.identity().clone();
    let FileLock { database, beside } = &lock;
    let joined = match (database.file.try_lock(), beside.try_lock()) {
        (Ok(()), Ok(())) => Joined::Alone(lock),
        (Ok(()), Err(_)) => anyhow::bail!(OTHER_FILE),
        (Err(_), Ok(())) => anyhow::bail!(OTHER_PATH),
        (Err(_), Err(_)) => Joined::BesideServer,
    };
    Ok((identity, joined))
}

/// What an attempt to lock the file found.
enum Attempt {
    Locked,
    InUse,
    OtherPath,
    OtherFile,
}

impl FileLock {
    /// Locks a database file, which is created if it does not exist: exclusively if no other
    /// server uses it yet.
    pub(super) async fn acquire(file: &Path, options: StorageOptions) -> anyhow::Result<Self> {
        let lock = Self::open(file)?;
        let deadline = Instant::now() + options.timeout;
        loop {
            let attempt = lock.try_lock(options.exclusive);
            // Another server may be creating the tables; it shares the file afterwards.
            let is_last = options.exclusive || Instant::now() >= deadline;
            match attempt {
                Attempt::Locked => return Ok(lock),
                Attempt::InUse if is_last => anyhow::bail!(
                    "another lockstock is serving it: stop that one, choose another file with \
                     --database, or let all of them share a Redis with --store"
                ),
                Attempt::OtherPath if is_last => anyhow::bail!(OTHER_PATH),
                Attempt::OtherFile if is_last => anyhow::bail!(OTHER_FILE),
                Attempt::InUse | Attempt::OtherPath | Attempt::OtherFile => {
                    sleep(RETRY_DELAY).await
                }
            }
        }
    }

    fn open(file: &Path) -> anyhow::Result<Self> {
        let database = DatabaseFile::create(file)?;
        let path = database.identity.path.with_added_extension("lock");
        let beside = File::create(&path)
            .map_err(|error| anyhow::anyhow!("cannot write {}: {error}", path.display()))?;
        Ok(Self { database, beside })
    }

    /// Returns the identity of the database file.
    pub(super) fn identity(&self) -> &Identity {
        &self.database.identity
    }

    fn try_lock(&self, exclusive: bool) -> Attempt {
        let Self { database, beside } = self;
        if database.file.try_lock().is_ok() {
            if beside.try_lock().is_ok() {
                return Attempt::Locked;
            }
            // An earlier version locks only the file beside.
            let is_shared = !exclusive && beside.try_lock_shared().is_ok();
            self.unlock();
            return if is_shared {
                Attempt::OtherFile
            } else {
                Attempt::InUse
            };
        }
        if exclusive || database.file.try_lock_shared().is_err() {
            return Attempt::InUse;
        }
        // A server that shares the database shares the file beside too, if its path is the same.
        let attempt = match beside.try_lock() {
            Ok(()) => Attempt::OtherPath,
            Err(_) if beside.try_lock_shared().is_ok() => return Attempt::Locked,
            Err(_) => Attempt::InUse,
        };
        self.unlock();
        attempt
    }

    /// Shares the lock, unless it must stay exclusive. Called when the tables exist.
    pub(super) fn share(self, options: StorageOptions) -> anyhow::Result<Self> {
        if !options.exclusive {
            // In this order: a server that finds the database shared finds the other shared too.
            self.beside.lock_shared()?;
            self.database.file.lock_shared()?;
        }
        Ok(self)
    }

    fn unlock(&self) {
        // In this order, for the same reason.
        let _ = self.database.file.unlock();
        let _ = self.beside.unlock();
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        self.unlock();
    }
}
