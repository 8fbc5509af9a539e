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
//! instead, and so have lone requests for which a frame has no room. A table that is full ignores further
//! locks.

mod clock;
mod frames;
mod known;
mod lock;
mod replicas;
mod ring;
mod subscription;
mod table;
mod walk;
mod watched;
pub(crate) mod wire;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::Stream;
use lockstock::{HolderId, LockInfo, LockKind, Store};
use metrics::counter;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::clock::Moment;
use self::known::{Known, MAX_EPISODES, server_name};
pub(crate) use self::lock::Requester;
use self::replicas::MAX_UNPUBLISHED;
use self::ring::Ring;
pub(crate) use self::table::{Followed, LockTable, ProductLocks};
use self::watched::Watched;
use self::wire::{Episode, LockList, LockStatus, ProductState, ProductStatus, Snapshot};
use crate::storage::{Product, Storage};

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
    /// Number of open streams.
    watchers: AtomicUsize,
    /// Changed by `set_watched` only.
    watched: watch::Sender<Watched>,
    /// Frames for other servers.
    outbox: mpsc::Sender<Bytes>,
    /// Taken by the task that publishes them.
    unpublished: Mutex<Option<mpsc::Receiver<Bytes>>>,
    /// Whether this server receives frames of others.
    is_subscribed: watch::Sender<bool>,
    /// Ids of products that have changed since they were last read.
    changed_products: Mutex<VecDeque<i64>>,
    /// When the last look into the store ended. Locked during a look: concurrent callers share it.
    looked_at: tokio::sync::Mutex<Option<Instant>>,
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
        let (outbox, unpublished) = mpsc::channel(MAX_UNPUBLISHED);
        Self(Arc::new(Inner {
            server: server_name(&store.client_id()),
            store,
            storage,
            table: Arc::new(LockTable::new(product_locks)),
            ring: Ring::new(),
            known: Mutex::default(),
            max_watchers,
            watchers: AtomicUsize::new(0),
            watched: watch::Sender::new(Watched::default()),
            outbox,
            unpublished: Mutex::new(Some(unpublished)),
            is_subscribed: watch::Sender::new(false),
            changed_products: Mutex::default(),
            looked_at: tokio::sync::Mutex::new(None),
        }))
    }

    /// Begins to follow a request that wants a lock, unless it cannot be shown.
    pub(crate) fn follow(
        &self,
        lock: &str,
        requester: impl FnOnce() -> Requester,
    ) -> Option<Followed> {
        if self.0.max_watchers == 0 {
            return None;
        }
        self.0.table.begin(lock, requester())
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
        self.look().await;
        let mut known = self.0.known();
        self.0.list(&mut known, Moment::now())
    }

    /// Returns one lock, if it is held, kept or waited for, without a scan of the store.
    pub(crate) async fn lock(&self, name: &str) -> lockstock::Result<LockList> {
        let found = self.lock_info(name).await?;
        let now = Moment::now();
        let products = self.0.table.product_locks();
        let found = found.and_then(|info| LockStatus::of_store(&info, products, now));
        let mut list = {
            let mut known = self.0.known();
            self.0.list(&mut known, now)
        };
        list.complete = true;
        list.locks.retain(|lock| lock.name == name);
        match (list.locks.first_mut(), found) {
            // The store has the holder, and this server its request.
            (Some(lock), found) => lock.update_from(found.unwrap_or_default()),
            (None, found) => list.locks.extend(found),
        }
        list.locks.retain(LockStatus::is_in_use);
        Ok(list)
    }

    /// Returns the holds that ended in the last five minutes, the newest first.
    pub(crate) fn episodes(&self) -> Vec<Episode> {
        self.0.episodes(&mut self.0.known(), Moment::now())
    }

    /// Returns the lock as it is in the store. `None` also for what is no name of a lock.
    async fn lock_info(&self, name: &str) -> lockstock::Result<Option<LockInfo>> {
        match self.0.store.lock_info(LockKind::Lock, name).await {
            Err(error) if error.is_invalid() => Ok(None),
            found => found,
        }
    }

    /// Takes a lock away from `holder`.
    pub(crate) async fn force_release(
        &self,
        name: &str,
        holder: HolderId,
    ) -> lockstock::Result<ForcedRelease> {
        let store = &self.0.store;
        let released = store.force_release(LockKind::Lock, name, Some(holder));
        let released = match released.await {
            // The name of no lock.
            Err(error) if error.is_invalid() => false,
            released => released?,
        };
        if released {
            counter!("lockstock_forced_releases_total").increment(1);
            self.report_forced(name, holder).await;
            return Ok(ForcedRelease::Released);
        }
        let found = self.lock_info(name).await?;
        Ok(match found.is_some_and(|info| !info.holders.is_empty()) {
            true => ForcedRelease::OtherHolder,
            false => ForcedRelease::NotHeld,
        })
    }

    /// Makes, publishes and receives frames while there are subscribers. Called once; never ends.
    pub(crate) async fn run(&self) -> Infallible {
        if self.0.max_watchers == 0 {
            return std::future::pending().await;
        }
        let unpublished = self.0.unpublished.lock();
        let unpublished = unpublished.unwrap_or_else(PoisonError::into_inner).take();
        let publish = async {
            if let Some(unpublished) = unpublished {
                self.publish(unpublished).await;
            }
        };
        tokio::join!(
            self.make_frames(),
            self.look_regularly(),
            self.ask_who_watches(),
            self.receive(),
            publish,
        );
        std::future::pending().await
    }

    /// Returns a snapshot as an event, and the number of the frame that follows it.
    async fn snapshot(&self) -> (Bytes, u64) {
        self.look().await;
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
}

impl Inner {
    fn list(&self, known: &mut Known, now: Moment) -> LockList {
        let own = self.table.statuses(&self.server, now);
        let mut servers = vec![self.server.clone()];
        servers.extend(known.servers(now.instant));
        LockList {
            at: now.epoch_ms,
            server: self.server.clone(),
            servers,
            complete: known.is_complete(),
            locks: known.locks(self.recorded_server(), own, now),
        }
    }

    fn episodes(&self, known: &mut Known, now: Moment) -> Vec<Episode> {
        let mut episodes = self.table.episodes(now);
        episodes.extend(known.episodes(now).cloned());
        episodes.sort_by_key(|episode| std::cmp::Reverse(episode.to));
        episodes.truncate(MAX_EPISODES);
        episodes
    }

    /// Returns the name of this server if it records what happens to its locks.
    fn recorded_server(&self) -> Option<&str> {
        (self.max_watchers > 0).then_some(&*self.server)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed_products(&self) -> MutexGuard<'_, VecDeque<i64>> {
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
