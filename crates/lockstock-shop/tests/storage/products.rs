//! Products and writes under a lock, on each kind of database.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use lockstock_shop::storage::{
    self, Changes, Column, Comparison, Direction, Filter, NewProduct, ProductQuery, RequestContext,
    WriteContext, WriteOutcome,
};
use lockstock_testkit::Postgres;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    OPTIONS, audited, created, ended, fenced, fenced_at, found, mug, new_postgres_database,
    on_each_database, stock,
};

#[tokio::test]
async fn a_product_is_read_as_it_was_created_to_the_microsecond() {
    on_each_database(async |storage| {
        let created = created(&*storage, mug(5)).await;
        assert_eq!((created.version, created.stock), (1, 5));
        assert_eq!(found(&*storage, created.id).await, created);
        let all = storage.list(&ProductQuery::default(), 10, 0).await.unwrap();
        assert_eq!(all, [created]);
        assert_eq!(storage.get(4711).await.unwrap(), None);
        assert_eq!(storage.get(i64::MAX).await.unwrap(), None);
        storage.check(OPTIONS.timeout).await;
        assert!(storage.health().is_up());
    })
    .await;
}

#[tokio::test]
async fn an_update_writes_its_fields_and_counts_a_version() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(5)).await.id;
        let WriteOutcome::Done(after) = storage
            .update(id, stock(4), fenced(10), WriteContext::default())
            .await
            .unwrap()
        else {
            panic!()
        };
        assert_eq!((after.stock, after.version, after.price), (4, 2, 12_000));
        assert!(after.updated_at > after.created_at);
        let everything = Changes {
            name: Some("보자기".to_owned()),
            description: Some(String::new()),
            price: Some(0),
            stock: Some(2_147_483_647),
        };
        storage
            .update(id, everything, fenced(11), WriteContext::default())
            .await
            .unwrap();
        let after = found(&*storage, id).await;
        assert_eq!(
            (after.name.as_str(), after.description.as_str()),
            ("보자기", "")
        );
        assert_eq!(
            (after.price, after.stock, after.version),
            (0, 2_147_483_647, 3)
        );
    })
    .await;
}

#[tokio::test]
async fn an_update_without_changes_writes_nothing_but_checks_its_precondition() {
    on_each_database(async |storage| {
        let before = created(&*storage, mug(5)).await;
        let id = before.id;
        let nothing = || Changes::default();
        let same = storage
            .update(id, nothing(), fenced(10), WriteContext::default())
            .await
            .unwrap();
        assert_eq!(same, WriteOutcome::Done(before.clone()));
        storage
            .update(id, stock(4), fenced(20), WriteContext::default())
            .await
            .unwrap();
        let late = storage
            .update(id, nothing(), fenced(20), WriteContext::default())
            .await
            .unwrap();
        assert_eq!(late, WriteOutcome::Fenced);
        let stale = storage
            .update(id, nothing(), fenced_at(21, 1), WriteContext::default())
            .await
            .unwrap();
        assert_eq!(stale, WriteOutcome::VersionMismatch { version: 2 });
        assert_eq!(
            storage
                .update(99, nothing(), fenced(22), WriteContext::default())
                .await
                .unwrap(),
            WriteOutcome::NotFound
        );
    })
    .await;
}

#[tokio::test]
async fn a_fence_that_is_not_higher_writes_nothing() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(5)).await.id;
        storage
            .update(id, stock(4), fenced(100), WriteContext::default())
            .await
            .unwrap();
        for late in [99, 100] {
            assert_eq!(
                storage
                    .update(id, stock(0), fenced(late), WriteContext::default())
                    .await
                    .unwrap(),
                WriteOutcome::Fenced
            );
            assert_eq!(
                storage
                    .delete(id, fenced(late), RequestContext::default())
                    .await
                    .unwrap(),
                WriteOutcome::Fenced
            );
            // The version matches, but the fence is too low.
            assert_eq!(
                storage
                    .update(id, stock(0), fenced_at(late, 2), WriteContext::default())
                    .await
                    .unwrap(),
                WriteOutcome::Fenced
            );
        }
        let after = found(&*storage, id).await;
        assert_eq!((after.stock, after.version), (4, 2));
        // A fence as issued by a store, and the highest possible one.
        for fence in [1_800_000_000_000_000, i64::MAX.unsigned_abs()] {
            let written = storage
                .update(id, stock(3), fenced(fence), WriteContext::default())
                .await
                .unwrap();
            assert!(matches!(written, WriteOutcome::Done(_)));
        }
    })
    .await;
}

