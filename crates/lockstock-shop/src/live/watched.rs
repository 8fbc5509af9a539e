//! Who watches: subscribers of this server, and other servers that have subscribers.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use metrics::gauge;

use super::subscription::Place;
use super::{Inner, Live};

/// Who watches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Watched {
    /// This server has subscribers, or had some a moment ago.
    pub(super) here: bool,
    /// Other servers have.
    pub(super) elsewhere: bool,
}

impl Watched {
    pub(super) fn anywhere(self) -> bool {
        self.here || self.elsewhere
    }
}

impl Live {
    /// Takes a place, if one is free.
    pub(super) fn enter(&self) -> Option<Place> {
        let inner = &self.0;
        let before = inner.watchers.fetch_add(1, Ordering::AcqRel);
        if before >= inner.max_watchers {
            inner.watchers.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        gauge!("lockstock_watchers").increment(1);
        let place = Place(inner.clone());
        inner.set_watched(|watched, _| watched.here = true);
        Some(place)
    }

    /// Waits until `is_watched` returns true for who watches.
    pub(super) async fn until(&self, is_watched: impl Fn(Watched) -> bool) {
        let mut watched = self.0.watched.subscribe();
        // Fails only if the sender is gone, which this has.
        let _ = watched.wait_for(|watched| is_watched(*watched)).await;
    }
}

impl Inner {
    pub(super) fn leave(&self) {
        self.watchers.fetch_sub(1, Ordering::AcqRel);
        gauge!("lockstock_watchers").decrement(1);
    }

    /// Changes who watches. `change` also gets the number of subscribers.
    pub(super) fn set_watched(&self, change: impl FnOnce(&mut Watched, usize)) {
        // No frame is made and no snapshot is taken meanwhile.
        let mut known = self.known();
        let before = *self.watched.borrow();
        let mut after = before;
        change(&mut after, self.watchers.load(Ordering::Acquire));
        if after.anywhere() != before.anywhere() {
            self.table.set_watched(after.anywhere());
            *self.changed_products() = VecDeque::new();
        }
        if after.here != before.here {
            // What other servers published before is missing.
            self.ring.clear();
            known.forget_servers();
        }
        if after != before {
            self.watched.send_replace(after);
        }
    }
}
