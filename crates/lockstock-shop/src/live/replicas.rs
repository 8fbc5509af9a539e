//! Frames from and for other servers, over the store that they share.
//!
//! A server subscribes while it has subscribers itself, and publishes while another one is subscribed.
//! It asks for that once a second, and only if its locks are in use.

use std::time::Duration;

use bytes::Bytes;
use lockstock::{HolderId, Subscription};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep};
use tracing::{debug, warn};

use super::Live;
use super::clock::Moment;
use super::wire::{Event, EventKind, Frame, LockStatus};

/// The topic of the frames: the channel `lockstock:board`, in another database than 0 with its number.
const TOPIC: &str = "board";
/// Time between two questions whether another server watches.
const QUESTION_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after an error of the store.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Time between two checks of the connection on which frames are received.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum size of a received frame. Those of servers are far smaller.
const MAX_FRAME_BYTES: usize = 1 << 20;
/// Number of frames that wait to be published.
pub(super) const MAX_UNPUBLISHED: usize = 8;

impl Live {
    /// Asks regularly whether other servers watch. Never ends.
    pub(super) async fn ask_who_watches(&self) {
        let inner = &self.0;
        loop {
            sleep(QUESTION_INTERVAL).await;
            let is_in_use = inner.table.take_activity();
            let watched = *inner.watched.borrow();
            if !is_in_use && !watched.elsewhere {
                continue;
            }
            match inner.store.subscribers(TOPIC).await {
                Ok(subscribers) => {
                    let own = usize::from(*inner.is_subscribed.borrow());
                    inner.set_watched(|watched, _| watched.elsewhere = subscribers > own);
                }
                Err(error) => {
                    debug!(%error, "whether other servers watch is unknown");
                    inner.set_watched(|watched, _| watched.elsewhere = false);
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Publishes frames. Never ends.
    pub(super) async fn publish(&self, mut frames: mpsc::Receiver<Bytes>) {
        while let Some(frame) = frames.recv().await {
            if let Err(error) = self.0.store.publish(TOPIC, frame).await {
                debug!(%error, "a frame was not published");
            }
        }
    }

    /// Receives the frames of other servers while this one has subscribers. Never ends.
    pub(super) async fn receive(&self) {
        let mut has_warned = false;
        loop {
            self.until(|watched| watched.here).await;
            match self.0.store.subscribe(TOPIC).await {
                Ok(subscription) => {
                    has_warned = false;
                    self.0.is_subscribed.send_replace(true);
                    tokio::select! {
                        () = self.receive_from(subscription) => {}
                        () = self.until(|watched| !watched.here) => {}
                    }
                    self.0.is_subscribed.send_replace(false);
                }
                Err(error) => {
                    // Once: a user without the right to subscribe lacks it for long.
                    match std::mem::replace(&mut has_warned, true) {
                        false => warn!(%error, "events of other servers are not received"),
                        true => debug!(%error, "events of other servers are not received"),
                    }
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Receives frames until the subscription ends.
    async fn receive_from(&self, mut subscription: Subscription) {
        let mut checks = interval(CHECK_INTERVAL);
        loop {
            tokio::select! {
                message = subscription.next() => match message {
                    Some(message) => self.received(&message),
                    None => return,
                },
                _ = checks.tick() => if !subscription.is_alive().await {
                    return;
                },
            }
        }
    }

    /// Reports a forced release, here and to the server whose lock it was.
    pub(super) async fn report_forced(&self, name: &str, holder: HolderId) {
        let inner = &self.0;
        let frame = {
            let mut known = inner.known();
            let now = Moment::now();
            if inner.table.forced(name, holder) {
                // The next frame has it.
                return;
            }
            known.forget_holder(name, &holder.to_string());
            let event = Event {
                at: now.epoch_ms,
                kind: EventKind::Forced,
                holder: Some(holder.to_string()),
                ..Event::default()
            };
            let frame = Frame {
                locks: vec![LockStatus {
                    name: name.to_owned(),
                    product: inner.table.product_locks().product(name),
                    events: vec![event],
                    ..LockStatus::default()
                }],
                ..inner.frame(now)
            };
            inner.send_here(&frame);
            serde_json::to_vec(&frame).unwrap_or_default()
        };
        if let Err(error) = inner.store.publish(TOPIC, frame).await {
            debug!(%error, "a forced release was not published");
        }
    }

    fn received(&self, message: &[u8]) {
        let inner = &self.0;
        // A line break would end the event.
        if message.len() > MAX_FRAME_BYTES || message.contains(&b'\n') || message.contains(&b'\r') {
            return;
        }
        let frame = match serde_json::from_slice::<Frame>(message) {
            Ok(frame) => frame,
            Err(error) => return debug!(%error, "a received frame is malformed"),
        };
        if frame.server == inner.server {
            return;
        }
        let mut known = inner.known();
        known.add_frame(&frame, Instant::now());
        for (lock, event) in forced(&frame) {
            let id = event.holder.as_deref().unwrap_or_default();
            known.forget_holder(lock, id);
            if let Ok(holder) = id.parse() {
                inner.table.forced(lock, holder);
            }
        }
        if inner.watched.borrow().here {
            inner.ring.push(message);
        }
    }
}

/// Returns the forced releases in a frame, each with the name of its lock.
fn forced(frame: &Frame) -> impl Iterator<Item = (&str, &Event)> {
    frame.locks.iter().flat_map(|lock| {
        let events = lock.events.iter();
        let forced = events.filter(|event| event.kind == EventKind::Forced);
        forced.map(|event| (&*lock.name, event))
    })
}
