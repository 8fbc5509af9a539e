//! The stream of one subscriber.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Live;
use super::ring::{Found, Latest};

/// Pause after which a comment shows the client, and proxies, that the stream is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a client waits before it connects again, and the first event of every stream.
const RETRY: &[u8] = b"retry: 2000\n\n";
const COMMENT: &[u8] = b": \n\n";
const RESET: &[u8] = b"event: reset\ndata: {}\n\n";
const BYE: &[u8] = b"event: bye\ndata: {}\n\n";

/// A place among the subscribers, which is free when it is dropped.
pub(super) struct Place(pub(super) Arc<super::Inner>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.leave();
    }
}

struct Subscriber {
    live: Live,
    latest: watch::Receiver<Latest>,
    /// The next frame to send. `None` before the snapshot.
    position: Option<u64>,
    /// What to send before anything else.
    first: Option<&'static [u8]>,
    /// Whether all frames have been sent once: from then on, the client has to keep up.
    has_caught_up: bool,
    is_done: bool,
    _place: Place,
}

/// Returns the events for a subscriber: a snapshot, or the frames after that with the id
/// `last_event_id`, and then each frame.
pub(super) fn stream(
    live: Live,
    place: Place,
    last_event_id: Option<&str>,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send + 'static {
    let ring = &live.0.ring;
    let subscriber = Subscriber {
        latest: ring.subscribe(),
        position: last_event_id.and_then(|id| ring.position_after(id)),
        first: Some(RETRY),
        has_caught_up: false,
        is_done: false,
        live,
        _place: place,
    };
    unfold(subscriber, |mut subscriber| async move {
        let event = subscriber.next().await?;
        Some((Ok(event), subscriber))
    })
}

impl Subscriber {
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_done {
            return None;
        }
        if let Some(first) = self.first.take() {
            return Some(Bytes::from_static(first));
        }
        loop {
            if self.latest.borrow_and_update().is_closed {
                self.is_done = true;
                return Some(Bytes::from_static(BYE));
            }
            let ring = &self.live.0.ring;
            let Some(position) = self.position else {
                let (snapshot, position) = self.live.snapshot().await;
                self.position = Some(position);
                return Some(snapshot);
            };
            if self.has_caught_up && ring.is_too_slow(position) {
                return Some(self.reset());
            }
            match ring.find(position) {
                Found::Frame(frame) => {
                    self.position = Some(position + 1);
                    return Some(frame);
                }
                Found::Gone => return Some(self.reset()),
                Found::Nothing => self.has_caught_up = true,
            }
            if timeout(KEEP_ALIVE, self.latest.changed()).await.is_err() {
                return Some(Bytes::from_static(COMMENT));
            }
        }
    }

    /// Returns the event after which the client forgets what it has, and prepares a snapshot.
    fn reset(&mut self) -> Bytes {
        (self.position, self.has_caught_up) = (None, false);
        Bytes::from_static(RESET)
    }
}

#[cfg(test)]
mod tests;
