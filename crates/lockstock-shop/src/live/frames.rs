//! Frames: what has changed, at most five times a second.

use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::clock::Moment;
use super::known::MAX_PRODUCTS;
use super::table::FrameLimits;
use super::wire::{Frame, ProductStatus};
use super::{Inner, Live};

/// Shortest time between two frames.
const FRAME_INTERVAL: Duration = Duration::from_millis(200);
/// Time of all subscribers together in which one frame is sent to one of them, on average: 1,000 are
/// sent in a second. With more than 200 subscribers frames come less often, so that requests keep the
/// processor.
const DELIVERY_INTERVAL: Duration = Duration::from_millis(1);
/// Maximum number of bytes that are sent in a second to all subscribers together, about.
const MAX_BYTES_PER_SECOND: f64 = 8e6;
/// Size of a lock in a frame, with its share of events and ended holds, about.
const BYTES_PER_LOCK: f64 = 800.0;
/// Number of locks in a frame, and of events for each of them.
const LOCKS: RangeInclusive<usize> = 10..=500;
const EVENTS_PER_LOCK: usize = 2;
/// How long frames are made after the last subscriber has left. One that comes back meanwhile, after
/// a page was loaded again or a connection broke, misses nothing.
const LINGER: Duration = Duration::from_secs(5);
/// Maximum number of products that are read for one frame. The others are in the next ones.
const MAX_READS_PER_FRAME: usize = 20;

impl Live {
    /// Makes frames while there is a subscriber, here or elsewhere. Never ends.
    pub(super) async fn make_frames(&self) {
        loop {
            self.until(|watched| watched.anywhere()).await;
            let mut watched_at = Instant::now();
            let mut next = watched_at;
            while self.0.watched.borrow().anywhere() {
                sleep_until(next).await;
                let now = Instant::now();
                let watchers = self.0.watchers.load(Ordering::Acquire);
                if watchers > 0 {
                    watched_at = now;
                } else if watched_at + LINGER <= now {
                    // A subscriber may have come at this moment.
                    self.0
                        .set_watched(|watched, watchers| watched.here = watchers > 0);
                }
                let interval = frame_interval(watchers);
                next = now + interval;
                let products = self.read_changed_products().await;
                self.0
                    .make_frame(products, frame_limits(watchers, interval));
            }
        }
    }

    async fn read_changed_products(&self) -> Vec<ProductStatus> {
        let ids: Vec<i64> = {
            let mut changed = self.0.changed_products();
            let count = changed.len().min(MAX_READS_PER_FRAME);
            changed.drain(..count).collect()
        };
        let mut products = Vec::with_capacity(ids.len());
        for id in ids {
            match self.0.storage.get(id).await {
                Ok(Some(product)) => products.push(ProductStatus::from(&product)),
                Ok(None) => products.push(ProductStatus::deleted(id)),
                // The next look at all products corrects it.
                Err(error) => debug!(%error, id, "a changed product was not read"),
            }
        }
        products
    }

    /// Notes that a product was written, after the commit.
    pub(crate) fn product_changed(&self, id: i64) {
        self.0.table.note_activity();
        if !self.0.table.is_watched() {
            return;
        }
        let mut changed = self.0.changed_products();
        if changed.len() < MAX_PRODUCTS && !changed.contains(&id) {
            changed.push_back(id);
        }
    }
}

impl Inner {
    fn make_frame(&self, products: Vec<ProductStatus>, limits: FrameLimits) {
        let mut known = self.known();
        let now = Moment::now();
        let (locks, episodes) = self.table.take_changes(&self.server, now, limits);
        known.add_products(&products);
        self.send(&Frame {
            locks,
            products,
            episodes,
            ..self.frame(now)
        });
    }

    /// Returns a frame of this server without content.
    pub(super) fn frame(&self, now: Moment) -> Frame {
        Frame {
            at: now.epoch_ms,
            server: self.server.clone(),
            ..Frame::default()
        }
    }

    /// Sends a frame to all who watch, unless it is empty. `known` is locked meanwhile.
    fn send(&self, frame: &Frame) {
        let Some(json) = to_json(frame) else {
            return;
        };
        let watched = *self.watched.borrow();
        if watched.here {
            self.ring.push(&json);
        }
        if watched.elsewhere {
            // If the store is too slow for it, the frame is lost there.
            let _ = self.outbox.try_send(json.into());
        }
    }

    /// Sends a frame to the subscribers of this server, unless it is empty. `known` is locked meanwhile.
    pub(super) fn send_here(&self, frame: &Frame) {
        if self.watched.borrow().here
            && let Some(json) = to_json(frame)
        {
            self.ring.push(&json);
        }
    }
}

fn to_json(frame: &Frame) -> Option<Vec<u8>> {
    if frame.is_empty() {
        return None;
    }
    let json = serde_json::to_vec(frame);
    json.inspect_err(|error| debug!(%error, "a frame was not serialized"))
        .ok()
}

/// Returns the time between two frames.
fn frame_interval(watchers: usize) -> Duration {
    let watchers = u32::try_from(watchers).unwrap_or(u32::MAX);
    FRAME_INTERVAL.max(DELIVERY_INTERVAL.saturating_mul(watchers))
}

/// Returns what a frame may contain, so that it is not too large for so many subscribers.
fn frame_limits(watchers: usize, interval: Duration) -> FrameLimits {
    let bytes = MAX_BYTES_PER_SECOND * interval.as_secs_f64() / watchers.max(1) as f64;
    let locks = (bytes / BYTES_PER_LOCK) as usize;
    let locks = locks.clamp(*LOCKS.start(), *LOCKS.end());
    FrameLimits {
        locks,
        events: locks * EVENTS_PER_LOCK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_subscribers_get_fewer_and_smaller_frames() {
        assert_eq!(frame_interval(0), FRAME_INTERVAL);
        assert_eq!(frame_interval(200), FRAME_INTERVAL);
        assert_eq!(frame_interval(2000), Duration::from_secs(2));
        let limits = |watchers| frame_limits(watchers, frame_interval(watchers)).locks;
        assert_eq!(limits(1), 500);
        assert_eq!(limits(2000), 10);
    }
}
