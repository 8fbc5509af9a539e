//! The right to carry out the request of a key: nobody else does meanwhile.
//!
//! Guarantees: in this process one at a time, and given back however that one ends; with a
//! store, one at a time over all processes, for as long as the claim's lease lasts or is
//! renewed. If the process dies, the claim in the store ends with its lease.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockstock::{Acquired, Guard, Store};
use tracing::warn;

/// For how long a claim is renewed while its request is carried out. One that hangs must not
/// hold for ever.
pub(super) const MOST: Duration = Duration::from_secs(3600);

/// Who carries out what.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims {
    /// std's mutex: held for a look or a change, never across an await.
    here: Arc<Mutex<HashSet<String>>>,
    everywhere: Option<(Store, Duration)>,
}

impl Claims {
    pub(super) fn claim_in(&mut self, store: &Store, lease: Duration) {
        self.everywhere = Some((store.clone(), lease));
    }

    /// The claim of `id` in this process, unless somebody else has it.
    pub(super) fn claim(&self, id: &str) -> Option<Claim> {
        self.ids().insert(id.to_owned()).then(|| Claim {
            here: Here {
                claims: self.clone(),
                id: id.to_owned(),
            },
            everywhere: None,
        })
    }

    /// Waits until every claim that is given back in the background is.
    pub(super) async fn drain(&self) {
        if let Some((store, _)) = &self.everywhere {
            store.drain().await;
        }
    }

    fn ids(&self) -> MutexGuard<'_, HashSet<String>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) struct Claim {
    // In this order they are dropped: nobody here asks the store for what we still have there.
    everywhere: Option<Guard>,
    here: Here,
}

#[derive(Debug)]
struct Here {
    claims: Claims,
    id: String,
}

impl Drop for Here {
    fn drop(&mut self) {
        self.claims.ids().remove(&self.id);
    }
}

impl Claim {
    /// Claims it in the store as well, if there is one. Whether nobody else has it there.
    pub(super) async fn everywhere(&mut self) -> lockstock::Result<bool> {
        let Some((store, lease)) = &self.here.claims.everywhere else {
            return Ok(true);
        };
        let name = format!("idempotency:{}", self.here.id);
        match store.lock(name).lease(*lease)?.try_acquire().await? {
            Acquired::Held(guard) => {
                self.everywhere = Some(guard.auto_renew(MOST));
                Ok(true)
            }
            Acquired::Busy(_) => Ok(false),
        }
    }

    /// Gives it back.
    pub(super) async fn release(self) {
        let Self { everywhere, here } = self;
        if let Some(guard) = everywhere
            && let Err(why) = guard.release().await
        {
            warn!(id = here.id, %why, "the claim was not given back");
        }
    }

    /// Leaves it in the store until its lease ends: the request was carried out, and nobody
    /// will know.
    pub(super) async fn keep(self) {
        let Self { everywhere, here } = self;
        if let Some(guard) = everywhere
            && let Err(why) = guard.keep().await
        {
            warn!(id = here.id, %why, "the claim may not be kept");
        }
    }
}
