//! A lock that is held: what it is worth, how long, and how it ends.
//!
//! Guarantees: a guard never believes in its lock for longer than the store does; it hears of
//! a loss at its deadline at the latest, and as soon as the store says so; its release is
//! carried out once called, whatever becomes of the future; dropping it never blocks.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use metrics::{counter, histogram};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{Span, debug, debug_span, warn};

use crate::error::{Error, Result};
use crate::lock::{checked_lease, whole_millis};
use crate::store::{Grant, QueueHead, Release as Released, Releasing, Request, Store, Tenant};

/// How often something is given back to a store that does not answer.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// A lock that is ours until [`deadline`](Self::deadline).
///
/// [`release`](Self::release) it when the work is done. Dropping it gives the lock back
/// too, in the background: that never blocks and never fails, and nobody hears whether it
/// worked; the lease is the safety net.
#[derive(Debug)]
#[must_use = "a guard that is dropped gives the lock back"]
pub struct Guard {
    hold: Arc<Hold>,
    since: Instant,
    /// Open as long as it is held.
    _span: Span,
    /// Ends with the guard, in whatever way that ends.
    renewal: Option<AbortHandle>,
    /// Released or kept: dropping it does nothing any more.
    done: bool,
}

/// What a guard and its renewal share.
#[derive(Debug)]
struct Hold {
    store: Store,
    tenant: Tenant,
    /// In front of those who wait in this process.
    place: Option<QueueHead>,
    /// When the lock is lost, if nothing happens before.
    deadline: Mutex<Instant>,
    /// Tells that the deadline has moved.
    moved: Notify,
    /// One renewal at a time: what is asked for last is what the store is told last.
    renewing: tokio::sync::Mutex<()>,
    /// A loss is told once, however often it is found out.
    noted_lost: AtomicBool,
}

impl Guard {
    pub(crate) fn new(store: &Store, attempt: &Request, grant: Grant) -> Self {
        let fence = grant.fence;
        Self {
            hold: Arc::new(Hold {
                store: store.clone(),
                tenant: Tenant::new(attempt, &grant),
                place: grant.place,
                deadline: Mutex::new(grant.deadline),
                moved: Notify::new(),
                renewing: tokio::sync::Mutex::default(),
                noted_lost: AtomicBool::new(false),
            }),
            since: Instant::now(),
            _span: debug_span!("lock.hold", lock = %attempt.keys, fence),
            renewal: None,
            done: false,
        }
    }

    /// The number of this grant: higher than that of any earlier grant of the name. Let
    /// whatever the lock protects refuse a number that is not higher than the last it saw.
    pub fn fence(&self) -> u64 {
        self.hold.tenant.fence
    }

    /// Until when the lock is ours, on this machine's monotonic clock. Counted from before
    /// the request was sent that won it, so never later than the store's own end of it.
    pub fn deadline(&self) -> Instant {
        self.hold.ends()
    }

    /// What is left until the [`deadline`](Self::deadline); zero once the lock is lost.
    pub fn remaining(&self) -> Duration {
        self.deadline().saturating_duration_since(Instant::now())
    }

