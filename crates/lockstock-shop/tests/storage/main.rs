//! What a database promises to the shop, on each kind of database.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod keys;
mod products;
mod sales;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use lockstock_shop::storage::{
    self, Cause, Changes, Condition, Entries, Entry, Limits, NewProduct, Order, Origin, Outcome,
    Product, Reason, Storage, Turn, Wish, Written,
};
use lockstock_testkit::Postgres;
use tokio::time::Instant;

pub(crate) const LIMITS: Limits = Limits {
    connections: 8,
    timeout: Duration::from_secs(20),
    alone: true,
    key_retention: Duration::from_secs(24 * 3600),
};

/// Runs `test` on a new database of each kind.
pub(crate) async fn on_each_database(test: impl AsyncFn(Arc<dyn Storage>)) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.sqlite3");
    let sqlite = storage::open(&format!("sqlite://{}", file.display()), LIMITS)
        .await
        .unwrap();
    test(sqlite.clone()).await;
    sqlite.close().await;

    let server = Postgres::start();
    let postgres = storage::open(&server.create_database("shop"), LIMITS)
        .await
        .unwrap();
    test(postgres.clone()).await;
    postgres.close().await;
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

/// The turn of a lock with this fence, and time enough.
pub(crate) fn turn(fence: u64) -> Condition {
    Condition {
        turn: Turn {
            fence,
            deadline: Instant::now() + Duration::from_secs(60),
        },
        version: None,
    }
}

pub(crate) fn seen(fence: u64, version: i64) -> Condition {
    Condition {
        version: Some(version),
        ..turn(fence)
    }
}

pub(crate) fn over(fence: u64) -> Condition {
    Condition {
        turn: Turn {
            fence,
            deadline: Instant::now(),
        },
        version: None,
    }
}

pub(crate) async fn created(storage: &dyn Storage, new: NewProduct) -> Product {
    match storage.create(new, Cause::default()).await.unwrap() {
        Written::Done(product) => product,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn found(storage: &dyn Storage, id: i64) -> Product {
    storage.get(id).await.unwrap().expect("it is there")
}

/// An order of somebody nobody knows.
pub(crate) fn order(product: i64, wish: Wish) -> Order {
    Order {
        product,
        wish,
        origin: Origin::default(),
        once: None,
    }
}

pub(crate) fn purchase(quantity: i64) -> Wish {
    Wish::Purchase { quantity }
}

/// The purchase, which must have been one.
pub(crate) fn bought(outcome: storage::Result<Outcome>) -> Entry {
    match outcome.unwrap() {
        Outcome::Purchased(entry) => entry,
        other => panic!("{other:?}"),
    }
}

/// The whole ledger of a product, which has no gaps, is never below zero, and ends with the
/// stock that there is.
pub(crate) async fn audited(storage: &dyn Storage, product: i64) -> Vec<Entry> {
    let count = storage.count_entries(product, Entries::All).await.unwrap();
    let entries = storage
        .entries(product, Entries::All, count + 1, 0)
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
