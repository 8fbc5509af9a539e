//! Where locks live: Redis, or the memory of this process.
//!
//! A [`Store`] is opened once from a URL and cloned freely; clones share one connection.
//! Everything a lock promises holds on each kind of store, by one contract suite; what a
//! store can promise about *remembering* differs, see the table in `docs/guarantees.md`.

mod admin;
mod memory;
mod redis;
mod request;
mod values;

use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

pub(crate) use self::redis::QueueHead;
pub(crate) use self::request::{Grant, HoldState, Mode, Outcome, Release, Request, Tenant};
use crate::error::{Error, Result};
use crate::key::LockKind;
use crate::lock::LockBuilder;
use crate::multi::MultiLockBuilder;
use crate::redact::redact_url;
use crate::token::ClientId;

/// How long a store may take to answer one command, unless
/// [`Store::connect_within`] says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

/// A place where locks are kept. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Backend,
    /// Releases that nobody waits for any more still have to reach the store.
    background: TaskTracker,
    /// While the store does not answer, one of them asks it at a time.
    retrying: Semaphore,
    runtime: Handle,
    /// Whose locks they are.
    process: ClientId,
}

enum Backend {
    Memory(memory::Memory),
    Redis(redis::Redis),
}

impl Store {
    /// Opens the store behind `url` and checks that it answers, within [`DEFAULT_TIMEOUT`].
    ///
    /// | URL | store |
    /// |---|---|
    /// | `memory://` | this process; a new, empty store each time |
    /// | `redis://[user:password@]host[:port][/db]` | one Redis (6.2 or later) or Valkey |
    /// | `redis+unix:///path?db=1` | the same through a Unix socket |
    /// | `redis+sentinel://[user:password@]host[:port],host[:port]/SERVICE[/db]` | whichever server these sentinels call the master |
    /// | `redis+cluster://[user:password@]host[:port],host[:port]` | a Cluster (7.0 or later), found by some of its nodes |
    /// | `rediss://…`, `rediss+sentinel://…`, `rediss+cluster://…` | the same through TLS, chain and host name checked |
    ///
    /// `?ssl_ca_certs=FILE` names the authorities to trust instead of the system's;
    /// `?sentinel_username=…&sentinel_password=…` are the sentinels' own. Percent signs, slashes
    /// and question marks of a password are written as in any URL: `%25`, `%2F`, `%3F`.
    ///
    /// # Errors
    ///
    /// [`is_invalid`](Error::is_invalid) for a URL that names no store,
    /// [`is_unavailable`](Error::is_unavailable) when the store does not answer.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// let store = lockstock::Store::connect("memory://").await?;
    /// store.ping().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_within(url, DEFAULT_TIMEOUT).await
    }

    /// As [`connect`](Self::connect), where every command of this store is answered, or
    /// fails as unavailable, within `timeout`.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn connect_within(url: &str, timeout: Duration) -> Result<Self> {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        let process = ClientId::random();
        let backend = match scheme {
            "memory" => Backend::Memory(memory::Memory::new()),
            "redis" | "rediss" | "redis+unix" | "redis+sentinel" | "rediss+sentinel"
            | "redis+cluster" | "rediss+cluster" => {
                Backend::Redis(redis::Redis::connect(url, process, timeout).await?)
            }
            _ => {
                return Err(Error::invalid(format!(
                    "'{}' names no store: write memory://, redis://host:port/db, \
                     rediss://host:port/db, redis+sentinel://host:port,host:port/SERVICE/db, \
                     redis+cluster://host:port,host:port or redis+unix:///path",
                    redact_url(url)
                )));
            }
        };
        Ok(Self::over(backend, process))
    }

    /// An empty store in the memory of this process.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime: leases are ended by its timers.
    pub fn memory() -> Self {
        Self::over(Backend::Memory(memory::Memory::new()), ClientId::random())
    }

    fn over(backend: Backend, process: ClientId) -> Self {
        let background = TaskTracker::new();
        // Closed means that waiting for it can end. It takes in new tasks all the same.
        background.close();
        Self {
            inner: Arc::new(Inner {
                backend,
                background,
                retrying: Semaphore::new(1),
                runtime: Handle::current(),
                process,
            }),
        }
    }

    /// The lock called `name`: any bytes, 1 to [`MAX_NAME_BYTES`](crate::MAX_NAME_BYTES).
    /// Nothing is sent yet; say how long the lease is to get a lock that can be acquired.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let lock = store.lock("product-update-lock-42").lease(Duration::from_secs(3))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn lock(&self, name: impl AsRef<[u8]>) -> LockBuilder {
        LockBuilder::new(self, LockKind::Lock, Ok(Mode::Exclusive), name.as_ref())
    }

    /// The semaphore called `name`: at most `permits` holders at once, each for its own lease.
    /// Everybody who uses it should name the same number; a holder is let in by its own.
    ///
    /// What it guarantees and how it is acquired is as for a [`lock`](Self::lock), whose
    /// names it does not share. Its fences rise from grant to grant.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let uploads = store.semaphore("uploads", 2).lease(Duration::from_secs(30))?;
    /// let (one, _two) = (uploads.acquire().await?, uploads.acquire().await?);
    /// assert!(matches!(uploads.try_acquire().await?, lockstock::Acquired::Busy(_)));
    /// one.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn semaphore(&self, name: impl AsRef<[u8]>, permits: u32) -> LockBuilder {
        let mode = NonZeroU32::new(permits)
            .map(Mode::Permit)
            .ok_or_else(|| "a semaphore has at least one permit".to_owned());
        LockBuilder::new(self, LockKind::Semaphore, mode, name.as_ref())
    }

    /// The reading side of the read-write lock called `name`: any number of readers at once,
    /// and no [writer](Self::write_lock). A reader that comes after a waiting writer waits
    /// behind it, so that writers do not starve.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let read = store.read_lock("catalog").lease(Duration::from_secs(3))?;
    /// let write = store.write_lock("catalog").lease(Duration::from_secs(3))?;
    /// let (one, two) = (read.acquire().await?, read.acquire().await?);
    /// assert!(matches!(write.try_acquire().await?, lockstock::Acquired::Busy(_)));
    /// one.release().await?;
    /// two.release().await?;
    /// write.acquire().await?.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn read_lock(&self, name: impl AsRef<[u8]>) -> LockBuilder {
        LockBuilder::new(self, LockKind::ReadWrite, Ok(Mode::Read), name.as_ref())
    }

    /// The writing side of the read-write lock called `name`: one writer, and no
    /// [reader](Self::read_lock).
    pub fn write_lock(&self, name: impl AsRef<[u8]>) -> LockBuilder {
        LockBuilder::new(
            self,
            LockKind::ReadWrite,
            Ok(Mode::Exclusive),
            name.as_ref(),
        )
    }

    /// The locks of all `names` at once: a cart of products. Each is the lock that
    /// [`lock`](Self::lock) gives, and they are taken one after another in one order that is
    /// the same for everybody, so that two carts never wait for each other. All or none: what
    /// was taken is given back when the rest is not to be had. A name given twice counts once.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lockstock::{Acquired, Store};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let cart = store.lock_all(["shoes-42", "laces-7"]).lease(Duration::from_secs(3))?;
    /// if let Acquired::Held(guards) = cart.acquire_within(Duration::from_secs(1)).await? {
    ///     // UPDATE … WHERE id = 42 AND fence < $f, for each of them
    ///     assert!(guards.fence_of("shoes-42").is_some());
    ///     guards.release().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn lock_all<N: AsRef<[u8]>>(&self, names: impl IntoIterator<Item = N>) -> MultiLockBuilder {
        MultiLockBuilder::new(self, names)
    }

    /// Asks the store whether it is there.
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](Error::is_unavailable), with the reason.
    pub async fn ping(&self) -> Result<()> {
        match &self.inner.backend {
            Backend::Memory(_) => Ok(()),
            Backend::Redis(redis) => redis.ping().await,
        }
    }

    /// Waits until every release that goes on in the background (a dropped guard, a
    /// cancelled acquire) has reached the store or been given up. Call it before the
    /// process exits, after the last guard is gone, so that nobody waits for a lease to end.
    pub async fn drain(&self) {
        self.inner.background.wait().await;
    }

    /// Who we are: the process that [`locks`](Self::locks) shows with what is held or waited
    /// for through this store. Worth a line in the log, so that an operator finds us.
    pub fn client_id(&self) -> ClientId {
        self.inner.process
    }

    /// Runs `task` to its end whatever happens to its caller.
    pub(crate) fn in_background(&self, task: impl Future<Output = ()> + Send + 'static) {
        // A handle rather than `tokio::spawn`: a guard may be dropped outside the runtime.
        self.inner
            .runtime
            .spawn(self.inner.background.track_future(task));
    }

    /// The right to ask a store that did not answer once more. Not waited for beyond `ends`.
    pub(crate) async fn retrying(&self, ends: Instant) -> Option<SemaphorePermit<'_>> {
        let permit = self.inner.retrying.acquire();
        tokio::time::timeout_at(ends, permit).await.ok()?.ok()
    }

    /// Runs `task` until it is aborted or the runtime ends.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.inner.runtime.spawn(task).abort_handle()
    }

    /// Waits for the lock as long as the attempt may. Whoever gets an error, or drops the
    /// future, [withdraws](Self::withdraw) the attempt.
    pub(crate) async fn acquire(&self, attempt: &Arc<Request>) -> Result<Outcome> {
        match &self.inner.backend {
            Backend::Memory(memory) => Ok(memory.acquire(attempt).await),
            Backend::Redis(redis) => redis.acquire(attempt).await,
        }
    }

    /// Leaves the queue and gives back what was granted, whichever it is.
    pub(crate) async fn withdraw(&self, attempt: &Request) -> Result<()> {
        match &self.inner.backend {
            // It left the queue when its future was dropped.
            Backend::Memory(memory) => {
                memory.release(&attempt.keys, attempt.token);
                Ok(())
            }
            Backend::Redis(redis) => redis.withdraw(attempt).await,
        }
    }

    /// Gives the lock back from now on; what is answered is what became of it.
    pub(crate) fn release(&self, tenant: &Tenant, place: Option<&QueueHead>) -> Releasing {
        match &self.inner.backend {
            Backend::Memory(memory) if memory.release(&tenant.keys, tenant.claim.token) => {
                Releasing::Over(Release::Done)
            }
            Backend::Memory(_) => Releasing::Over(Release::NotOurs),
            Backend::Redis(redis) => Releasing::Pending(redis.release(tenant, place)),
        }
    }

    pub(crate) async fn keep(&self, tenant: &Tenant) -> Result<bool> {
        match &self.inner.backend {
            Backend::Memory(memory) => Ok(memory.keep(&tenant.keys, tenant.claim.token)),
            Backend::Redis(redis) => redis.keep(tenant).await,
        }
    }

    pub(crate) async fn renew(&self, tenant: &Tenant, left: Duration) -> Result<bool> {
        match &self.inner.backend {
            Backend::Memory(memory) => Ok(memory.renew(&tenant.keys, tenant.claim.token, left)),
            Backend::Redis(redis) => redis.renew(tenant, left).await,
        }
    }
}

/// A release under way, or over.
pub(crate) enum Releasing {
    Over(Release),
    Pending(redis::PendingReply),
}

impl Future for Releasing {
    type Output = Result<Release>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Over(release) => Poll::Ready(Ok(*release)),
            Self::Pending(asked) => {
                let answered = ready!(Pin::new(asked).poll(context))?;
                Poll::Ready(redis::parse_release(&answered))
            }
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // By hand: a derived one would print the connection, and with it the password.
        f.write_str(match self.inner.backend {
            Backend::Memory(_) => "Store(memory)",
            Backend::Redis(_) => "Store(redis)",
        })
    }
}
