//! The cache and the locks for synchronous callers: threads without a runtime.
//!
//! Guarantees: those of the asynchronous [`Store`](crate::Store), with the same names, keys and
//! bytes, so that both kinds of callers share locks and values. A store is opened without a runtime, and a process
//! has no thread and no socket of this crate until a call needs one. A call of a [`Cache`] on a
//! single Redis is one command over a socket of its own, and needs no runtime at all. So is the acquire
//! of a [`Lock`] that is free, its release, and the wait of the first caller of a process for a busy one. The
//! waits of further callers for the same lock, a renewal, a guard that is dropped, and whatever a socket
//! cannot do (a failover, a Cluster whose slots move) need a runtime with one thread, which the process
//! starts at the first need.
//!
//! # Fork
//!
//! A [`Store`] may be used before `fork` and in the child, from any thread. The child opens its own
//! connections and starts its own runtime. What it inherited it neither locks nor writes to nor
//! closes, so no command of the child reaches a connection of its parent. A memory store is empty in
//! the child.
//!
//! A child does not own what its parent holds: a [`Guard`] that is dropped there does nothing, and
//! is not renewed there. An explicit [`release`](Guard::release) is carried out, because the
//! caller asks for it.
//!
//! Not guaranteed: that a child may use an asynchronous [`Store`](crate::Store) that its parent has
//! opened. Its runtime is not there any more.
//!
//! ```
//! use std::time::Duration;
//! use lockstock::{Acquired, blocking};
//!
//! # fn main() -> lockstock::Result<()> {
//! let store = blocking::Store::open("memory://")?; // or "redis://127.0.0.1:6379/1"
//!
//! let rates = store.cache::<f64>("rates");
//! rates.set("EUR", &1.09, Duration::from_secs(60))?;
//! assert_eq!(rates.get("EUR")?, Some(1.09));
//!
//! let lock = store.lock("product-update-lock-42").lease(Duration::from_secs(3))?;
//! match lock.with(Duration::from_secs(1), |guard| guard.fence())? {
//!     Acquired::Held(fence) => println!("written under {fence}"),
//!     Acquired::Busy(busy) => println!("try again in {:?}", busy.retry_after()),
//! }
//! # Ok(())
//! # }
//! ```

mod begun;
mod cache;
mod guard;
mod lock;
mod multi;
mod near;
mod owned;

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lockstock_fork::PerProcess;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub use self::begun::Begun;
pub use self::cache::{Cache, KeyScan};
pub use self::guard::Guard;
pub use self::lock::{Lock, LockBuilder};
pub use self::multi::{MultiGuard, MultiLock, MultiLockBuilder};
pub use self::near::NearCopies;
use crate::command::{Command, Reply};
use crate::error::Result;
use crate::inspect::{HolderId, LockInfo};
use crate::key::LockKind;
use crate::runtime;
pub use crate::store::{LeftCommand, PolledConnection, Settled};
use crate::store::{OnInterrupt, ProcessSettings};
use crate::token::ClientId;

/// A store of locks and values, for synchronous callers. Cheap to clone.
///
/// # Panics
///
/// Every call panics in an asynchronous task, which it would block: use [`lockstock::Store`] there.
/// On a thread for blocking work, as that of `tokio::task::spawn_blocking`, it does not.
///
/// [`lockstock::Store`]: crate::Store
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    settings: ProcessSettings,
    process: PerProcess<crate::Store>,
}

impl Store {
    /// Opens the store at `url`, which does not need to reply yet. Connects nowhere and starts no
    /// thread. The URLs are those of the asynchronous [`Store`](crate::Store::connect); each
    /// `memory://` is a new, empty store.
    ///
    /// # Errors
    ///
    /// [`is_invalid`](crate::Error::is_invalid) if the URL is not that of a store.
    ///
    /// ```
    /// # use lockstock::blocking::Store;
    /// let store = Store::open("redis://127.0.0.1:1")?;
    /// assert!(store.cache::<String>("names").get("42").unwrap_err().is_unavailable());
    /// assert!(Store::open("http://127.0.0.1").unwrap_err().is_invalid());
    /// # Ok::<_, lockstock::Error>(())
    /// ```
    pub fn open(url: &str) -> Result<Self> {
        Self::builder(url).open()
    }

    /// Opens the store at `url`, and checks that it replies and that this client may write: see
    /// [`ping`](Self::ping).
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and [`is_unavailable`](crate::Error::is_unavailable) if the store does
    /// not reply.
    pub fn connect(url: &str) -> Result<Self> {
        Self::builder(url).connect()
    }

