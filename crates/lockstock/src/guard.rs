//! A held lock: its fence and deadline, and how it is renewed, released or kept.
//!
//! Guarantees: a guard never considers its lock held for longer than the store does; it
//! reports a loss at its deadline at the latest, and as soon as a reply of the store shows it;
//! a release is carried out once it is called, even if its future is dropped; dropping a guard
//! never blocks.

mod shared;

use std::fmt;
use std::future::ready;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use lockstock_fork::generation;
use metrics::histogram;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{Span, debug_span};

use self::shared::Shared;
use crate::error::{Error, Result};
use crate::escaped::Escaped;
use crate::inspect::{GrantKind, HolderId};
use crate::key::Keys;
use crate::store::{Attempted, Holding, ReleaseFuture as StoreRelease, ReleaseOutcome, Store};
use crate::token::Token;

/// A lock that the caller holds until [`deadline`](Self::deadline).
///
/// [`release`](Self::release) it when the work is done. Dropping it gives the lock back too,
/// in the background: that never blocks and never fails. Whether it succeeded is not reported;
/// if it did not, the lock becomes free when the lease ends.
#[must_use = "a guard that is dropped gives the lock back"]
pub struct Guard {
    shared: Arc<Shared>,
    acquired_at: Instant,
    waited: Duration,
    /// Open as long as the guard exists.
    _span: Span,
    /// Aborted when the guard is released, kept or dropped.
    renewal: Option<AbortHandle>,
    /// Released or kept: dropping the guard does nothing more.
    finished: bool,
}

impl Guard {
    pub(crate) fn new(store: &Store, holding: Holding, waited: Duration) -> Self {
        Self {
            acquired_at: Instant::now(),
            waited,
            _span: debug_span!("lock.hold", lock = %holding.keys(), fence = holding.fence()),
            renewal: None,
            finished: false,
            shared: Arc::new(Shared::new(store.background().clone(), holding)),
        }
    }

    /// Gives the holder another token. If the caller is cancelled, the lock is released.
    pub(crate) async fn renamed(self, token: Token) -> Result<Self> {
        let background = self.shared.background.clone();
        // To its end, so that the token by which the lock is released is known.
        background.attached(self.rename(token)).await
    }

    async fn rename(mut self, token: Token) -> Result<Self> {
        let renamed = self.shared.holding.rename(token).await;
        match (renamed, Arc::get_mut(&mut self.shared)) {
            // There is no renewal yet that has the same state.
            (Ok(true), Some(shared)) => {
                shared.holding.set_token(token);
                Ok(self)
            }
            (Ok(_), _) => {
                self.shared.mark_lost();
                Err(Error::unavailable(
                    "the lock was lost before its holder had its token",
                ))
            }
            (Err(error), _) => {
                // It is held by one of the two tokens. By the other one, the guard releases it.
                let Shared {
                    holding,
                    background,
                    ..
                } = &*self.shared;
                holding.release_renamed(token, background, self.deadline());
                Err(error)
            }
        }
    }

    pub(crate) fn keys(&self) -> &Arc<Keys> {
        self.shared.holding.keys()
    }

    /// Returns the identity of this grant, under which [`Store::locks`] lists it.
    pub fn id(&self) -> HolderId {
        self.shared.holding.holder_id()
    }

    /// Returns the name of the lock, as it was passed to [`Store::lock`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let guard = store.lock("report").lease(Duration::from_secs(3))?.acquire().await?;
    /// assert_eq!(guard.name(), b"report");
    /// assert_eq!(guard.lease(), Duration::from_secs(3));
    /// # Ok(())
    /// # }
    /// ```
    pub fn name(&self) -> &[u8] {
        self.shared.holding.keys().name()
    }

    /// Returns the lease of the lock, at which [`renew`](Self::renew) starts again. See
    /// [`remaining`](Self::remaining) for what is left of it.
    pub fn lease(&self) -> Duration {
        self.shared.holding.lease()
    }

    /// Returns the number of this grant, which is higher than that of every earlier grant of the
    /// name. The resource that the lock protects should reject a write whose fence is not
    /// higher than the last one that it has seen.
    pub fn fence(&self) -> u64 {
        self.shared.holding.fence()
    }

    /// Returns how the lock came to this holder.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let guard = store.lock("report").lease(Duration::from_secs(3))?.acquire().await?;
    /// assert_eq!(guard.grant_kind(), lockstock::GrantKind::Free);
    /// # Ok(())
    /// # }
    /// ```
    pub fn grant_kind(&self) -> GrantKind {
        self.shared.holding.grant_kind()
    }

    /// Returns how long the acquire took, including the wait for earlier holders.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Returns when the lease ends, on the monotonic clock of this machine. It is counted from
    /// before the request was sent, so it is never later than the end that the store assumes.
    pub fn deadline(&self) -> Instant {
        self.shared.deadline()
    }

