//! Whether a job has begun, or its caller has given up: one of the two, never both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const GIVEN_UP: u8 = 2;

/// What a caller and its job have in common.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ticket(Arc<AtomicU8>);

impl Ticket {
    /// Begins the job; whether it may. Begun before, it may go on.
    pub(crate) fn begin(&self) -> bool {
        self.become_(BEGUN)
    }

    /// Gives the job up; whether it has not begun.
    pub(super) fn give_up(&self) -> bool {
        self.become_(GIVEN_UP)
    }

    fn become_(&self, state: u8) -> bool {
        let order = Ordering::SeqCst;
        let was = self.0.compare_exchange(WAITING, state, order, order);
        was.is_ok() || was == Err(state)
    }
}
