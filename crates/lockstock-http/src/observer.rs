//! What happens to the requests of a [`LockLayer`](crate::LockLayer), for a page or a log of locks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use lockstock::Guard;

/// Follows the requests of a [`LockLayer`](crate::LockLayer): see
/// [`observed_by`](crate::LockLayer::observed_by). Called on the path of the requests, so it must not
/// block.
pub trait LockObserver: Send + Sync + 'static {
    /// Begins to follow a request that is about to acquire the lock called `lock`. With `None` the
    /// request is not followed.
    fn begin(&self, lock: &str, request: &Parts) -> Option<Box<dyn LockObservation>>;
}

/// Follows one request. It is dropped after the last event of the request. If it is dropped before the
/// first one, the client has disconnected, or the request got a recorded response; if after
/// [`LockEvent::Granted`] alone, the handler has panicked, and the lock is released.
pub trait LockObservation: Send {
    /// Receives an event.
    fn event(&mut self, event: LockEvent<'_>);
}

/// An event of a request that wants a lock.
#[derive(Debug)]
#[non_exhaustive]
pub enum LockEvent<'a> {
    /// The request holds the lock, and its handler begins.
    Granted(&'a Guard),
    /// The request is rejected, because another one has the lock.
    Rejected {
        /// Whether the lock is kept after a success.
        kept: bool,
        /// Time after which a retry can succeed.
        retry_after: Duration,
    },
    /// The lock is released.
    Released,
    /// The lock is kept to the end of its lease.
    Kept,
    /// The lock was lost before it was released or kept.
    Lost,
    /// The store did not reply. If the lock was granted before, it is taken until its lease ends.
    Failed,
}

/// The observer of a layer, if it has one.
#[derive(Clone, Default)]
pub(crate) struct Observer(Option<Arc<dyn LockObserver>>);

impl Observer {
    pub(crate) fn new(observer: Arc<dyn LockObserver>) -> Self {
        Self(Some(observer))
    }

    pub(crate) fn begin(&self, lock: &str, request: &Parts) -> Observation {
        let observer = self.0.as_ref();
        Observation(observer.and_then(|observer| observer.begin(lock, request)))
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// The observation of a request, if it is followed.
pub(crate) struct Observation(Option<Box<dyn LockObservation>>);

impl Observation {
    pub(crate) fn event(&mut self, event: LockEvent<'_>) {
        if let Some(observation) = &mut self.0 {
            observation.event(event);
        }
    }
}
