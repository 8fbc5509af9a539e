//! Rows that a foreign transaction has locked, in Postgres.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use lockstock_shop::storage::{
    self, RequestContext, Storage, StorageOptions, WriteContext, WriteOutcome,
};
use sqlx::{PgPool, Postgres, Transaction};

use crate::idempotency::{context, with_key};
use crate::{
    OPTIONS, audited, bought, created, fenced, found, mug, new_postgres_database, order, purchase,
    stock,
};

/// The fewest connections; a timeout that no machine exceeds because it is slow.
const TWO_CONNECTIONS: StorageOptions = StorageOptions {
    max_connections: 2,
    timeout: Duration::from_secs(120),
    ..OPTIONS
};

async fn locked<'p>(pool: &'p PgPool, ids: &[i64]) -> Transaction<'p, Postgres> {
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM products WHERE id = ANY($1) FOR UPDATE")
        .bind(ids)
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction
}

fn is_done<T>(outcome: &storage::Result<WriteOutcome<T>>) -> bool {
    matches!(outcome, Ok(WriteOutcome::Done(_)))
}

/// Every kind of write, on the product with this id, under a lock with this fence.
async fn write_in_every_way(storage: Arc<dyn Storage>, id: i64, fence: u64) {
    let key = format!("{id}");
    let keyed = storage.update(id, stock(7), fenced(fence), context(&key));
    assert!(is_done(&keyed.await));
    bought(storage.submit_order(order(id, purchase(1))).await);
    let key = format!("{id} purchase");
    bought(
        storage
            .submit_order(with_key(&key, order(id, purchase(1))))
            .await,
    );
    let unkeyed = storage.update(id, stock(5), fenced(fence + 1), WriteContext::default());
    assert!(is_done(&unkeyed.await));
    let deleted = storage.delete(id, fenced(fence + 2), RequestContext::default());
    assert!(is_done(&deleted.await));
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_products_delay_no_write_of_another_product_even_with_two_connections() {
    let url = new_postgres_database();
    let storage = storage::open(&url, TWO_CONNECTIONS).await.unwrap();
    let ids = join_all((0..10).map(|_| async { created(&*storage, mug(9)).await.id })).await;
    let (free, stuck) = ids.split_at(2);
    let pool = PgPool::connect(&url).await.unwrap();
    let lock = locked(&pool, stuck).await;
    let waiting = stuck.iter().zip(0..).map(|(&id, number)| {
        let storage = storage.clone();
        tokio::spawn(async move {
            let request = RequestContext::default();
            let is_written = match number % 4 {
                0 => is_done(
                    &storage
                        .update(id, stock(7), fenced(1), context("key"))
                        .await,
                ),
                1 => is_done(&storage.delete(id, fenced(1), request).await),
                2 => {
                    let context = WriteContext::default();
                    is_done(&storage.update(id, stock(7), fenced(1), context).await)
                }
                _ => bought(storage.submit_order(order(id, purchase(1))).await).version == 2,
            };
            (id, is_written)
        })
    });
    let waiting = waiting.collect::<Vec<_>>();
    for &id in free {
        assert_eq!(found(&*storage, id).await.stock, 9);
        write_in_every_way(storage.clone(), id, 1).await;
        created(&*storage, mug(1)).await;
    }
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    lock.rollback().await.unwrap();
    // Two updates had the same key: the second finds the record of the first.
    let written = join_all(waiting).await.into_iter().map(Result::unwrap);
    assert_eq!(written.filter(|(_, is_written)| *is_written).count(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_product_that_is_locked_again_and_again_is_written_in_between() {
    let url = new_postgres_database();
    let storage = storage::open(&url, TWO_CONNECTIONS).await.unwrap();
    let id = created(&*storage, mug(9)).await.id;
    let pool = PgPool::connect(&url).await.unwrap();
    let is_written = Arc::new(AtomicBool::new(false));
    let lockers = (0..3).map(|_| {
        let (pool, is_written) = (pool.clone(), is_written.clone());
        tokio::spawn(async move {
            while !is_written.load(Ordering::Relaxed) {
                locked(&pool, &[id]).await.commit().await.unwrap();
            }
        })
    });
    let lockers = lockers.collect::<Vec<_>>();
    assert!(is_done(
        &storage
            .update(id, stock(7), fenced(1), context("key"))
            .await
    ));
    bought(storage.submit_order(order(id, purchase(1))).await);
    is_written.store(true, Ordering::Relaxed);
    for locker in lockers {
        locker.await.unwrap();
    }
    assert_eq!(audited(&*storage, id).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_another_transaction_uses_delays_no_order_with_another_key() {
    let url = new_postgres_database();
    let storage = storage::open(&url, TWO_CONNECTIONS).await.unwrap();
    let ids = [
        created(&*storage, mug(9)).await.id,
        created(&*storage, mug(9)).await.id,
    ];
    let pool = PgPool::connect(&url).await.unwrap();
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("INSERT INTO idempotency VALUES ('ann', 'used', '', '', now())")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let order_of = |id, key: &str| {
        let (storage, order) = (storage.clone(), with_key(key, order(id, purchase(1))));
        tokio::spawn(async move { storage.submit_order(order).await })
    };
    let waiting = order_of(ids[0], "used");
    bought(order_of(ids[1], "free").await.unwrap());
    assert!(!waiting.is_finished());
    transaction.rollback().await.unwrap();
    bought(waiting.await.unwrap());
}
