//! Claims: the right to process the request of an idempotency key.
//!
//! Guarantees: a claim has one holder in this process and, with a store, one holder over all
//! processes, as long as its lease lasts or is renewed; it is released however its holder ends.
//! If the process dies, the claim in the store ends with its lease.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockstock::{Acquired, Guard, Store};
use tracing::warn;

use super::key::{RequestKey, id};

/// Limit of the renewals of a claim, so that a handler that hangs does not keep it.
pub(super) const MAX_DURATION: Duration = Duration::from_secs(3600);

/// Keys that are claimed now.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims {
    /// With their callers. A std mutex, because it is never held across an await.
    local: Arc<Mutex<HashSet<Arc<CallerKey>>>>,
    distributed: Option<(Store, Duration)>,
}

impl Claims {
    /// Extends the claims to all processes that use the store.
    pub(super) fn claim_in(&mut self, store: &Store, lease: Duration) {
        self.distributed = Some((store.clone(), lease));
    }

    /// Claims `key` in this process. Returns `None` if it is claimed.
    pub(super) fn claim(&self, key: &RequestKey) -> Option<Claim> {
        let RequestKey { caller, key, .. } = key.clone();
        let key = Arc::new(CallerKey { caller, key });
        self.claimed().insert(key.clone()).then(|| Claim {
            local: LocalClaim {
                claims: self.clone(),
                key,
            },
            distributed: None,
        })
    }

    /// Waits until every release in the background has finished.
    pub(super) async fn drain(&self) {
        if let Some((store, _)) = &self.distributed {
            store.drain().await;
        }
    }

    fn claimed(&self) -> MutexGuard<'_, HashSet<Arc<CallerKey>>> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CallerKey {
    caller: String,
    key: String,
}

#[derive(Debug)]
pub(super) struct Claim {
    // Dropped before `local`: otherwise another request of this process could ask the store while
    // this claim is still held there.
    distributed: Option<Guard>,
    local: LocalClaim,
}

#[derive(Debug)]
struct LocalClaim {
    claims: Claims,
    key: Arc<CallerKey>,
}

impl LocalClaim {
    /// Returns [`RequestKey::id`], which is computed only for a store.
    fn id(&self) -> String {
        let CallerKey { caller, key } = &*self.key;
        id(caller, key)
    }
}

impl Drop for LocalClaim {
    fn drop(&mut self) {
        self.claims.claimed().remove(&self.key);
    }
}

impl Claim {
    /// Claims the key in the store too, if there is a store. Returns `false` if another process
    /// holds the claim.
    pub(super) async fn distribute(&mut self) -> lockstock::Result<bool> {
        let Some((store, lease)) = &self.local.claims.distributed else {
            return Ok(true);
        };
        let name = format!("idempotency:{}", self.local.id());
        match store.lock(name).lease(*lease)?.try_acquire().await? {
            Acquired::Held(guard) => {
                self.distributed = Some(guard.auto_renew(MAX_DURATION));
                Ok(true)
            }
            Acquired::Busy(_) => Ok(false),
        }
    }

    pub(super) async fn release(self) {
        let Self { distributed, local } = self;
        if let Some(guard) = distributed
            && let Err(error) = guard.release().await
        {
            warn!(id = local.id(), %error, "the claim was not released");
        }
    }

    /// Keeps the claim in the store to the end of its lease, because the effect of the request is
    /// not recorded.
    pub(super) async fn keep(self) {
        let Self { distributed, local } = self;
        if let Some(guard) = distributed
            && let Err(error) = guard.keep().await
        {
            warn!(id = local.id(), %error, "the claim was not kept");
        }
    }
}