#[tokio::test]
async fn a_write_after_the_end_of_its_window_is_rejected() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(5)).await.id;
        assert_eq!(
            storage
                .update(id, stock(0), ended(10), WriteContext::default())
                .await
                .unwrap(),
            WriteOutcome::Fenced
        );
        assert_eq!(
            storage
                .update(id, Changes::default(), ended(10), WriteContext::default())
                .await
                .unwrap(),
            WriteOutcome::Fenced
        );
        assert_eq!(
            storage
                .delete(id, ended(10), RequestContext::default())
                .await
                .unwrap(),
            WriteOutcome::Fenced
        );
        assert_eq!(found(&*storage, id).await.version, 1);
        // An ended window does not affect the other updates of its batch.
        let others = join_all((0..20).map(|_| created(&*storage, mug(5)))).await;
        let ids = others.into_iter().map(|other| other.id).collect::<Vec<_>>();
        let writes = ids.iter().enumerate().map(|(n, id)| {
            let condition = if n % 3 == 0 { ended(10) } else { fenced(10) };
            storage.update(*id, stock(1), condition, WriteContext::default())
        });
        for (n, written) in join_all(writes).await.into_iter().enumerate() {
            assert_eq!(
                matches!(written.unwrap(), WriteOutcome::Fenced),
                n % 3 == 0,
                "{n}"
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_postgres_executes_after_the_end_of_its_window_writes_nothing() {
    let server = Postgres::start();
    let storage = storage::open(&server.create_database("shop"), OPTIONS)
        .await
        .unwrap();
    let id = created(&*storage, mug(5)).await.id;
    let mut condition = fenced(10);
    condition.window.deadline = Instant::now() + Duration::from_millis(300);
    // The statement is sent in time, and waits in the socket.
    server.pause();
    let write = {
        let storage = storage.clone();
        tokio::spawn(async move {
            let context = WriteContext::default();
            storage.update(id, stock(0), condition, context).await
        })
    };
    sleep_until(condition.window.deadline).await;
    server.resume();
    assert_eq!(write.await.unwrap().unwrap(), WriteOutcome::Fenced);
    let product = found(&*storage, id).await;
    assert_eq!((product.stock, product.version), (5, 1));
    // The window was the reason.
    let written = storage.update(id, stock(0), fenced(10), WriteContext::default());
    assert!(matches!(written.await.unwrap(), WriteOutcome::Done(_)));
}

#[tokio::test]
async fn a_write_that_requires_another_version_is_rejected() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(5)).await.id;
        let written = storage
            .update(id, stock(4), fenced_at(10, 1), WriteContext::default())
            .await
            .unwrap();
        assert!(matches!(written, WriteOutcome::Done(_)));
        let stale = storage
            .update(id, stock(3), fenced_at(11, 1), WriteContext::default())
            .await
            .unwrap();
        assert_eq!(stale, WriteOutcome::VersionMismatch { version: 2 });
        let stale = storage
            .delete(id, fenced_at(11, 1), RequestContext::default())
            .await
            .unwrap();
        assert_eq!(stale, WriteOutcome::VersionMismatch { version: 2 });
        assert_eq!(found(&*storage, id).await.stock, 4);
        let gone = storage
            .delete(id, fenced_at(11, 2), RequestContext::default())
            .await
            .unwrap();
        assert!(matches!(gone, WriteOutcome::Done(_)));
        assert_eq!(
            storage
                .delete(id, fenced(12), RequestContext::default())
                .await
                .unwrap(),
            WriteOutcome::NotFound
        );
        assert_eq!(
            storage
                .update(id, stock(3), fenced(12), WriteContext::default())
                .await
                .unwrap(),
            WriteOutcome::NotFound
        );
        // The id of a deleted product is not reused, and so neither is its fence.
        assert!(created(&*storage, mug(1)).await.id > id);
    })
    .await;
}