    /// Returns a builder for the store at `url`, for settings that are not part of the URL.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lockstock::blocking::Store;
    /// let store = Store::builder("redis://redis.internal")
    ///     .credentials("shop", "any % character / needs no escape")
    ///     .timeout(Duration::from_millis(500))
    ///     .open()?;
    /// # Ok::<_, lockstock::Error>(())
    /// ```
    pub fn builder(url: impl Into<String>) -> StoreBuilder {
        StoreBuilder {
            inner: crate::Store::builder(url),
            on_interrupt: None,
        }
    }

    /// Opens a new, empty store in the memory of this process.
    pub fn memory() -> Self {
        match Self::open("memory://") {
            Ok(store) => store,
            Err(error) => unreachable!("a memory store has no settings: {error}"),
        }
    }

    /// Checks that the store replies, and that this client may write: as
    /// [`Store::ping`](crate::Store::ping). Starts the runtime.
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](crate::Error::is_unavailable), with the reason.
    pub fn ping(&self) -> Result<()> {
        runtime::wait(self.process().ping())?
    }

    /// Waits until every release that continues in the background has reached the store or has
    /// expired: as [`Store::drain`](crate::Store::drain). Call it before the process exits: a dropped
    /// [`Guard`] releases in the background.
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](crate::Error::is_unavailable) if the runtime cannot be started.
    pub fn drain(&self) -> Result<()> {
        runtime::complete(self.process().drain())
    }

    /// Returns the identity under which [`locks`](Self::locks) lists the holders and waiters of
    /// this store in this process. It is another one in a child.
    pub fn client_id(&self) -> ClientId {
        self.process().client_id()
    }

    /// Returns every lock that has holders or waiters: as [`Store::locks`](crate::Store::locks).
    ///
    /// # Errors
    ///
    /// As [`Store::locks`](crate::Store::locks).
    pub fn locks(&self) -> Result<Vec<LockInfo>> {
        runtime::wait(self.process().locks())?
    }

    /// Returns the holders and the waiters of one lock: as
    /// [`Store::lock_info`](crate::Store::lock_info).
    ///
    /// # Errors
    ///
    /// As [`Store::lock_info`](crate::Store::lock_info).
    pub fn lock_info(&self, kind: LockKind, name: impl AsRef<[u8]>) -> Result<Option<LockInfo>> {
        runtime::wait(self.process().lock_info(kind, name))?
    }

    /// Takes a lock away from `holder`, or from every current holder: as
    /// [`Store::force_release`](crate::Store::force_release).
    ///
    /// # Errors
    ///
    /// As [`Store::force_release`](crate::Store::force_release).
    pub fn force_release(
        &self,
        kind: LockKind,
        name: impl AsRef<[u8]>,
        holder: Option<HolderId>,
    ) -> Result<bool> {
        runtime::wait(self.process().force_release(kind, name, holder))?
    }

    /// Executes a command of Redis for which this crate has no method: as
    /// [`Store::execute`](crate::Store::execute).
    ///
    /// # Errors
    ///
    /// As [`Store::execute`](crate::Store::execute).
    pub fn execute(&self, command: &Command) -> Result<Reply> {
        runtime::complete(self.process().execute(command))?
    }

    /// Executes several repeatable commands, without a round trip for each: as
    /// [`Store::execute_all`](crate::Store::execute_all).
    ///
    /// # Errors
    ///
    /// As [`Store::execute_all`](crate::Store::execute_all).
    pub fn execute_all(&self, commands: &[Command]) -> Result<Vec<Reply>> {
        runtime::complete(self.process().execute_all(commands))?
    }

    /// Closes the connections of this process that no call uses at the moment, those of the
    /// asynchronous store and of event loops aside. The next call opens another.
    pub fn close_idle(&self) {
        if let Some(process) = self.inner.process.get() {
            process.close_idle();
        }
    }

    /// Returns an asynchronous store with the locks and values of this one, for the
    /// [runtime](Self::runtime) of this process: for bindings to other languages, whose event loops
    /// wait in their own way. Not to be used in a child of `fork`, which calls this again.
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](crate::Error::is_unavailable) if the runtime cannot be started.
    pub fn asynchronous(&self) -> Result<crate::Store> {
        self.process().asynchronous()
    }

    /// Opens a connection for an event loop that polls descriptors itself, to the only server of this
    /// store or to its master: for bindings to other languages. Blocks: not to be called on the thread
    /// of the loop. `None` for a memory store, for a Cluster and with TLS: use
    /// [`asynchronous`](Self::asynchronous) there, and where the connection does not accept a command.
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](crate::Error::is_unavailable) if the server does not accept a connection.
    pub fn connect_polled<T>(&self) -> Result<Option<PolledConnection<T>>> {
        self.process().connect_polled()
    }

    /// Returns the runtime of this process, which is started if necessary.
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](crate::Error::is_unavailable) if the runtime cannot be started.
    pub fn runtime() -> Result<Handle> {
        runtime::handle()
    }

    /// Aborts a task of the runtime. What it has asked of a store is withdrawn in the background, and
    /// [`drain_process`](Self::drain_process) waits for that.
    pub fn abort<T: Send + 'static>(task: JoinHandle<T>) {
        task.abort();
        let ended = async move { drop(task.await) };
        if let Ok(runtime) = runtime::handle() {
            runtime.spawn(runtime::background().track_future(ended));
        }
    }

    /// Waits until everything that this process does in the background has reached its store, such as
    /// the withdrawal of a lock that is no longer waited for, and for `limit` at most. Call it before
    /// the process exits. Starts no runtime and opens no connection.
    pub fn drain_process(limit: Duration) {
        runtime::drain(limit);
    }

    /// Returns the store of this process.
    fn process(&self) -> &crate::Store {
        let Inner { settings, process } = &*self.inner;
        process.get_or_init(|| crate::Store::for_process(settings))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not derived: the URL contains the password.
        f.write_str(match self.inner.settings.is_memory() {
            true => "Store(memory)",
            false => "Store(redis)",
        })
    }
}

