//! Where locks live: Redis, or the memory of this process.
//!
//! A [`Store`] is opened once from a URL and cloned freely; clones share one connection.
//! Everything a lock promises holds on each kind of store, by one contract suite; what a
//! store can promise about *remembering* differs, see the table in `docs/guarantees.md`.

mod memory;
mod redis;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::error::{Error, Result};
use crate::key::Keys;
use crate::lock::NamedLock;
use crate::token::Token;

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
}

enum Backend {
    Memory(memory::Memory),
    Redis(redis::Redis),
}

/// One attempt to get one lock, from the first question to the answer.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) keys: Keys,
    pub(crate) token: Token,
    pub(crate) lease: Duration,
    /// When it gives up; never, if `None`.
    pub(crate) until: Option<Instant>,
    /// As the store's queue has it, once the store was asked for it: until then there is
    /// nothing there that could be withdrawn.
    member: OnceLock<String>,
}

impl Attempt {
    pub(crate) fn new(keys: &Keys, lease: Duration, until: Option<Instant>) -> Self {
        Self {
            keys: keys.clone(),
            token: Token::random(),
            lease,
            until,
            member: OnceLock::new(),
        }
    }

    /// What is left of the wait; `None` for one without end.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.until
            .map(|until| until.saturating_duration_since(Instant::now()))
    }

    fn is_over(&self) -> bool {
        self.patience().is_some_and(|patience| patience.is_zero())
    }
}

/// What a store says to one attempt.
#[derive(Debug)]
pub(crate) enum Answer {
    Granted { fence: u64, deadline: Instant },
    Busy { left: Option<Duration>, how: How },
}

/// In which way a lock is not free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Held: it may be released at any moment.
    Held,
    /// Kept: it stays taken to the end of its lease, waiting for less is in vain.
    Kept,
}

/// What became of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    Done,
    NotOurs,
    /// It is not ours any more; whether by this very release, whose first answer was lost,
    /// nobody can tell.
    Unclear,
}

impl Store {
    /// Opens the store behind `url` and checks that it answers, within [`DEFAULT_TIMEOUT`].
    ///
    /// | URL | store |
    /// |---|---|
    /// | `memory://` | this process; a new, empty store each time |
    /// | `redis://[user:password@]host[:port][/db]` | one Redis (6.2 or later) or Valkey |
    /// | `rediss://…` | the same through TLS, chain and host name checked |
    /// | `redis+unix:///path?db=1` | the same through a Unix socket |
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
        let backend = match scheme {
            "memory" => Backend::Memory(memory::Memory::new()),
            "redis" | "rediss" | "redis+unix" => {
                Backend::Redis(redis::Redis::connect(url, timeout).await?)
            }
            _ => {
                return Err(Error::invalid(format!(
                    "'{}' names no store: write memory://, redis://host:port/db, \
                     rediss://host:port/db or redis+unix:///path",
                    redacted(url)
                )));
            }
        };
        Ok(Self::over(backend))
    }

    /// An empty store in the memory of this process.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime: leases are ended by its timers.
    pub fn memory() -> Self {
        Self::over(Backend::Memory(memory::Memory::new()))
    }

    fn over(backend: Backend) -> Self {
        let background = TaskTracker::new();
        // Closed means that waiting for it can end. It takes in new tasks all the same.
        background.close();
        Self {
            inner: Arc::new(Inner {
                backend,
                background,
                retrying: Semaphore::new(1),
                runtime: Handle::current(),
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
    pub fn lock(&self, name: impl AsRef<[u8]>) -> NamedLock {
        NamedLock::new(self.clone(), name.as_ref())
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
    pub async fn settled(&self) {
        self.inner.background.wait().await;
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

    /// Waits for the lock as long as the attempt may. `None` once `gone` is done; whoever
    /// gets that or an error [withdraws](Self::withdraw) the attempt.
    pub(crate) async fn acquire(
        &self,
        attempt: &Attempt,
        gone: impl Future<Output = ()> + Send,
    ) -> Result<Option<Answer>> {
        match &self.inner.backend {
            Backend::Memory(memory) => tokio::select! {
                answer = memory.acquire(attempt) => Ok(Some(answer)),
                () = gone => Ok(None),
            },
            Backend::Redis(redis) => redis.acquire(attempt, gone).await,
        }
    }

    /// Leaves the queue and gives back what was granted, whichever it is.
    pub(crate) async fn withdraw(&self, attempt: &Attempt) -> Result<()> {
        match &self.inner.backend {
            // It left the queue when its future was dropped.
            Backend::Memory(memory) => {
                memory.release(attempt);
                Ok(())
            }
            Backend::Redis(redis) => redis.withdraw(attempt).await,
        }
    }

    pub(crate) async fn release(&self, attempt: &Attempt) -> Result<Release> {
        match &self.inner.backend {
            Backend::Memory(memory) if memory.release(attempt) => Ok(Release::Done),
            Backend::Memory(_) => Ok(Release::NotOurs),
            Backend::Redis(redis) => redis.release(attempt).await,
        }
    }

    pub(crate) async fn keep(&self, attempt: &Attempt) -> Result<bool> {
        match &self.inner.backend {
            Backend::Memory(memory) => Ok(memory.keep(attempt)),
            Backend::Redis(redis) => redis.keep(attempt).await,
        }
    }

    pub(crate) async fn renew(&self, attempt: &Attempt, left: Duration) -> Result<bool> {
        match &self.inner.backend {
            Backend::Memory(memory) => Ok(memory.renew(attempt, left)),
            Backend::Redis(redis) => redis.renew(attempt, left).await,
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

/// `url` as it may be shown to anybody: without user, password and query.
///
/// ```
/// assert_eq!(
///     lockstock::redacted("redis://shop:hunter2@redis.internal:6379/1"),
///     "redis://redis.internal:6379/1",
/// );
/// ```
pub fn redacted(url: &str) -> String {
    if let Some(file) = url.strip_prefix("sqlite:")
        && !file.starts_with("//")
    {
        return format!("sqlite:{}", without_query(file));
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        // No URL at all; it may still be a password somebody pasted in the wrong place.
        return "(not a URL)".to_owned();
    };
    // The last '@', and before looking for anything else: a password may hold '/', '?' and
    // '#' unescaped, and then nobody can tell where it ends.
    match rest.rsplit_once('@') {
        Some((secret, _)) if secret.contains(['?', '#']) => format!("{scheme}://(hidden)"),
        Some((_, place)) => format!("{scheme}://{}", without_query(place)),
        None => format!("{scheme}://{}", without_query(rest)),
    }
}

fn without_query(place: &str) -> &str {
    place.split(['?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::redacted;

    #[test]
    fn no_part_of_a_password_is_shown() {
        for url in [
            "postgres://shop:hunter2@host/shop",
            "postgres://shop:hunter2secret@host/shop?sslmode=require",
            "postgres://shop:hun#ter2@host/shop",
            "postgres://shop:hun?ter2@host/shop",
            "postgres://shop:hun/ter2@host/shop",
            "postgres://shop:hun@ter2@host/shop",
            "postgres://host/shop?password=hunter2",
            "redis://:hunter2@host",
            "hunter2",
        ] {
            let shown = redacted(url);
            assert!(!shown.contains("hun") && !shown.contains("ter2"), "{shown}");
        }
        assert_eq!(redacted("redis://host:6379/1"), "redis://host:6379/1");
        assert_eq!(
            redacted("sqlite:///var/shop.sqlite3"),
            "sqlite:///var/shop.sqlite3"
        );
    }
}
