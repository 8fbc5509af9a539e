//! The store of locks and values: Redis, or the memory of this process.
//!
//! A [`Store`] is opened once from a URL and cloned freely; clones share one connection. One
//! contract suite runs against every backend, so every guarantee of a lock holds on each. How
//! long a store remembers its locks differs: see the table in `docs/guarantees.md`.

mod admin;
mod background;
mod builder;
mod clock;
mod dispatch;
mod execution;
mod holding;
mod memory;
mod messages;
pub(crate) mod near;
mod process;
mod redis;
mod request;
mod scan;
pub(crate) mod values;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::background::Background;
use self::builder::Options;
pub use self::builder::StoreBuilder;
pub(crate) use self::holding::{Holding, ReleaseFuture};
pub(crate) use self::messages::Messages;
pub(crate) use self::process::ProcessSettings;
#[cfg(fuzzing)]
pub(crate) use self::redis::check_replies;
pub(crate) use self::redis::{Attempted, OnInterrupt};
pub use self::redis::{LeftCommand, PolledConnection, Settled};
pub(crate) use self::request::{HoldState, Mode, Outcome, ReleaseOutcome, Request};
pub(crate) use self::scan::Scan;
use crate::cache::{Bypass, Flights};
use crate::error::{Error, Result};
use crate::redact::redact_url;
use crate::token::ClientId;

/// Time limit for each command of a store unless [`StoreBuilder::timeout`] sets another: 1 s.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

/// Examples for an error.
const URLS: &str = "memory://, redis://host:port/db, rediss://host:port/db, \
    redis+sentinel://host:port,host:port/SERVICE/db, redis+cluster://host:port,host:port or \
    redis+unix:///path";

/// A store of locks and values. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Backend,
    background: Background,
    client_id: ClientId,
    /// Shared by all stores of a process that are [the same](Store::asynchronous).
    flights: Arc<Flights>,
    bypass: Arc<Bypass>,
}

enum Backend {
    Memory(memory::Memory),
    Redis(Arc<redis::Redis>),
    /// For blocking callers.
    Direct(Arc<redis::DirectRedis>),
}

