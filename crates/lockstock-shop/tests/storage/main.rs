//! The contract of the storage, tested on each kind of database.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod callers;
mod idempotency;
mod locked_rows;
mod orders;
mod products;
mod recorded_updates;
mod upgrade;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use lockstock_shop::storage::{
    self, Changes, EntryFilter, FencedWindow, LedgerEntry, NewProduct, Order, OrderKind,
    OrderOutcome, Precondition, Product, Reason, RequestContext, Storage, StorageOptions,
    WriteContext, WriteOutcome,
};
use lockstock_testkit::Postgres;
use tokio::time::Instant;

pub(crate) const OPTIONS: StorageOptions = StorageOptions {
    max_connections: 8,
    timeout: Duration::from_secs(20),
    exclusive: true,
    key_retention: Duration::from_secs(24 * 3600),
};

/// Shared by the tests that do not stop or restart it; each uses databases of its own.
pub(crate) static POSTGRES: LazyLock<Postgres> = LazyLock::new(Postgres::start);

/// Returns the URL of a new database.
pub(crate) fn new_postgres_database() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    POSTGRES.create_database(&format!("shop{count}"))
}

/// Panics if a transaction of any test was aborted because of a deadlock.
pub(crate) fn assert_no_deadlock() {
    let log = POSTGRES.log();
    assert!(!log.contains("deadlock"), "{log}");
}

/// Runs `test` on a new database of each kind.
pub(crate) async fn on_each_database(test: impl AsyncFn(Arc<dyn Storage>)) {
    on_each_database_with(OPTIONS, test).await;
}

pub(crate) async fn on_each_database_with(
    options: StorageOptions,
    test: impl AsyncFn(Arc<dyn Storage>),
) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.sqlite3");
    for url in [
        format!("sqlite://{}", file.display()),
        new_postgres_database(),
    ] {
        let storage = storage::open(&url, options).await.unwrap();
        test(storage.clone()).await;
        storage.close().await;
    }
}

pub(crate) fn mug(stock: i64) -> NewProduct {
    NewProduct {
        name: "Enamel mug".to_owned(),
        description: "Holds 350 ml".to_owned(),
        price: 12_000,
        stock,
    }
}

pub(crate) fn stock(stock: i64) -> Changes {
    Changes {
        stock: Some(stock),
        ..Changes::default()
    }
}

/// A lock with this fence, held for long enough.
pub(crate) fn fenced(fence: u64) -> Precondition {
    Precondition {
        window: FencedWindow {
            fence,
            deadline: Instant::now() + Duration::from_secs(60),
        },
        version: None,
    }
}

/// A lock with this fence, and the version that the client requires.
pub(crate) fn fenced_at(fence: u64, version: i64) -> Precondition {
    Precondition {
        version: Some(version),
        ..fenced(fence)
    }
}

/// A lock with this fence that was lost.
pub(crate) fn ended(fence: u64) -> Precondition {
    Precondition {
        window: FencedWindow {
            fence,
            deadline: Instant::now(),
        },
        version: None,
    }
}

pub(crate) async fn created(storage: &dyn Storage, new: NewProduct) -> Product {
    match storage.create(new, WriteContext::default()).await.unwrap() {
        WriteOutcome::Done(product) => product,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn found(storage: &dyn Storage, id: i64) -> Product {
    storage.get(id).await.unwrap().expect("the product exists")
}

/// An order of an unknown caller.
pub(crate) fn order(product: i64, kind: OrderKind) -> Order {
    Order {
        product,
        kind,
        request: RequestContext::default(),
        idempotency: None,
    }
}

pub(crate) fn purchase(quantity: i64) -> OrderKind {
    OrderKind::Purchase { quantity }
}

/// Returns the purchase. Panics on any other outcome.
pub(crate) fn bought(outcome: storage::Result<OrderOutcome>) -> LedgerEntry {
    match outcome.unwrap() {
        OrderOutcome::Purchased(entry) => entry,
        other => panic!("{other:?}"),
    }
}

/// Returns the whole ledger of a product. Panics unless it has no gaps, is never below zero, and
/// ends with the current stock.
pub(crate) async fn audited(storage: &dyn Storage, product: i64) -> Vec<LedgerEntry> {
    let count = storage
        .count_entries(product, EntryFilter::All)
        .await
        .unwrap();
    let entries = storage
        .entries(product, EntryFilter::All, count + 1, 0)
        .await
        .unwrap();
    assert_eq!(i64::try_from(entries.len()).unwrap(), count);
    assert_eq!(entries[0].reason, Reason::Created);
    let (mut stock, mut fence) = (0, 0);
    for (entry, version) in entries.iter().zip(1..) {
        stock += entry.delta;
        assert_eq!(
            (entry.version, entry.stock_after),
            (version, stock),
            "{entry:?}"
        );
        assert!(stock >= 0);
        assert!(entry.fence.is_none_or(|this| this > fence), "fences rise");
        fence = entry.fence.unwrap_or(fence);
    }
    if let Some(now) = storage.get(product).await.unwrap() {
        assert_eq!((now.stock, now.version), (stock, count));
    }
    entries
}