    /// Resolves when the lock is no longer ours: at the deadline, which renewing moves, or as
    /// soon as the store says so. Does not borrow the guard. Once the guard is released,
    /// kept or dropped nothing moves the deadline any more.
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
        let hold = self.hold.clone();
        async move {
            loop {
                // Before looking, so that no move goes unnoticed.
                let moved = hold.moved.notified();
                let until = hold.ends();
                tokio::select! {
                    () = sleep_until(until) => return,
                    () = moved => {}
                }
            }
        }
    }

    /// Runs `work` for as long as the lock is ours: stops it (drops its future) when the lock
    /// is lost.
    ///
    /// # Errors
    ///
    /// [`is_lost`](Error::is_lost) when it was stopped. What it had done by then is done.
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

    /// Adds `by` to what is left of the lease.
    ///
    /// # Errors
    ///
    /// [`is_lost`](Error::is_lost) if the lock is not ours any more,
    /// [`is_invalid`](Error::is_invalid) if more than [`MAX_LEASE`](crate::MAX_LEASE) would be
    /// left, and [`is_unavailable`](Error::is_unavailable): then the deadline is not later
    /// than it was.
    pub async fn extend(&mut self, by: Duration) -> Result<()> {
        let left = checked_lease(self.remaining().saturating_add(by))?;
        self.hold.set_remaining(left).await
    }

    /// Starts the lease again: its whole length is left afterwards.
    ///
    /// # Errors
    ///
    /// As [`extend`](Self::extend).
    pub async fn renew(&mut self) -> Result<()> {
        self.hold.set_remaining(self.hold.tenant.lease).await
    }

    /// Renews by itself from now on, each time a third of the lease has passed, until
    /// `most` has passed in all. Then it lets the lease run out: a holder that hangs must not
    /// hold for ever. The renewal ends with the guard.
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
    pub fn auto_renew(mut self, most: Duration) -> Self {
        let hold = self.hold.clone();
        let ends = Instant::now().checked_add(most);
        let renewal = self
            .hold
            .store
            .spawn(async move { hold.renew_until(ends).await });
        if let Some(before) = self.renewal.replace(renewal) {
            before.abort();
        }
        self
    }

    /// Gives the lock back: the next waiter gets it. Once called it is carried out, even if
    /// its future is dropped.
    ///
    /// # Errors
    ///
    /// [`is_lost`](Error::is_lost) if the lock had been lost before: what was done under it
    /// may have been done by another holder too. [`is_unavailable`](Error::is_unavailable)
    /// if the store did not answer: it is asked again in the background until the lease ends.
    pub fn release(mut self) -> impl Future<Output = Result<()>> + Send {
        let (hold, at) = (self.finishing(), Instant::now());
        let released = if hold.pass_on() {
            None
        } else {
            let released = Some(hold.store.release(&hold.tenant, hold.place.as_ref()));
            Some(Release { released, hold })
        };
        async move {
            let ours = match released {
                None => true,
                Some(released) => released.await?,
            };
            self.finished(ours, at)
        }
    }

    /// Leaves the lock taken for the rest of the lease: the work is done, and nobody may do
    /// it again for so long. Waiters who cannot wait that long are told at once. Once called
    /// it is carried out, even if its future is dropped.
    ///
    /// A permit of a semaphore, or a place among the readers, stays taken in the same way.
    ///
    /// # Errors
    ///
    /// As [`release`](Self::release); when the store does not answer the lock stays held,
    /// which keeps others out for just as long.
    pub fn keep(mut self) -> impl Future<Output = Result<()>> + Send {
        let (hold, at) = (self.finishing(), Instant::now());
        let (answer, answered) = oneshot::channel();
        self.hold.store.in_background(async move {
            let kept = hold.store.keep(&hold.tenant).await;
            if matches!(kept, Ok(true))
                && let Some(place) = &hold.place
            {
                place.tell_kept(hold.ends());
            }
            hold.step_back();
            let _ = answer.send(kept);
        });
        async move {
            let ours = answered
                .await
                .map_err(|_| Error::unavailable("the runtime is shutting down"))??;
            self.finished(ours, at)
        }
    }

    /// From here on the guard is not what gives the lock back, and nothing renews it.
    fn finishing(&mut self) -> Arc<Hold> {
        self.done = true;
        self.stop_renewal();
        self.hold.clone()
    }

    fn stop_renewal(&mut self) {
        if let Some(renewal) = self.renewal.take() {
            renewal.abort();
        }
    }

    /// Whatever the store says: once it was said to be lost it stays lost.
    fn finished(&self, ours: bool, at: Instant) -> Result<()> {
        histogram!("lockstock_lock_hold_seconds").record(self.since.elapsed());
        if ours && at < self.hold.ends() {
            return Ok(());
        }
        self.hold.note_lost();
        Err(Error::lost())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.stop_renewal();
        if !self.done {
            histogram!("lockstock_lock_hold_seconds").record(self.since.elapsed());
            if self.hold.ends() <= Instant::now() {
                self.hold.note_lost();
            }
            self.hold.give_back();
        }
    }
}

/// A release that the store was asked for. Dropped before the answer, it goes on in the
/// background: the store may have to be asked again.
struct Release {
    released: Option<Releasing>,
    hold: Arc<Hold>,
}

