//! The article's contract: one request at a time changes a product, and after a success
//! nobody does for the rest of the lease.
//!
//! The write is fenced (see `storage.rs`): if the lock was lost on the way, nothing is
//! written. Once the lock is held the work is finished even if the client has gone.

use std::time::Duration;

use lockstock::{Acquired, Guard, Store};
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, error, warn};

use crate::failpoint;
use crate::refusal::Refusal;
use crate::storage::Turn;

/// How updates take turns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UpdateRules {
    /// How long one update may take, and how long others are kept out after it.
    pub(crate) lease: Duration,
    /// How long an update waits for the one before it.
    pub(crate) wait: Duration,
    /// What happens to the lock after a success.
    pub(crate) hold: Hold,
}

/// What happens to the lock of a product after a successful update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Hold {
    /// It stays taken for the rest of the lease: one update per lease.
    Keep,
    /// It is released at once: one update at a time.
    Release,
}

/// The locks of the products.
pub(crate) struct UpdateLock {
    store: Store,
    rules: UpdateRules,
    /// Updates under way, whether or not their clients are still there.
    working: TaskTracker,
}

impl UpdateLock {
    pub(crate) fn new(store: Store, rules: UpdateRules) -> Self {
        Self {
            store,
            rules,
            working: TaskTracker::new(),
        }
    }

    /// What becomes of the lock after a successful update.
    pub(crate) fn hold(&self) -> Hold {
        self.rules.hold
    }

    /// Waits until every update that has begun is finished.
    pub(crate) async fn finished(&self) {
        self.working.close();
        self.working.wait().await;
    }

    /// Runs `write` under the lock of product `id`; after a success the lock is held as
    /// `after` says.
    pub(crate) async fn run<T, W>(
        &self,
        id: i64,
        after: Hold,
        write: impl FnOnce(Turn) -> W + Send + 'static,
    ) -> Result<T, Refusal>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let guard = self.acquire(id).await?;
        let turn = Turn {
            fence: guard.fence(),
            deadline: guard.deadline(),
        };
        // On its own task: a client that hangs up now must not stop a write halfway.
        let work = async move {
            failpoint::pause("update.locked").await;
            let written = write(turn).await;
            failpoint::pause("update.written").await;
            // If nobody knows whether it is written, it counts as written: released, the next
            // one of five identical requests might be the second to succeed.
            let done = written
                .as_ref()
                .map_or_else(Refusal::may_be_written, |_| true);
            let kept = done && after == Hold::Keep;
            finish(guard, kept).await;
            written
        };
        let work = self.working.spawn(work.in_current_span());
        work.await.unwrap_or_else(|panic| {
            error!(%panic, "an update panicked");
            Err(Refusal::defect())
        })
    }

    async fn acquire(&self, id: i64) -> Result<Guard, Refusal> {
        let UpdateRules { lease, wait, .. } = self.rules;
        let unavailable = |why: lockstock::Error| {
            error!(%why, "no lock could be had");
            Refusal::store_unavailable()
        };
        let lock = self
            .store
            .lock(format!("product-update-lock-{id}"))
            .lease(lease)
            .map_err(unavailable)?;
        match lock.acquire_within(wait).await.map_err(unavailable)? {
            Acquired::Held(guard) => {
                debug!(id, fence = guard.fence(), "held");
                Ok(guard)
            }
            Acquired::Busy(busy) => {
                debug!(id, kept = busy.is_kept(), "busy");
                Err(Refusal::busy(lease, busy.is_kept(), busy.retry_after()))
            }
        }
    }
}

/// Ends the hold. The answer does not depend on it: what is committed is committed, and a
/// lock that could not be given back ends with its lease.
async fn finish(guard: Guard, keep: bool) {
    let fence = guard.fence();
    let finished = if keep {
        guard.keep().await
    } else {
        guard.release().await
    };
    if let Err(why) = finished {
        warn!(fence, %why, "the lock was not given back");
    }
}
