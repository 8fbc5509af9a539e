//! What happens to the locks and products, now: for the board and other clients of the stream.
//!
//! Requests report to a table of the locks of this process (`table.rs`). While there is a subscriber,
//! a task takes what has changed out of it, at most five times a second, and adds it as one frame to a
//! ring (`ring.rs`), from which all subscribers read (`subscription.rs`). What other servers and other
//! programs hold is in `known.rs`.
//!
//! Guarantees: the memory is bounded, whatever the clients do; a subscriber that does not read delays
//! neither a request nor another subscriber; without a subscriber, nothing is sent to the store or read
//! from the database.
//!
//! Not guaranteed: that each event is shown. A lock with more than 50 events a second has counts
//! instead, and a table that is full ignores further locks.

mod clock;
mod known;
mod ring;
mod subscription;
mod table;
pub(crate) mod wire;

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use lockstock::{HolderId, LockKind, Store};
use metrics::{counter, gauge};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;

use self::clock::Moment;
use self::known::{Known, MAX_EPISODES, MAX_PRODUCTS, server_name};
use self::ring::Ring;
use self::subscription::Place;
pub(crate) use self::table::{Followed, LockTable, ProductLocks, Requester};
use self::wire::{Episode, Frame, LockList, LockStatus, ProductState, ProductStatus, Snapshot};
use crate::storage::{Product, ProductQuery, Storage};

/// Shortest time between two frames.
const FRAME_INTERVAL: Duration = Duration::from_millis(200);
/// Maximum number of frames that are sent in a second, to all subscribers together. With more than 400
/// subscribers frames come less often.
const MAX_DELIVERIES_PER_SECOND: usize = 2000;
/// How long frames are made after the last subscriber has left. One that comes back meanwhile, after
/// a page was loaded again or a connection broke, misses nothing.
const LINGER: Duration = Duration::from_secs(5);
/// Shortest time between two looks into the store.
const WALK_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of keys that are visited by a look into the store.
const MAX_KEYS: usize = 100_000;
/// Maximum number of products that are read for one frame. The others are in the next ones.
const MAX_READS_PER_FRAME: usize = 20;

/// The live state of locks and products. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Live(Arc<Inner>);

struct Inner {
    /// The name of this server.
    server: String,
    store: Store,
    storage: Arc<dyn Storage>,
    table: Arc<LockTable>,
    ring: Ring,
    /// Locked while a frame is made and while a snapshot is taken, so that each change is in one of
    /// them.
    known: Mutex<Known>,
    max_watchers: usize,
    watchers: AtomicUsize,
    /// Whether frames are made.
    is_watched: AtomicBool,
    /// Notified when frames are to be made.
    is_watched_now: Notify,
    changed_products: Mutex<ChangedProducts>,
    /// When the last look into the store ended. Locked during a look: concurrent callers share it.
    walked_at: tokio::sync::Mutex<Option<Instant>>,
}

/// Ids of products that have changed since they were last read.
#[derive(Default)]
struct ChangedProducts {
    in_order: VecDeque<i64>,
    ids: HashSet<i64>,
}

/// Why there is no stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoStream {
    /// As many subscribers as are allowed.
    Full,
    /// The server is shutting down.
    Closed,
}

/// Outcome of a forced release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ForcedRelease {
    Released,
    /// The lock has no holder.
    NotHeld,
    /// Another holder has it.
    OtherHolder,
}

impl Live {
    /// `max_watchers` is the number of streams that may be open. With zero, nothing is collected.
    pub(crate) fn new(
        store: Store,
        storage: Arc<dyn Storage>,
        product_locks: ProductLocks,
        max_watchers: usize,
    ) -> Self {
        Self(Arc::new(Inner {
            server: server_name(&store.client_id()),
            store,
            storage,
            table: Arc::new(LockTable::new(product_locks)),
            ring: Ring::new(),
            known: Mutex::default(),
            max_watchers,
            watchers: AtomicUsize::new(0),
            is_watched: AtomicBool::new(false),
            is_watched_now: Notify::new(),
            changed_products: Mutex::default(),
            walked_at: tokio::sync::Mutex::new(None),
        }))
    }

    /// Begins to follow a request that wants a lock, unless it cannot be shown.
    pub(crate) fn follow(&self, lock: &str, requester: impl FnOnce() -> Requester) -> Option<Followed> {
        if self.0.max_watchers == 0 {
            return None;
        }
        self.0.table.begin(lock, requester())
    }

    /// Notes that a product was written, after the commit.
    pub(crate) fn product_changed(&self, id: i64) {
        if !self.0.is_watched.load(Ordering::Relaxed) {
            return;
        }
        let mut changed = self.0.changed_products();
        if changed.in_order.len() < MAX_PRODUCTS && changed.ids.insert(id) {
            changed.in_order.push_back(id);
        }
    }