impl Store {
    /// Opens the store at `url`, and checks that it replies within 1 s ([`DEFAULT_TIMEOUT`]). Use
    /// [`open`](Self::open) for a store that may be down at the moment.
    ///
    /// | URL | store |
    /// |---|---|
    /// | `memory://` | this process; each call opens a new, empty store |
    /// | `redis://[user:password@]host[:port][/db]` | one Redis (6.2 or later) or Valkey |
    /// | `redis+unix:///path?db=1` | the same through a Unix socket |
    /// | `redis+sentinel://[user:password@]host[:port],host[:port]/SERVICE[/db]` | the master that these sentinels report |
    /// | `redis+cluster://[user:password@]host[:port],host[:port]` | a Cluster (7.0 or later), found through any of its nodes |
    /// | `rediss://…`, `rediss+sentinel://…`, `rediss+cluster://…` | the same through TLS, with certificate chain and host name checked |
    ///
    /// `?ssl_ca_certs=FILE` names the certificate authorities to trust instead of the system's;
    /// `?sentinel_username=…&sentinel_password=…` are the credentials of the sentinels. Percent
    /// signs, slashes and question marks in a password are escaped as in any URL: `%25`, `%2F`,
    /// `%3F`.
    ///
    /// # Errors
    ///
    /// [`is_invalid`](Error::is_invalid) if the URL is not that of a store,
    /// [`is_unavailable`](Error::is_unavailable) if the store does not reply.
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
        Self::builder(url).connect().await
    }

    /// Opens the store at `url` like [`connect`](Self::connect), with `timeout` as the time
    /// limit for each of its commands. A command that exceeds it fails as unavailable.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn connect_within(url: &str, timeout: Duration) -> Result<Self> {
        Self::builder(url).timeout(timeout).connect().await
    }

    /// Opens the store at `url`, which does not need to reply yet. The first command connects,
    /// and until that succeeds every command fails as unavailable. Each command has
    /// 1 s ([`DEFAULT_TIMEOUT`]) as its time limit.
    ///
    /// For a service that starts while its store is down: [`ping`](Self::ping) reports when
    /// the store is ready. The URLs are those of [`connect`](Self::connect).
    ///
    /// # Errors
    ///
    /// [`is_invalid`](Error::is_invalid) if the URL is not that of a store.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// ```
    /// # use lockstock::Store;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// let store = Store::open("redis://127.0.0.1:1")?;
    /// assert!(store.ping().await.unwrap_err().is_unavailable());
    /// assert!(Store::open("http://127.0.0.1").unwrap_err().is_invalid());
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(url: &str) -> Result<Self> {
        Self::builder(url).open()
    }

    /// Opens the store at `url` like [`open`](Self::open), with `timeout` as the time limit for
    /// each of its commands.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn open_within(url: &str, timeout: Duration) -> Result<Self> {
        Self::builder(url).timeout(timeout).open()
    }

    /// Returns a builder for the store at `url`, for settings that are not part of the URL:
    /// credentials from a secret manager, certificates in memory, a timeout. The URLs are those
    /// of [`connect`](Self::connect).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lockstock::Store;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// let password = "any % character / needs no escape";
    /// let store = Store::builder("redis+cluster://redis-1.internal,redis-2.internal")
    ///     .credentials("shop", password)
    ///     .timeout(Duration::from_millis(500))
    ///     .open()?; // or connect().await?, which fails unless the store replies
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(url: impl Into<String>) -> StoreBuilder {
        StoreBuilder::new(url.into())
    }

    /// Opens a new, empty store in the memory of this process.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, whose timers end the leases.
    pub fn memory() -> Self {
        let backend = Backend::Memory(memory::Memory::new());
        Self::new(backend, Background::new(), ClientId::random())
    }

    fn open_with(url: &str, options: &Options) -> Result<Self> {
        match Scheme::of(url)? {
            Scheme::Memory => Ok(Self::memory()),
            Scheme::Redis => {
                let (background, client_id) = (Background::new(), ClientId::random());
                let redis = redis::Redis::open(url, client_id, options, background.clone())?;
                let backend = Backend::Redis(Arc::new(redis));
                Ok(Self::new(backend, background, client_id))
            }
        }
    }

    fn new(backend: Backend, background: Background, client_id: ClientId) -> Self {
        Self {
            inner: Arc::new(Inner {
                backend,
                background,
                client_id,
                flights: Arc::default(),
                bypass: Arc::default(),
            }),
        }
    }

    /// Connects, and checks that the store replies.
    async fn check(&self) -> Result<()> {
        match &self.inner.backend {
            Backend::Memory(_) => Ok(()),
            Backend::Redis(redis) => redis.connect().await,
            Backend::Direct(direct) => direct.link()?.connect().await,
        }
    }

    /// Checks that the store replies, and that this client may write. The first success also
    /// logs a warning if Redis may evict held locks (`maxmemory-policy`).
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](Error::is_unavailable), with the reason.
    pub async fn ping(&self) -> Result<()> {
        match &self.inner.backend {
            Backend::Memory(_) => Ok(()),
            Backend::Redis(redis) => redis.ping().await,
            Backend::Direct(direct) => direct.link()?.ping().await,
        }
    }

    /// Waits until every release that continues in the background (of a dropped guard, of a
    /// cancelled acquire) has reached the store or has expired. Call it before the process
    /// exits, after the last guard is gone, so that no waiter has to wait for a lease to end.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let lock = store.lock("report").lease(Duration::from_secs(3600))?;
    /// drop(lock.acquire().await?);
    /// store.drain().await; // given back
    /// # Ok(())
    /// # }
    /// ```
    pub async fn drain(&self) {
        self.inner.background.drain().await;
    }

    /// Returns the identity under which [`locks`](Self::locks) lists the holders and waiters of
    /// this store. Log it at startup, so that an operator can find the process.
    pub fn client_id(&self) -> ClientId {
        self.inner.client_id
    }

    /// Returns the computations of cached values that are under way.
    pub(crate) fn flights(&self) -> &Flights {
        &self.inner.flights
    }

    pub(crate) fn bypass(&self) -> &Bypass {
        &self.inner.bypass
    }

    pub(crate) fn background(&self) -> &Background {
        &self.inner.background
    }

    /// Waits for the lock until the wait deadline of the request. If this fails or is dropped,
    /// the request is withdrawn: it leaves the queue, and what it was granted is given back.
    pub(crate) async fn acquire(&self, request: Request) -> Result<Outcome<Holding>> {
        Ok(match &self.inner.backend {
            Backend::Memory(memory) => memory.acquire(&request).await.map(Holding::Memory),
            Backend::Redis(redis) => redis.acquire(request).await?.map(Holding::Redis),
            Backend::Direct(direct) => {
                let keys = request.keys.clone();
                let acquired = direct.link()?.acquire(request).await?;
                direct.reached(&keys);
                acquired.map(|holding| Holding::Redis(holding.of_caller(direct)))
            }
        })
    }

    /// Acquires the lock on the thread of the caller, as far as that is possible. Continues with the
    /// request for [`acquire`](Self::acquire).
    pub(crate) fn acquire_by_caller(
        &self,
        request: Request,
    ) -> Result<ControlFlow<Outcome<Holding>, Request>> {
        match &self.inner.backend {
            Backend::Memory(_) | Backend::Redis(_) => Ok(ControlFlow::Continue(request)),
            Backend::Direct(direct) => Ok(
                match redis::holding::Holding::acquire_by_caller(direct, request)? {
                    ControlFlow::Break(outcome) => ControlFlow::Break(outcome.map(Holding::Redis)),
                    ControlFlow::Continue(request) => ControlFlow::Continue(request),
                },
            ),
        }
    }
}

/// The kind of store that a URL is for.
enum Scheme {
    Memory,
    Redis,
}

impl Scheme {
    fn of(url: &str) -> Result<Self> {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        match scheme {
            "memory" => Ok(Self::Memory),
            "redis" | "rediss" | "redis+unix" | "redis+sentinel" | "rediss+sentinel"
            | "redis+cluster" | "rediss+cluster" => Ok(Self::Redis),
            "" => Err(Error::invalid(format!(
                "the URL of the store has no '://': use {URLS}"
            ))),
            _ => Err(Error::invalid(format!(
                "'{}' is not the URL of a store: use {URLS}",
                redact_url(url)
            ))),
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not derived: the connection contains the password.
        f.write_str(match self.inner.backend {
            Backend::Memory(_) => "Store(memory)",
            Backend::Redis(_) | Backend::Direct(_) => "Store(redis)",
        })
    }
}
