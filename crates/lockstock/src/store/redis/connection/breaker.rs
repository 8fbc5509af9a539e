//! Circuit breaker of one server: once a call has timed out, later calls fail at once instead of
//! after a timeout each.
//!
//! Guarantees: while the server does not reply, at most one call per [`PROBE_INTERVAL`] waits for
//! it, besides those that were sent before the first one timed out. A reply to any call ends that.
//!
//! Not guaranteed: that a refused call would have failed. A server that was busy for longer than the
//! timeout replies to the next `PING`; until then its calls are refused.
//!
//! A refused connection and the error of a server do not open the breaker: both cost a round trip.
//! A call that was cancelled has no effect on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

/// While the breaker is open, one call per interval is admitted.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// The state of a breaker that admits all calls.
const CLOSED: u64 = 0;

#[derive(Debug)]
pub(crate) struct Breaker {
    /// For messages.
    address: String,
    created_at: Instant,
    /// [`CLOSED`], or when the next call is admitted, in milliseconds since `created_at`.
    next_probe_ms: AtomicU64,
}

/// The right to make one call, which ends with its outcome. A permit that is dropped has no effect.
#[derive(Debug)]
pub(crate) struct Permit<'a>(&'a Breaker);

impl Breaker {
    pub(crate) fn new(address: String) -> Self {
        Self {
            address,
            created_at: Instant::now(),
            next_probe_ms: AtomicU64::new(CLOSED),
        }
    }

    /// Admits a call, or returns how long no call will be admitted.
    pub(crate) fn admit(&self) -> Result<Permit<'_>, Duration> {
        match self.next_probe_ms.load(Ordering::Relaxed) {
            CLOSED => Ok(Permit(self)),
            _ => self.admit_probe(),
        }
    }

    /// Admits a call that must be sent even if there will be no reply in time.
    pub(crate) fn admit_always(&self) -> Permit<'_> {
        Permit(self)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.next_probe_ms.load(Ordering::Relaxed) != CLOSED
    }

    #[cold]
    fn admit_probe(&self) -> Result<Permit<'_>, Duration> {
        let now_ms = self.now_ms();
        // Claimed by time, so that a probe that is cancelled leaves nothing to undo.
        let claim = |next_ms| {
            let is_due = next_ms != CLOSED && next_ms <= now_ms;
            is_due.then_some(now_ms + as_millis(PROBE_INTERVAL))
        };
        let order = Ordering::Relaxed;
        match self.next_probe_ms.fetch_update(order, order, claim) {
            Ok(_) | Err(CLOSED) => Ok(Permit(self)),
            Err(next_ms) => Err(Duration::from_millis(next_ms - now_ms)),
        }
    }

    /// Admits all calls: the server has replied.
    pub(crate) fn close(&self) {
        if self.is_open() && self.next_probe_ms.swap(CLOSED, Ordering::Relaxed) != CLOSED {
            info!(address = self.address, "the store replies again");
        }
    }

    /// Refuses calls: the server has not replied in time.
    pub(crate) fn open(&self) {
        let next_ms = self.now_ms() + as_millis(PROBE_INTERVAL);
        if self.next_probe_ms.fetch_max(next_ms, Ordering::Relaxed) == CLOSED {
            warn!(address = self.address, "the store does not reply");
        }
    }

    fn now_ms(&self) -> u64 {
        as_millis(self.created_at.elapsed())
    }
}

impl Permit<'_> {
    /// Records a reply, which may be an error.
    pub(crate) fn succeeded(self) {
        self.0.close();
    }

    /// Records that there was no reply within the timeout of the store.
    pub(crate) fn failed(self) {
        self.0.open();
    }
}

fn as_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_open_breaker_admits_one_call_per_interval() {
        let breaker = Breaker::new("test".to_owned());
        breaker.admit().unwrap().failed();
        assert_eq!(breaker.admit().unwrap_err(), PROBE_INTERVAL);
        advance(PROBE_INTERVAL / 4).await;
        assert_eq!(breaker.admit().unwrap_err(), PROBE_INTERVAL * 3 / 4);
        for _ in 0..3 {
            advance(PROBE_INTERVAL).await;
            {
                // Cancelled.
                let _probe = breaker.admit().unwrap();
                assert_eq!(breaker.admit().unwrap_err(), PROBE_INTERVAL);
            }
            assert_eq!(breaker.admit().unwrap_err(), PROBE_INTERVAL);
        }
        breaker.admit_always().succeeded();
        breaker.admit().unwrap();
        breaker.admit().unwrap();
        assert!(!breaker.is_open());
    }

    #[test]
    fn one_of_many_threads_is_admitted() {
        let breaker = Breaker::new("test".to_owned());
        breaker.open();
        // The interval is over.
        breaker.next_probe_ms.store(1, Ordering::Relaxed);
        while breaker.now_ms() < 1 {}
        let admitted = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| breaker.admit().is_ok()))
                .collect();
            let admitted = threads.into_iter().map(|thread| thread.join().unwrap());
            admitted.filter(|admitted| *admitted).count()
        });
        assert_eq!(admitted, 1);
    }
}
