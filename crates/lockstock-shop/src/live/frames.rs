//! Frames: what has changed, at most five times a second.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::clock::Moment;
use super::known::MAX_PRODUCTS;
use super::wire::{Frame, ProductStatus};
use super::{Inner, Live};

/// Shortest time between two frames.
const FRAME_INTERVAL: Duration = Duration::from_millis(200);
/// Time of all subscribers together in which one frame is sent to one of them, on average: 2,000 are
/// sent in a second. With more than 400 subscribers frames come less often, so that requests keep the
/// processor.
const DELIVERY_INTERVAL: Duration = Duration::from_micros(500);
/// How long frames are made after the last subscriber has left. One that comes back meanwhile, after
/// a page was loaded again or a connection broke, misses nothing.
const LINGER: Duration = Duration::from_secs(5);
/// Maximum number of products that are read for one frame. The others are in the next ones.
const MAX_READS_PER_FRAME: usize = 20;

impl Live {
    /// Makes frames while anybody watches. Never ends.
    pub(super) async fn make_frames(&self) {
        loop {
            self.until(|watched| watched.anywhere()).await;
            let mut watched_at = Instant::now();
            let mut next = watched_at;
            while self.0.watched.borrow().anywhere() {
                sleep_until(next).await;
                let now = Instant::now();
                let watchers = self.0.watchers.load(std::sync::atomic::Ordering::Acquire);
                if watchers > 0 {
                    watched_at = now;
                } else if watched_at + LINGER <= now {
                    // A subscriber may have come at this moment.
                    self.0
                        .set_watched(|watched, watchers| watched.here = watchers > 0);
                }
                next = now + frame_interval(watchers);
                let products = self.read_changed_products().await;
                self.0.make_frame(products);
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
    fn make_frame(&self, products: Vec<ProductStatus>) {
        let mut known = self.known();
        let now = Moment::now();
        let (locks, episodes) = self.table.take_changes(&self.server, now);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_subscribers_get_fewer_frames() {
        assert_eq!(frame_interval(0), FRAME_INTERVAL);
        assert_eq!(frame_interval(400), FRAME_INTERVAL);
        assert_eq!(frame_interval(2000), Duration::from_secs(1));
    }
}
