//! Whether computed values are returned without the cache, because the store is unavailable.

use std::sync::atomic::{AtomicBool, Ordering};

use metrics::counter;
use tracing::{info, warn};

use crate::error::Error;

/// The condition of a store, so that an outage is logged once and not with each call.
#[derive(Default)]
pub(crate) struct Bypass {
    is_on: AtomicBool,
}

impl Bypass {
    /// Notes a command that failed.
    pub(super) fn note_failure(&self, error: &Error) {
        counter!("lockstock_cache_unavailable_total").increment(1);
        if !self.is_on.swap(true, Ordering::Relaxed) {
            warn!(%error, "computing without the cache while the store is unavailable");
        }
    }

    /// Notes a command that succeeded.
    pub(super) fn note_success(&self) {
        if self.is_on.load(Ordering::Relaxed) && self.is_on.swap(false, Ordering::Relaxed) {
            info!("the store of the cache is available again");
        }
    }
}
