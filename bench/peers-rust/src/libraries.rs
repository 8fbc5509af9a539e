//! The libraries, each used as its documentation shows.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis::aio::MultiplexedConnection;
use redis::{Client, Script, Value, cmd};

use crate::worker::{Library, Locking};

// --- lockstock --------------------------------------------------------------

pub struct Lockstock {
    store: lockstock::Store,
    lease: Duration,
}

impl Lockstock {
    pub async fn open(url: &str, lease: Duration) -> Result<Self> {
        let store = lockstock::Store::connect(url).await?;
        Ok(Self { store, lease })
    }
}

impl Library for Lockstock {
    type Lock = lockstock::Lock;

    fn lock(&self, name: &str) -> Result<Self::Lock> {
        Ok(self.store.lock(name).lease(self.lease)?)
    }
}

impl Locking for lockstock::Lock {
    type Held = lockstock::Guard;

    async fn acquire(&mut self) -> Result<Self::Held> {
        Ok(lockstock::Lock::acquire(self).await?)
    }

    async fn release(&mut self, held: Self::Held) -> Result<()> {
        Ok(held.release().await?)
    }
}

// --- plain commands, without a library --------------------------------------

/// How a raw lock is released.
#[derive(Clone, Copy)]
pub enum Release {
    /// `DEL`, which also deletes the lock of a later holder.
    Delete,
    /// A script that compares and deletes.
    Script,
}

const COMPARE_AND_DELETE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

pub struct Raw {
    connection: MultiplexedConnection,
    lease: Duration,
    release: Release,
}

impl Raw {
    pub async fn open(url: &str, lease: Duration, release: Release) -> Result<Self> {
        let client = Client::open(url)?;
        let connection = client.get_multiplexed_async_connection().await?;
        Ok(Self {
            connection,
            lease,
            release,
        })
    }
}

impl Library for Raw {
    type Lock = RawLock;

    fn lock(&self, name: &str) -> Result<RawLock> {
        Ok(RawLock {
            connection: self.connection.clone(),
            name: name.to_owned(),
            // A new token each time would be safer and slower: this is the upper limit.
            token: format!("{name:0>32}"),
            lease_ms: u64::try_from(self.lease.as_millis())?,
            release: self.release,
            script: Script::new(COMPARE_AND_DELETE),
        })
    }
}

pub struct RawLock {
    connection: MultiplexedConnection,
    name: String,
    token: String,
    lease_ms: u64,
    release: Release,
    script: Script,
}

impl Locking for RawLock {
    type Held = ();

    async fn acquire(&mut self) -> Result<()> {
        let mut set = cmd("SET");
        set.arg(&self.name).arg(&self.token).arg("NX");
        set.arg("PX").arg(self.lease_ms);
        let reply: Value = set.query_async(&mut self.connection).await?;
        ensure!(reply == Value::Okay, "raw commands cannot wait");
        Ok(())
    }

    async fn release(&mut self, (): ()) -> Result<()> {
        let deleted: u8 = match self.release {
            Release::Delete => {
                let mut delete = cmd("DEL");
                delete
                    .arg(&self.name)
                    .query_async(&mut self.connection)
                    .await?
            }
            Release::Script => {
                let mut script = self.script.key(&self.name);
                script
                    .arg(&self.token)
                    .invoke_async(&mut self.connection)
                    .await?
            }
        };
        ensure!(deleted == 1, "the lock was lost");
        Ok(())
    }
}

// --- rslock -----------------------------------------------------------------

pub struct Rslock {
    manager: rslock::LockManager,
    lease: Duration,
}

impl Rslock {
    pub fn open(url: &str, lease: Duration) -> Self {
        let manager = rslock::LockManager::new(vec![url]);
        Self { manager, lease }
    }
}

impl Library for Rslock {
    type Lock = RslockLock;

    fn lock(&self, name: &str) -> Result<RslockLock> {
        Ok(RslockLock {
            manager: self.manager.clone(),
            name: name.to_owned(),
            lease: self.lease,
        })
    }
}

pub struct RslockLock {
    manager: rslock::LockManager,
    name: String,
    lease: Duration,
}

impl Locking for RslockLock {
    type Held = rslock::LockGuard;

    async fn acquire(&mut self) -> Result<Self::Held> {
        let acquired = self.manager.acquire(self.name.as_bytes(), self.lease).await;
        acquired.context("rslock")
    }

    async fn release(&mut self, held: Self::Held) -> Result<()> {
        held.release().await;
        Ok(())
    }
}