    /// Returns the time until the [`deadline`](Self::deadline), zero once the lock is lost.
    pub fn remaining(&self) -> Duration {
        self.deadline().saturating_duration_since(Instant::now())
    }

    /// Resolves when the lock is lost: at the deadline, which renewals move, or as soon as a
    /// reply of the store shows the loss. Does not borrow the guard. After the guard is
    /// released, kept or dropped the deadline no longer moves.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lockstock::{Acquired, Store};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// let lock = Store::memory().lock("report").lease(Duration::from_millis(20))?;
    /// let guard = lock.acquire().await?;
    /// guard.lost().await; // 20 ms later
    /// assert!(guard.release().await.unwrap_err().is_lost());
    /// # Ok(())
    /// # }
    /// ```
    pub fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        let shared = self.shared.clone();
        async move { shared.lost().await }
    }

    /// Runs `work` while the lock is held, and drops it if the lock is lost. `work` may
    /// [renew](Self::renew) the lock as it makes progress.
    ///
    /// # Errors
    ///
    /// [`is_lost`](Error::is_lost) if the lock was lost first. What `work` had done by then
    /// stays done.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lockstock::{Acquired, Store};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// let lock = Store::memory().lock("report").lease(Duration::from_millis(20))?;
    /// let guard = lock.acquire().await?;
    /// assert_eq!(guard.run(async { 6 * 7 }).await?, 42);
    /// let too_long = guard.run(tokio::time::sleep(Duration::from_secs(60)));
    /// assert!(too_long.await.unwrap_err().is_lost());
    ///
    /// let guard = lock.acquire().await?;
    /// guard.run(async {
    ///     for _page in 0..10 {
    ///         guard.renew().await?; // each page has the whole lease
    ///     }
    ///     Ok::<_, lockstock::Error>(())
    /// }).await??;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.lost() => Err(Error::lost()),
        }
    }

    /// Adds `by` to the rest of the lease. Of several extensions at the same time each counts.
    ///
    /// # Errors
    ///
    /// [`is_lost`](Error::is_lost) if the lock is lost;
    /// [`is_invalid`](Error::is_invalid) if the rest would exceed 24 h
    /// ([`MAX_LEASE`](crate::MAX_LEASE)); [`is_unavailable`](Error::is_unavailable) if the store
    /// does not reply, and then the deadline is not later than before.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let guard = store.lock("report").lease(Duration::from_secs(3))?.acquire().await?;
    /// guard.extend(Duration::from_secs(60)).await?;
    /// assert!(guard.remaining() > Duration::from_secs(60));
    /// guard.renew().await?;
    /// assert!(guard.remaining() <= guard.lease());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn extend(&self, by: Duration) -> Result<()> {
        self.shared.extend(by).await
    }

    /// Sets the rest of the lease, to more or less than before. A guard that is
    /// [renewed automatically](Self::auto_renew) has its full lease again at the next renewal, which
    /// comes before the rest ends.
    ///
    /// # Errors
    ///
    /// As [`extend`](Self::extend); [`is_invalid`](Error::is_invalid) also below 1 ms
    /// ([`MIN_LEASE`](crate::MIN_LEASE)).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let guard = store.lock("report").lease(Duration::from_secs(60))?.acquire().await?;
    /// guard.set_remaining(Duration::from_secs(1)).await?;
    /// assert!(guard.remaining() <= Duration::from_secs(1));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set_remaining(&self, remaining: Duration) -> Result<()> {
        self.shared.set_remaining(remaining).await
    }

    /// Starts the lease again, at its full length. Renewals and extensions of one guard take
    /// effect in the order of the calls. A lock that was lost stays lost.
    ///
    /// # Errors
    ///
    /// As [`extend`](Self::extend).
    pub async fn renew(&self) -> Result<()> {
        self.shared.restart_lease().await
    }

    /// Renews the lock automatically, whenever a third of the lease has passed, for at most
    /// `max`. After that the lease runs out, so that a holder that is stuck does not hold the
    /// lock without end. The renewal ends with the guard.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lockstock::{Acquired, Store};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> lockstock::Result<()> {
    /// let lock = Store::memory().lock("report").lease(Duration::from_millis(60))?;
    /// let guard = lock.acquire().await?.auto_renew(Duration::from_secs(3600));
    /// guard.run(tokio::time::sleep(Duration::from_millis(200))).await?; // longer than the lease
    /// guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn auto_renew(mut self, max: Duration) -> Self {
        let shared = self.shared.clone();
        let last_deadline = Instant::now().checked_add(max);
        let renewal = async move { shared.renew_until(last_deadline).await };
        let renewal = self.shared.background.spawn(renewal);
        if let Some(previous) = std::mem::replace(&mut self.renewal, renewal) {
            previous.abort();
        }
        self
    }

    /// Gives the lock back. The next waiter is granted it. Once called, the release is carried
    /// out even if its future is dropped.
    ///
    /// # Errors
    ///
    /// [`is_lost`](Error::is_lost) if the lock was lost before: another holder may have worked
    /// under it at the same time. [`is_unavailable`](Error::is_unavailable) if the store does
    /// not reply: the release is retried in the background until the lease ends.
    pub fn release(self) -> impl Future<Output = Result<()>> + Send {
        self.release_again(false)
    }

    /// Gives the lock back on the thread of the caller, if it is synchronous. Continues with the
    /// guard, and whether an earlier try may have released it, for [`release_again`](Self::release_again).
    pub(crate) fn release_by_caller(mut self) -> Result<ControlFlow<(), (Self, bool)>> {
        let (called_at, before) = (Instant::now(), generation());
        self.stop_renewal();
        match self.shared.holding.release_by_caller() {
            Ok(Attempted::Done(outcome)) => {
                let shared = self.finish();
                self.result(shared.was_held(outcome), called_at)
                    .map(ControlFlow::Break)
            }
            Ok(Attempted::Left) => Ok(ControlFlow::Continue((self, false))),
            Ok(Attempted::Unsettled) => Ok(ControlFlow::Continue((self, true))),
            Err(error) => {
                let shared = self.finish();
                // In a child of `fork` the lock is that of the parent.
                if generation() == before {
                    shared.give_back();
                }
                Err(error)
            }
        }
    }

    pub(crate) fn release_again(
        mut self,
        may_be_released: bool,
    ) -> impl Future<Output = Result<()>> + Send {
        let (shared, called_at) = (self.finish(), Instant::now());
        let release = match shared.holding.release() {
            StoreRelease::Ready(outcome) => ready(Ok(outcome)).left_future(),
            pending => {
                let background = shared.background.clone();
                let released = async move {
                    let outcome = pending.await;
                    if outcome.is_err() {
                        shared.give_back();
                    }
                    outcome
                };
                background.attached(released).right_future()
            }
        };
        async move {
            let outcome = match release.await? {
                // An earlier try had no reply.
                ReleaseOutcome::NotHeld if may_be_released => ReleaseOutcome::Unknown,
                outcome => outcome,
            };
            self.result(self.shared.was_held(outcome), called_at)
        }
    }

    /// Leaves the lock taken to the end of the lease: the work is done, and must not be
    /// repeated before then. Waiters whose wait ends earlier are notified at once. Once called,
    /// it is carried out even if its future is dropped.
    ///
    /// A permit of a semaphore and a reader stay taken in the same way.
    ///
    /// # Errors
    ///
    /// As [`release`](Self::release). If the store does not reply, the lock stays held, which
    /// excludes other holders for just as long.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let lock = store.lock("product-update-lock-42").lease(Duration::from_secs(3))?;
    /// lock.acquire().await?.keep().await?;
    /// let lockstock::Acquired::Busy(busy) = lock.try_acquire().await? else {
    ///     panic!("it is kept for 3 s")
    /// };
    /// assert!(busy.is_kept());
    /// assert!(busy.retry_after() <= Some(Duration::from_secs(3)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn keep(mut self) -> impl Future<Output = Result<()>> + Send {
        let (shared, called_at) = (self.finish(), Instant::now());
        let pending = shared.holding.keep();
        let background = shared.background.clone();
        let kept = background.attached(async move {
            let kept = pending.await;
            shared.holding.kept(&kept, shared.deadline());
            kept
        });
        async move {
            let was_held = kept.await?;
            self.result(was_held, called_at)
        }
    }

    /// Disarms the drop of the guard, and stops the renewal.
    fn finish(&mut self) -> Arc<Shared> {
        self.finished = true;
        self.stop_renewal();
        self.shared.clone()
    }

    fn stop_renewal(&mut self) {
        if let Some(renewal) = self.renewal.take() {
            renewal.abort();
        }
    }

    /// Returns the result of a release or a keep. A guard that has reported a loss never
    /// reports a success later, even if the store still had the lock.
    fn result(&self, was_held: bool, called_at: Instant) -> Result<()> {
        histogram!("lockstock_lock_hold_seconds").record(self.acquired_at.elapsed());
        if was_held && called_at < self.shared.deadline() {
            return Ok(());
        }
        self.shared.mark_lost();
        Err(Error::lost())
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not derived: the token is all that a release needs.
        f.debug_struct("Guard")
            .field("name", &Escaped(self.name()))
            .field("fence", &self.fence())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.stop_renewal();
        if !self.finished {
            histogram!("lockstock_lock_hold_seconds").record(self.acquired_at.elapsed());
            if self.shared.deadline() <= Instant::now() {
                self.shared.mark_lost();
            }
            self.shared.give_back();
        }
    }
}