#[tokio::test]
async fn of_updates_that_arrive_together_each_has_its_own_outcome() {
    on_each_database(async |storage| {
        let ids = join_all((0..40).map(|_| created(&*storage, mug(5)))).await;
        let ids = ids.iter().map(|product| product.id).collect::<Vec<_>>();
        let change = async |id, n| {
            let (id, precondition) = match n % 4 {
                0 => (id, fenced_at(2, 1)),
                1 => (id + 1000, fenced(2)),
                2 => (id, fenced(0)),
                _ => (id, fenced_at(2, 7)),
            };
            let context = WriteContext::default();
            storage.update(id, stock(1), precondition, context).await
        };
        let outcomes = join_all(ids.iter().zip(0..).map(|(id, n)| change(*id, n))).await;
        for ((id, n), outcome) in ids.iter().zip(0..).zip(outcomes) {
            let outcome = outcome.unwrap();
            let is_own = match n % 4 {
                0 => matches!(&outcome, WriteOutcome::Done(it) if it.id == *id && it.stock == 1),
                1 => outcome == WriteOutcome::NotFound,
                2 => outcome == WriteOutcome::Fenced,
                _ => outcome == WriteOutcome::VersionMismatch { version: 1 },
            };
            assert!(is_own, "{n}: {outcome:?}");
            let entries = audited(&*storage, *id).await.len();
            assert_eq!(entries, if n % 4 == 0 { 2 } else { 1 }, "{n}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_writers_only_rising_fences_write() {
    on_each_database(async |storage| {
        let ids = join_all((0..4).map(|_| created(&*storage, mug(0)))).await;
        let ids = ids
            .into_iter()
            .map(|product| product.id)
            .collect::<Vec<_>>();
        let fences = Arc::new(AtomicU64::new(1));
        let writers = (0..400).map(|n| {
            let (storage, fences) = (storage.clone(), fences.clone());
            let id = ids[n % ids.len()];
            tokio::spawn(async move {
                let fence = fences.fetch_add(1, Ordering::SeqCst);
                // Writes the fence, so that the stock identifies the last writer.
                let change = stock(i64::try_from(fence).unwrap());
                (
                    id,
                    fence,
                    storage
                        .update(id, change, fenced(fence), WriteContext::default())
                        .await
                        .unwrap(),
                )
            })
        });
        let mut written = Vec::new();
        for done in join_all(writers).await {
            let (id, fence, outcome) = done.unwrap();
            match outcome {
                WriteOutcome::Done(product) => written.push((id, product.version, fence)),
                WriteOutcome::Fenced => {}
                other => panic!("{other:?}"),
            }
        }
        for id in ids {
            let mut history = written
                .iter()
                .filter(|write| write.0 == id)
                .collect::<Vec<_>>();
            history.sort_by_key(|write| write.1);
            let versions = history.iter().map(|write| write.1);
            assert!(
                versions.eq(2..2 + i64::try_from(history.len()).unwrap()),
                "no gaps"
            );
            assert!(
                history.is_sorted_by_key(|write| write.2),
                "fences rise with versions"
            );
            let last = history.last().expect("at least the first write succeeds");
            let product = found(&*storage, id).await;
            assert_eq!(
                (product.version, product.stock),
                (last.1, i64::try_from(last.2).unwrap())
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_writers_that_require_one_version_one_writes() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(0)).await.id;
        for version in 1..=20_i64 {
            let base = u64::try_from(version).unwrap() * 1000;
            let rivals = (0..8).map(|n| {
                storage.update(
                    id,
                    stock(version),
                    fenced_at(base + n, version),
                    WriteContext::default(),
                )
            });
            let outcomes = join_all(rivals).await;
            let done = outcomes
                .iter()
                .filter(|outcome| matches!(outcome, Ok(WriteOutcome::Done(_))))
                .count();
            assert_eq!(done, 1, "{outcomes:?}");
        }
        assert_eq!(found(&*storage, id).await.version, 21);
    })
    .await;
}

#[tokio::test]
async fn the_database_rejects_a_negative_stock() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(5)).await.id;
        storage
            .update(id, stock(-1), fenced(10), WriteContext::default())
            .await
            .unwrap_err();
        let below = storage.create(mug(-1), WriteContext::default()).await;
        below.unwrap_err();
        assert_eq!(found(&*storage, id).await.stock, 5);
        // The failed writes affect no other.
        let written = storage
            .update(id, stock(4), fenced(11), WriteContext::default())
            .await
            .unwrap();
        assert!(matches!(written, WriteOutcome::Done(_)));
    })
    .await;
}

#[tokio::test]
async fn lists_are_filtered_ordered_and_paged() {
    on_each_database(async |storage| {
        for (name, price) in [("Red apple", 300), ("green Apple", 100), ("100% pear", 200)] {
            let new = NewProduct {
                name: name.to_owned(),
                price,
                ..mug(price / 100)
            };
            created(&*storage, new).await;
        }
        let prices = async |query: &ProductQuery, limit, offset| {
            let products = storage.list(query, limit, offset).await.unwrap();
            products
                .into_iter()
                .map(|product| product.price)
                .collect::<Vec<_>>()
        };
        let term = |terms: &[&str]| ProductQuery {
            terms: terms.iter().map(|term| (*term).to_owned()).collect(),
            ..ProductQuery::default()
        };
        assert_eq!(prices(&term(&["APPLE"]), 10, 0).await, [300, 100]);
        assert_eq!(prices(&term(&["apple", "red"]), 10, 0).await, [300]);
        assert_eq!(prices(&term(&["0%"]), 10, 0).await, [200]);
        assert_eq!(prices(&term(&["_"]), 10, 0).await, [0; 0]);
        assert_eq!(storage.count(&term(&["350"])).await.unwrap(), 3);
        let expensive = ProductQuery {
            filters: vec![Filter {
                column: Column::Price,
                comparison: Comparison::GreaterOrEqual,
                value: 200,
            }],
            order: vec![(Column::Price, Direction::Descending)],
            ..ProductQuery::default()
        };
        assert_eq!(prices(&expensive, 10, 0).await, [300, 200]);
        assert_eq!(prices(&expensive, 1, 1).await, [200]);
        assert_eq!(storage.count(&expensive).await.unwrap(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_does_not_delay_writes_to_other_rows() {
    let url = new_postgres_database();
    let storage = storage::open(&url, OPTIONS).await.unwrap();
    let locked = created(&*storage, mug(5)).await.id;
    let free = created(&*storage, mug(5)).await.id;
    let holder = sqlx::PgPool::connect(&url).await.unwrap();
    let mut holding = holder.begin().await.unwrap();
    sqlx::query("SELECT id FROM products WHERE id = $1 FOR UPDATE")
        .bind(locked)
        .execute(&mut *holding)
        .await
        .unwrap();
    let waiting = tokio::spawn({
        let storage = storage.clone();
        async move {
            storage
                .update(locked, stock(1), fenced(10), WriteContext::default())
                .await
        }
    });
    for fence in 10..60 {
        let written = storage
            .update(free, stock(1), fenced(fence), WriteContext::default())
            .await
            .unwrap();
        assert!(matches!(written, WriteOutcome::Done(_)));
    }
    sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished(), "its row is locked");
    holding.commit().await.unwrap();
    let written = waiting.await.unwrap().unwrap();
    assert!(matches!(written, WriteOutcome::Done(_)), "{written:?}");
}