impl Future for Release {
    /// Whether it was ours to release.
    type Output = Result<bool>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(released) = &mut self.released else {
            return Poll::Pending;
        };
        let answer = ready!(Pin::new(released).poll(context));
        self.released = None;
        Poll::Ready(match answer {
            Ok(Released::Done) => Ok(true),
            Ok(Released::NotOurs) => Ok(false),
            // If our lease cannot have ended yet, it was the release.
            Ok(Released::Unclear) => Ok(Instant::now() < self.hold.ends()),
            Err(error) => {
                self.hold.give_back();
                Err(error)
            }
        })
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        if let Some(released) = self.released.take() {
            let hold = self.hold.clone();
            self.hold.store.in_background(async move {
                if released.await.is_err() {
                    hold.give_back();
                }
            });
        }
    }
}

impl Hold {
    fn ends(&self) -> Instant {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes the lock on to the next who waits in this process, if that is fair and safe.
    fn pass_on(&self) -> bool {
        self.place.as_ref().is_some_and(QueueHead::pass_on)
    }

    /// The next who waits in this process asks for itself.
    fn step_back(&self) {
        if let Some(place) = &self.place {
            place.step_back();
        }
    }

    fn give_back(self: &Arc<Self>) {
        if !self.pass_on() {
            let hold = self.clone();
            give_back(&self.store, self.ends(), move || {
                let released = hold.store.release(&hold.tenant, hold.place.as_ref());
                async { released.await.map(drop) }
            });
        }
    }

    fn set_ends(&self, ends: Instant) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = ends;
        self.moved.notify_waiters();
        if let Some(place) = &self.place {
            place.set_ends(ends);
        }
    }

    async fn set_remaining(&self, left: Duration) -> Result<()> {
        let _one_at_a_time = self.renewing.lock().await;
        self.renew_to(left).await
    }

    async fn renew_to(&self, left: Duration) -> Result<()> {
        // As the store counts it: a fraction of a millisecond more would be ours alone.
        let left = whole_millis(left);
        let ends = Instant::now() + left;
        if ends < self.ends() {
            // Whatever becomes of the answer.
            self.set_ends(ends);
        }
        if self.store.renew(&self.tenant, left).await? {
            self.set_ends(ends);
            return Ok(());
        }
        self.note_lost();
        Err(Error::lost())
    }

    async fn renew_until(&self, ends: Option<Instant>) {
        let lease = self.tenant.lease;
        loop {
            sleep(lease / 3).await;
            let _one_at_a_time = self.renewing.lock().await;
            let now = Instant::now();
            if ends.is_some_and(|ends| ends <= now) {
                return;
            }
            // The last renewal reaches to the end that was set, and not beyond it.
            let left = ends.map_or(lease, |ends| lease.min(ends - now));
            // It was extended beyond that, by hand.
            if now + left <= self.ends() {
                continue;
            }
            match self.renew_to(left).await {
                Err(error) if error.is_lost() => return,
                // Asked again in a third of the lease, as long as the lock may be ours.
                Err(_) if self.ends() <= Instant::now() => return,
                _ => {}
            }
        }
    }

    fn note_lost(&self) {
        if self.noted_lost.swap(true, Ordering::Relaxed) {
            return;
        }
        counter!("lockstock_lock_lost_total").increment(1);
        warn!(lock = %self.tenant.keys, fence = self.tenant.fence, "lost");
        self.set_ends(Instant::now());
    }
}

/// Gives something back in the background: again and again, until the store has answered or it
/// does not matter any more.
pub(crate) fn give_back<F>(store: &Store, ends: Instant, ask: impl Fn() -> F + Send + 'static)
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let asked = store.clone();
    // Asked for now: what is asked for later finds it done.
    let first = ask();
    store.in_background(async move {
        if first.await.is_ok() {
            return;
        }
        // The store is down, and there may be thousands of us.
        let Some(_permit) = asked.retrying(ends).await else {
            return;
        };
        let mut pause = FIRST_PAUSE;
        while Instant::now() < ends {
            match ask().await {
                Ok(()) => return,
                Err(error) => debug!(%error, "something to give back waits for the store"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    });
}