    /// Returns a stream of events, from the one after `last_event_id` if that is known.
    pub(crate) fn subscribe(
        &self,
        last_event_id: Option<&str>,
    ) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static, NoStream> {
        if self.0.ring.is_closed() {
            return Err(NoStream::Closed);
        }
        let place = self.enter().ok_or(NoStream::Full)?;
        Ok(subscription::stream(self.clone(), place, last_event_id))
    }

    /// Ends all streams, and rejects further ones.
    pub(crate) fn close(&self) {
        self.0.ring.close();
    }

    /// Returns the locks that are held, kept or waited for.
    pub(crate) async fn list(&self) -> LockList {
        self.walk().await;
        let mut known = self.0.known();
        self.0.list(&mut known, Moment::now())
    }

    /// Returns one lock, if it is held, kept or waited for, without a scan of the store.
    pub(crate) async fn lock(&self, name: &str) -> lockstock::Result<LockList> {
        let found = self.0.store.lock_info(LockKind::Lock, name).await?;
        let now = Moment::now();
        let products = self.0.table.product_locks();
        let found = found.and_then(|info| LockStatus::of_store(&info, products, now));
        let mut list = {
            let mut known = self.0.known();
            self.0.list(&mut known, now)
        };
        list.complete = true;
        list.locks.retain(|lock| lock.name == name);
        if let Some(found) = found {
            match list.locks.first_mut() {
                // The store knows who holds it now, and this server who that is.
                Some(lock) => lock.update_from(found),
                None => list.locks.push(found),
            }
        }
        Ok(list)
    }

    /// Returns the holds that ended in the last five minutes, the newest first.
    pub(crate) fn episodes(&self) -> Vec<Episode> {
        self.0.episodes(&mut self.0.known(), Moment::now())
    }

    /// Takes a lock away from `holder`.
    pub(crate) async fn force_release(
        &self,
        name: &str,
        holder: HolderId,
    ) -> lockstock::Result<ForcedRelease> {
        let store = &self.0.store;
        let released = store.force_release(LockKind::Lock, name, Some(holder));
        if released.await? {
            counter!("lockstock_forced_releases_total").increment(1);
            self.0.table.forced(name, holder);
            return Ok(ForcedRelease::Released);
        }
        let found = store.lock_info(LockKind::Lock, name).await?;
        Ok(match found.is_some_and(|info| !info.holders.is_empty()) {
            true => ForcedRelease::OtherHolder,
            false => ForcedRelease::NotHeld,
        })
    }

    /// Makes frames while there are subscribers. Never ends.
    pub(crate) async fn run(&self) -> Infallible {
        loop {
            self.wait_for_watchers().await;
            let walks = async {
                loop {
                    self.walk().await;
                    sleep(WALK_INTERVAL).await;
                }
            };
            tokio::select! {
                () = walks => {}
                () = self.make_frames() => {}
            }
        }
    }

    async fn wait_for_watchers(&self) {
        loop {
            let changed = self.0.is_watched_now.notified();
            if self.0.is_watched.load(Ordering::Relaxed) {
                return;
            }
            changed.await;
        }
    }

    /// Makes frames, until there has been no subscriber for a while.
    async fn make_frames(&self) {
        let mut watched_at = Instant::now();
        let mut next = watched_at;
        loop {
            sleep_until(next).await;
            let now = Instant::now();
            let watchers = self.0.watchers.load(Ordering::Acquire);
            if watchers > 0 {
                watched_at = now;
            } else if watched_at + LINGER <= now && self.0.stop_watching() {
                return;
            }
            next = now + frame_interval(watchers);
            let products = self.read_changed_products().await;
            self.0.make_frame(products);
        }
    }

