//! Looks into the store and the database, which find what no frame contains: the locks of other
//! programs, and what was missed.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::debug;

use super::Live;
use super::clock::Moment;
use super::known::MAX_PRODUCTS;
use super::wire::{LockStatus, ProductStatus};
use crate::storage::ProductQuery;

/// Shortest time between two looks.
const INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of keys that a look visits on each server of the store, some 100 ms.
const MAX_KEYS: usize = 100_000;

impl Live {
    /// Looks regularly while this server has subscribers. Never ends.
    pub(super) async fn look_regularly(&self) {
        loop {
            self.until(|watched| watched.here).await;
            self.look().await;
            sleep(INTERVAL).await;
        }
    }

    /// Looks into the store and the database, unless that was done lately.
    pub(super) async fn look(&self) {
        let inner = &self.0;
        let mut looked_at = inner.looked_at.lock().await;
        if looked_at.is_some_and(|at| at.elapsed() < INTERVAL) {
            return;
        }
        let query = ProductQuery::default();
        let (locks, products) = tokio::join!(
            inner.store.locks_among(MAX_KEYS),
            inner.storage.list(&query, MAX_PRODUCTS as i64, 0),
        );
        *looked_at = Some(Instant::now());
        let now = Moment::now();
        let mut known = inner.known();
        let mut frame = inner.frame(now);
        match locks {
            Ok(listing) => {
                let products = inner.table.product_locks();
                let locks = listing.locks.iter();
                let locks = locks.filter_map(|info| LockStatus::of_store(info, products, now));
                let is_complete = listing.is_complete;
                frame.locks = known.set_found(
                    locks.collect(),
                    is_complete,
                    inner.recorded_server(),
                    now.instant,
                );
            }
            Err(error) => {
                debug!(%error, "the locks of the store were not listed");
                known.set_incomplete();
            }
        }
        match products {
            Ok(products) => {
                let products = products.iter().map(ProductStatus::from).collect();
                frame.products = known.set_products(products);
            }
            Err(error) => debug!(%error, "the products were not listed"),
        }
        inner.send_here(&frame);
    }
}
