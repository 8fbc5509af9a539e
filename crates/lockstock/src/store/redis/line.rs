//! The waiters of one name in this process: they stand in line here, and only the first of
//! them speaks to Redis.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

/// The lines, by the holder's key.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<HashMap<Vec<u8>, Line>>>);

/// Those behind the first.
#[derive(Default)]
struct Line {
    behind: VecDeque<Waiter>,
    /// How many may be behind before those who gave up are looked for.
    sweep_at: usize,
}

impl Line {
    /// Forgets those who gave up, now and then: so often that they never outnumber the
    /// others by much, so seldom that it costs each newcomer next to nothing.
    fn sweep(&mut self) {
        if self.behind.len() >= self.sweep_at {
            self.behind.retain(|waiter| !waiter.told.is_closed());
            self.sweep_at = (self.behind.len() * 2).max(64);
        }
    }
}

struct Waiter {
    until: Option<Instant>,
    told: oneshot::Sender<InLine>,
}

/// How standing in line ended.
pub(super) enum InLine {
    /// First: ask Redis.
    First(Place),
    /// The lock is kept until then, which is longer than the wait.
    Kept(Instant),
    /// The store did not answer the first in line.
    Failed(String),
    /// The wait is over.
    TooLate,
}

impl Lines {
    /// Stands in line for `key` until first, or until `until`.
    pub(super) async fn stand(&self, key: &[u8], until: Option<Instant>) -> InLine {
        let told = {
            let mut lines = self.lines();
            let Some(line) = lines.get_mut(key) else {
                lines.insert(key.to_vec(), Line::default());
                return InLine::First(self.place(key));
            };
            let (told, hears) = oneshot::channel();
            line.sweep();
            line.behind.push_back(Waiter { until, told });
            hears
        };
        let over = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // Lines are never dropped with somebody in them.
            told = told => told.unwrap_or(InLine::TooLate),
            () = over => InLine::TooLate,
        }
    }

    fn place(&self, key: &[u8]) -> Place {
        Place {
            lines: self.clone(),
            key: key.to_vec(),
            taken: true,
        }
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Line>> {
        // Held for a few operations of the map, and never across an await.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first place in a line. Dropping it lets the next one step forward.
pub(super) struct Place {
    lines: Lines,
    key: Vec<u8>,
    /// Whether this is the place, and not one that nobody took.
    taken: bool,
}

impl Place {
    /// Tells those in line who cannot wait until `ends` that they wait in vain.
    pub(super) fn tell_kept(&self, ends: Instant) {
        let mut lines = self.lines.lines();
        let Some(line) = lines.get_mut(&self.key) else {
            return;
        };
        let in_vain = |waiter: &Waiter| waiter.until.is_some_and(|until| until < ends);
        let (losing, waiting) = std::mem::take(&mut line.behind)
            .into_iter()
            .partition::<VecDeque<_>, _>(in_vain);
        line.behind = waiting;
        for loser in losing {
            let _ = loser.told.send(InLine::Kept(ends));
        }
    }

    /// Tells all in line that the store does not answer.
    pub(super) fn tell_failed(&self, why: &str) {
        let mut lines = self.lines.lines();
        if let Some(line) = lines.get_mut(&self.key) {
            for waiter in line.behind.drain(..) {
                let _ = waiter.told.send(InLine::Failed(why.to_owned()));
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.taken {
            return;
        }
        let mut lines = self.lines.lines();
        let Some(line) = lines.get_mut(&self.key) else {
            return;
        };
        while let Some(next) = line.behind.pop_front() {
            if next.told.is_closed() {
                continue;
            }
            let place = self.lines.place(&self.key);
            match next.told.send(InLine::First(place)) {
                Err(InLine::First(mut place)) => {
                    // It left in this moment, and the place comes back. Dropped as it is, it
                    // would lock the lines a second time.
                    place.taken = false;
                }
                _ => return,
            }
        }
        lines.remove(&self.key);
    }
}