    async fn read_changed_products(&self) -> Vec<ProductStatus> {
        let ids = {
            let mut changed = self.0.changed_products();
            let count = changed.in_order.len().min(MAX_READS_PER_FRAME);
            let ids: Vec<_> = changed.in_order.drain(..count).collect();
            for id in &ids {
                changed.ids.remove(id);
            }
            ids
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

    /// Returns a snapshot as an event, and the number of the frame that follows it.
    async fn snapshot(&self) -> (Bytes, u64) {
        self.walk().await;
        let mut known = self.0.known();
        self.0.ring.snapshot(|| {
            let now = Moment::now();
            Snapshot {
                products: known.products(),
                episodes: self.0.episodes(&mut known, now),
                list: self.0.list(&mut known, now),
            }
        })
    }

    /// Looks into the store and the database, unless that was done lately.
    async fn walk(&self) {
        let mut walked_at = self.0.walked_at.lock().await;
        if walked_at.is_some_and(|at| at.elapsed() < WALK_INTERVAL) {
            return;
        }
        let query = ProductQuery::default();
        let (locks, products) = tokio::join!(
            self.0.store.locks_among(MAX_KEYS),
            self.0.storage.list(&query, MAX_PRODUCTS as i64, 0),
        );
        *walked_at = Some(Instant::now());
        let (now, inner) = (Moment::now(), &self.0);
        let mut known = inner.known();
        let mut frame = inner.frame(now);
        match locks {
            Ok(listing) => {
                let products = inner.table.product_locks();
                let locks = listing.locks.iter();
                let locks = locks.filter_map(|info| LockStatus::of_store(info, products, now));
                let is_own = |server: &str| server == inner.server;
                frame.locks = known.set_walked(locks.collect(), listing.is_complete, is_own);
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
        if inner.is_watched.load(Ordering::Relaxed) {
            inner.push(&frame);
        }
    }

    /// Takes a place, if one is free.
    fn enter(&self) -> Option<Place> {
        let inner = &self.0;
        let before = inner.watchers.fetch_add(1, Ordering::AcqRel);
        if before >= inner.max_watchers {
            inner.watchers.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        gauge!("lockstock_watchers").increment(1);
        let place = Place(inner.clone());
        inner.start_watching();
        Some(place)
    }
}

/// Returns the time between two frames.
fn frame_interval(watchers: usize) -> Duration {
    let watchers = u32::try_from(watchers).unwrap_or(u32::MAX);
    let deliveries = Duration::from_secs(1) / MAX_DELIVERIES_PER_SECOND as u32;
    FRAME_INTERVAL.max(deliveries.saturating_mul(watchers))
}

impl Inner {
    fn leave(&self) {
        self.watchers.fetch_sub(1, Ordering::AcqRel);
        gauge!("lockstock_watchers").decrement(1);
    }

    fn start_watching(&self) {
        let _no_snapshot = self.known();
        if !self.is_watched.load(Ordering::Relaxed) {
            self.set_watched(true);
            self.is_watched_now.notify_one();
        }
    }

    /// Stops making frames. Returns `false` if there is a subscriber by now.
    fn stop_watching(&self) -> bool {
        let _no_snapshot = self.known();
        let is_left = self.watchers.load(Ordering::Acquire) == 0;
        if is_left {
            self.set_watched(false);
        }
        is_left
    }

    fn set_watched(&self, is_watched: bool) {
        self.is_watched.store(is_watched, Ordering::Relaxed);
        self.table.set_watched(is_watched);
        *self.changed_products() = ChangedProducts::default();
        // The frames before and after a pause are not one stream.
        self.ring.clear();
    }

    fn make_frame(&self, products: Vec<ProductStatus>) {
        let mut known = self.known();
        let now = Moment::now();
        let (locks, episodes) = self.table.take_changes(&self.server, now);
        known.add_products(&products);
        self.push(&Frame {
            locks,
            products,
            episodes,
            ..self.frame(now)
        });
    }

    fn frame(&self, now: Moment) -> Frame {
        Frame {
            at: now.epoch_ms,
            server: self.server.clone(),
            ..Frame::default()
        }
    }

    fn push(&self, frame: &Frame) {
        if frame.is_empty() {
            return;
        }
        match serde_json::to_vec(frame) {
            Ok(json) => self.ring.push(&json),
            Err(error) => debug!(%error, "a frame was not serialized"),
        }
    }

    fn list(&self, known: &mut Known, now: Moment) -> LockList {
        let own = self.table.statuses(&self.server, now);
        let mut servers = vec![self.server.clone()];
        servers.extend(known.servers(now.instant));
        LockList {
            at: now.epoch_ms,
            server: self.server.clone(),
            servers,
            complete: known.is_complete(),
            locks: known.locks(own, now),
        }
    }

    fn episodes(&self, known: &mut Known, now: Moment) -> Vec<Episode> {
        let mut episodes = self.table.episodes(now);
        episodes.extend(known.episodes(now).cloned());
        episodes.sort_by_key(|episode| std::cmp::Reverse(episode.to));
        episodes.truncate(MAX_EPISODES);
        episodes
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed_products(&self) -> MutexGuard<'_, ChangedProducts> {
        // Locked for a few operations on collections, never across an await.
        self.changed_products
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<&Product> for ProductStatus {
    fn from(product: &Product) -> Self {
        Self {
            id: product.id,
            deleted: false,
            state: Some(ProductState {
                name: product.name.clone(),
                price: product.price,
                stock: product.stock,
                reserved: product.held,
                available: product.stock_levels().available(),
                version: product.version,
            }),
        }
    }
}