/// Settings of a store that is not open yet: see [`Store::builder`].
#[derive(Clone)]
#[must_use = "call connect or open"]
pub struct StoreBuilder {
    inner: crate::StoreBuilder,
    on_interrupt: Option<OnInterrupt>,
}

impl StoreBuilder {
    /// Sets the time limit for each command: as [`StoreBuilder::timeout`](crate::StoreBuilder::timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.inner = self.inner.timeout(timeout);
        self
    }

    /// Sets user and password instead of those in the URL: as
    /// [`StoreBuilder::credentials`](crate::StoreBuilder::credentials).
    pub fn credentials(mut self, username: impl Into<String>, password: impl Into<String>) -> Self {
        self.inner = self.inner.credentials(username, password);
        self
    }

    /// Sets the certificate authorities to trust, in PEM: as
    /// [`StoreBuilder::ca_certificates`](crate::StoreBuilder::ca_certificates).
    pub fn ca_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.inner = self.inner.ca_certificates(pem);
        self
    }

    /// Sets the certificate by which this client authenticates itself: as
    /// [`StoreBuilder::client_certificate`](crate::StoreBuilder::client_certificate).
    pub fn client_certificate(
        mut self,
        chain_pem: impl Into<Vec<u8>>,
        key_pem: impl Into<Vec<u8>>,
    ) -> Self {
        self.inner = self.inner.client_certificate(chain_pem, key_pem);
        self
    }

    /// Sets what runs when a signal interrupts a call that waits on a socket, for languages that run
    /// signal handlers between instructions. If it returns an error, the call fails as
    /// [unavailable](crate::Error::is_unavailable), with that error as its
    /// [source](std::error::Error::source); the command may have been executed. By default, and if it
    /// returns `Ok`, the call continues.
    ///
    /// In a wait for a lock it runs every second, too: a signal that arrives just before the thread goes
    /// to sleep does not interrupt it. A lock that may have been acquired by a call that fails so is given
    /// back, and a release is carried out in the background. A call that needs the runtime is not
    /// interrupted, the wait for a lock that another thread of the process waits for included.
    pub fn on_interrupt(
        mut self,
        on_interrupt: impl Fn() -> Result<(), Box<dyn StdError + Send + Sync>> + Send + Sync + 'static,
    ) -> Self {
        self.on_interrupt = Some(Arc::new(on_interrupt));
        self
    }

    /// Opens the store, and checks that it replies: as [`Store::connect`].
    ///
    /// # Errors
    ///
    /// As [`Store::connect`]; [`is_invalid`](crate::Error::is_invalid) also if a certificate is
    /// malformed or the URL is without TLS.
    pub fn connect(self) -> Result<Store> {
        let store = self.open()?;
        store.ping()?;
        Ok(store)
    }

    /// Opens the store, which does not need to reply yet: as [`Store::open`].
    ///
    /// # Errors
    ///
    /// As [`Store::open`]; [`is_invalid`](crate::Error::is_invalid) also if a certificate is
    /// malformed or the URL is without TLS.
    pub fn open(self) -> Result<Store> {
        // Registers the handlers of forks. One that begins before that would not run them.
        lockstock_fork::generation();
        let (url, options) = self.inner.into_parts();
        Ok(Store {
            inner: Arc::new(Inner {
                settings: ProcessSettings::parse(url, options, self.on_interrupt)?,
                process: PerProcess::new(),
            }),
        })
    }
}

impl fmt::Debug for StoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
