//! What a guard shares with its renewal and with its background tasks: the deadline of its lock, the
//! renewals that move it, and the loss.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::counter;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::error::{Error, Result};
use crate::lease::{checked_lease, truncate_to_millis};
use crate::store::{Background, Holding, ReleaseFuture as StoreRelease, ReleaseOutcome};

/// State that a guard shares with its renewal and with its background tasks.
pub(super) struct Shared {
    pub(super) background: Background,
    pub(super) holding: Holding,
    /// When the lock is lost unless it is renewed.
    deadline: Mutex<Instant>,
    deadline_moved: Notify,
    /// Serializes renewals, so that the store receives them in the order of the calls.
    renewing: tokio::sync::Mutex<()>,
    /// A loss is logged and counted once.
    is_lost: AtomicBool,
}

impl Shared {
    pub(super) fn new(background: Background, holding: Holding) -> Self {
        Self {
            background,
            deadline: Mutex::new(holding.granted_deadline()),
            holding,
            deadline_moved: Notify::new(),
            renewing: tokio::sync::Mutex::default(),
            is_lost: AtomicBool::new(false),
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_deadline(&self, deadline: Instant) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
        self.deadline_moved.notify_waiters();
        self.holding.set_deadline(deadline);
    }

    /// Returns whether the lock was held until it was released.
    pub(super) fn was_held(&self, outcome: ReleaseOutcome) -> bool {
        match outcome {
            ReleaseOutcome::Released => true,
            ReleaseOutcome::NotHeld => false,
            // If the lease cannot have ended yet, an earlier try released the lock.
            ReleaseOutcome::Unknown => Instant::now() < self.deadline(),
        }
    }

    /// Releases in the background, and retries until the deadline.
    pub(super) fn give_back(self: &Arc<Self>) {
        let first = match self.holding.release() {
            StoreRelease::Ready(_) => return,
            pending => pending,
        };
        let discard = |release: StoreRelease| async { release.await.map(drop) };
        let shared = self.clone();
        let release = move || discard(shared.holding.release());
        self.background
            .retry(self.deadline(), discard(first), release);
    }

    pub(super) async fn extend(&self, by: Duration) -> Result<()> {
        let _serialized = self.renewing.lock().await;
        // After a renewal that was in flight: an earlier reading would undo it.
        let remaining = self.deadline().saturating_duration_since(Instant::now());
        self.renew(checked_lease(remaining.saturating_add(by))?)
            .await
    }

    pub(super) async fn set_remaining(&self, remaining: Duration) -> Result<()> {
        let remaining = checked_lease(remaining)?;
        let _serialized = self.renewing.lock().await;
        self.renew(remaining).await
    }

    pub(super) async fn restart_lease(&self) -> Result<()> {
        let _serialized = self.renewing.lock().await;
        self.renew(self.holding.lease()).await
    }

    /// Sets the rest of the lease. `renewing` must be locked.
    async fn renew(&self, remaining: Duration) -> Result<()> {
        // The store counts in whole milliseconds. A longer deadline would be wrong.
        let remaining = truncate_to_millis(remaining);
        let now = Instant::now();
        let deadline = now + remaining;
        let current = self.deadline();
        if now < current {
            if deadline < current {
                // In advance: if the reply is lost, the store may have shortened the lease.
                self.set_deadline(deadline);
            }
            if self.holding.renew(remaining).await? && self.move_deadline(deadline) {
                return Ok(());
            }
        }
        self.mark_lost();
        Err(Error::lost())
    }

    /// Sets the deadline, unless it has passed: then `lost` and `run` have reported the loss
    /// already, and the lock stays lost. Returns whether it was set.
    fn move_deadline(&self, to: Instant) -> bool {
        {
            let mut deadline = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
            if *deadline <= Instant::now() {
                return false;
            }
            *deadline = to;
        }
        self.deadline_moved.notify_waiters();
        self.holding.set_deadline(to);
        true
    }

    /// Renews until the lock is lost or `last_deadline` has passed.
    pub(super) async fn renew_until(&self, last_deadline: Option<Instant>) {
        let lease = self.holding.lease();
        loop {
            self.sleep_until_renewal(lease).await;
            let _serialized = self.renewing.lock().await;
            let now = Instant::now();
            if last_deadline.is_some_and(|last_deadline| last_deadline <= now) {
                return;
            }
            // The last renewal reaches to the last deadline, and not beyond it.
            let remaining =
                last_deadline.map_or(lease, |last_deadline| lease.min(last_deadline - now));
            // The caller has extended the lock beyond that.
            if now + remaining <= self.deadline() {
                continue;
            }
            match self.renew(remaining).await {
                Err(error) if error.is_lost() => return,
                // Retried in a third of the lease, while the lock may still be held.
                Err(_) if self.deadline() <= Instant::now() => return,
                _ => {}
            }
        }
    }

    /// Waits until the deadline has passed.
    pub(super) async fn lost(&self) {
        loop {
            // Created before the deadline is read, so that no move is missed.
            let moved = self.deadline_moved.notified();
            tokio::select! {
                () = sleep_until(self.deadline()) => return,
                () = moved => {}
            }
        }
    }

    /// Sleeps for a third of the lease, or of the rest if that was made shorter.
    async fn sleep_until_renewal(&self, lease: Duration) {
        let next = Instant::now() + lease / 3;
        loop {
            // Created before the deadline is read, so that no move is missed.
            let moved = self.deadline_moved.notified();
            let now = Instant::now();
            let rest = self.deadline().saturating_duration_since(now);
            tokio::select! {
                () = sleep_until(next.min(now + rest / 3)) => return,
                () = moved => {}
            }
        }
    }

    pub(super) fn mark_lost(&self) {
        if self.is_lost.swap(true, Ordering::Relaxed) {
            return;
        }
        counter!("lockstock_lock_lost_total").increment(1);
        warn!(lock = %self.holding.keys(), fence = self.holding.fence(), "lost");
        self.set_deadline(Instant::now());
    }
}
