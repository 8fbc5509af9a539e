//! The race between a job that starts and a caller that stops waiting for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const WAITING: u8 = 0;
const STARTED: u8 = 1;
const CANCELLED: u8 = 2;

/// The state that a caller and its job share: the job either starts or is cancelled, never both.
#[derive(Debug, Clone, Default)]
pub(crate) struct StartToken(Arc<AtomicU8>);

impl StartToken {
    /// Starts the job. Returns whether it may run; true again if it has started before.
    pub(crate) fn start(&self) -> bool {
        self.settle(STARTED)
    }

    /// Cancels the job. Returns false if it has started.
    pub(super) fn cancel(&self) -> bool {
        self.settle(CANCELLED)
    }

    fn settle(&self, state: u8) -> bool {
        let order = Ordering::SeqCst;
        let previous = self.0.compare_exchange(WAITING, state, order, order);
        previous.is_ok() || previous == Err(state)
    }
}
