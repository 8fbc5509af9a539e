//! Reports the requests that want the lock of a product to the live board.

use std::sync::Arc;

use axum::http::request::Parts;
use lockstock_http::{LockEvent, LockObservation, LockObserver};

use crate::access::Authenticated;
use crate::forwarding::Forwarding;
use crate::http::request_context::RequestId;
use crate::live::wire::EventKind;
use crate::live::{Followed, Live, Requester};

/// The observer of the update lock.
pub(crate) struct LiveObserver {
    pub(crate) live: Live,
    pub(crate) forwarding: Arc<Forwarding>,
}

impl LockObserver for LiveObserver {
    fn begin(&self, lock: &str, request: &Parts) -> Option<Box<dyn LockObservation>> {
        let requester = || Requester {
            request: request
                .extensions
                .get::<RequestId>()
                .map_or_else(|| "".into(), |id| id.0.clone()),
            caller: request
                .extensions
                .get::<Authenticated>()
                .map(|key| key.0.name.clone()),
            address: self
                .forwarding
                .client(&request.extensions, &request.headers),
        };
        let followed = self.live.follow(lock, requester)?;
        Some(Box::new(Observation(followed)))
    }
}

struct Observation(Followed);

impl LockObservation for Observation {
    fn event(&mut self, event: LockEvent<'_>) {
        let Self(followed) = self;
        match event {
            LockEvent::Granted(guard) => followed.granted(guard),
            LockEvent::Rejected { kept, retry_after } => followed.rejected(kept, retry_after),
            LockEvent::Released => followed.ended(EventKind::Released),
            LockEvent::Kept => followed.ended(EventKind::Kept),
            LockEvent::Lost => followed.ended(EventKind::Lost),
            _ => followed.failed(),
        }
    }
}
