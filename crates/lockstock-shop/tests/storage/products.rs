//! What a database promises to the shop of its products, on each kind of database.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use lockstock_shop::storage::{
    self, Bound, Cause, Changes, Column, Comparison, Direction, NewProduct, Origin, Selection,
    Written,
};
use lockstock_testkit::Postgres;
use tokio::time::sleep;

use crate::{LIMITS, created, found, mug, on_each_database, over, seen, stock, turn};

#[tokio::test]
async fn what_is_created_is_read_back_to_the_microsecond() {
    on_each_database(async |storage| {
        let created = created(&*storage, mug(5)).await;
        assert_eq!((created.version, created.stock), (1, 5));
        assert_eq!(found(&*storage, created.id).await, created);
        let all = storage.list(&Selection::default(), 10, 0).await.unwrap();
        assert_eq!(all, [created]);
        assert_eq!(storage.get(4711).await.unwrap(), None);
        assert_eq!(storage.get(i64::MAX).await.unwrap(), None);
        storage.ping().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_update_writes_what_it_names_and_counts() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(5)).await.id;
        let Written::Done(after) = storage
            .update(id, stock(4), turn(10), Cause::default())
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
            .update(id, everything, turn(11), Cause::default())
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
async fn nothing_to_change_writes_nothing_but_keeps_the_conditions() {
    on_each_database(async |storage| {
        let before = created(&*storage, mug(5)).await;
        let id = before.id;
        let nothing = || Changes::default();
        let same = storage
            .update(id, nothing(), turn(10), Cause::default())
            .await
            .unwrap();
        assert_eq!(same, Written::Done(before.clone()));
        storage
            .update(id, stock(4), turn(20), Cause::default())
            .await
            .unwrap();
        let late = storage
            .update(id, nothing(), turn(20), Cause::default())
            .await
            .unwrap();
        assert_eq!(late, Written::Lost);
        let stale = storage
            .update(id, nothing(), seen(21, 1), Cause::default())
            .await
            .unwrap();
        assert_eq!(stale, Written::Stale { version: 2 });
        assert_eq!(
            storage
                .update(99, nothing(), turn(22), Cause::default())
                .await
                .unwrap(),
            Written::Missing
        );
    })
    .await;
}

#[tokio::test]
async fn a_fence_that_is_not_higher_writes_nothing() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(5)).await.id;
        storage
            .update(id, stock(4), turn(100), Cause::default())
            .await
            .unwrap();
        for late in [99, 100] {
            assert_eq!(
                storage
                    .update(id, stock(0), turn(late), Cause::default())
                    .await
                    .unwrap(),
                Written::Lost
            );
            assert_eq!(
                storage
                    .delete(id, turn(late), Origin::default())
                    .await
                    .unwrap(),
                Written::Lost
            );
            // Its condition may be met; its turn is over all the same.
            assert_eq!(
                storage
                    .update(id, stock(0), seen(late, 2), Cause::default())
                    .await
                    .unwrap(),
                Written::Lost
            );
        }
        let after = found(&*storage, id).await;
        assert_eq!((after.stock, after.version), (4, 2));
        // A fence as the clock mints them, and the highest there can be.
        for fence in [1_800_000_000_000_000, i64::MAX.unsigned_abs()] {
            let written = storage
                .update(id, stock(3), turn(fence), Cause::default())
                .await
                .unwrap();
            assert!(matches!(written, Written::Done(_)));
        }
    })
    .await;
}

#[tokio::test]
async fn a_turn_that_is_over_writes_nothing() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(5)).await.id;
        assert_eq!(
            storage
                .update(id, stock(0), over(10), Cause::default())
                .await
                .unwrap(),
            Written::Lost
        );
        assert_eq!(
            storage
                .update(id, Changes::default(), over(10), Cause::default())
                .await
                .unwrap(),
            Written::Lost
        );
        assert_eq!(
            storage
                .delete(id, over(10), Origin::default())
                .await
                .unwrap(),
            Written::Lost
        );
        assert_eq!(found(&*storage, id).await.version, 1);
        // One whose turn is over holds up none of those beside it.
        let others = join_all((0..20).map(|_| created(&*storage, mug(5)))).await;
        let ids = others.into_iter().map(|other| other.id).collect::<Vec<_>>();
        let writes = ids.iter().enumerate().map(|(n, id)| {
            let condition = if n % 3 == 0 { over(10) } else { turn(10) };
            storage.update(*id, stock(1), condition, Cause::default())
        });
        for (n, written) in join_all(writes).await.into_iter().enumerate() {
            assert_eq!(matches!(written.unwrap(), Written::Lost), n % 3 == 0, "{n}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_version_that_is_not_the_current_one_writes_nothing() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(5)).await.id;
        let written = storage
            .update(id, stock(4), seen(10, 1), Cause::default())
            .await
            .unwrap();
        assert!(matches!(written, Written::Done(_)));
        let stale = storage
            .update(id, stock(3), seen(11, 1), Cause::default())
            .await
            .unwrap();
        assert_eq!(stale, Written::Stale { version: 2 });
        let stale = storage
            .delete(id, seen(11, 1), Origin::default())
            .await
            .unwrap();
        assert_eq!(stale, Written::Stale { version: 2 });
        assert_eq!(found(&*storage, id).await.stock, 4);
        let gone = storage
            .delete(id, seen(11, 2), Origin::default())
            .await
            .unwrap();
        assert!(matches!(gone, Written::Done(_)));
        assert_eq!(
            storage
                .delete(id, turn(12), Origin::default())
                .await
                .unwrap(),
            Written::Missing
        );
        assert_eq!(
            storage
                .update(id, stock(3), turn(12), Cause::default())
                .await
                .unwrap(),
            Written::Missing
        );
        // A new product does not take the place of the old one, nor its fence.
        assert!(created(&*storage, mug(1)).await.id > id);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_writers_only_rising_fences_get_through() {
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
                // The fence is what is written: who sees it knows who wrote last.
                let change = stock(i64::try_from(fence).unwrap());
                (
                    id,
                    fence,
                    storage
                        .update(id, change, turn(fence), Cause::default())
                        .await
                        .unwrap(),
                )
            })
        });
        let mut written = Vec::new();
        for done in join_all(writers).await {
            let (id, fence, outcome) = done.unwrap();
            match outcome {
                Written::Done(product) => written.push((id, product.version, fence)),
                Written::Lost => {}
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
            let last = history.last().expect("the first write of all gets through");
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
async fn versions_let_one_of_many_through() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(0)).await.id;
        for version in 1..=20_i64 {
            let base = u64::try_from(version).unwrap() * 1000;
            let rivals = (0..8).map(|n| {
                storage.update(
                    id,
                    stock(version),
                    seen(base + n, version),
                    Cause::default(),
                )
            });
            let outcomes = join_all(rivals).await;
            let done = outcomes
                .iter()
                .filter(|outcome| matches!(outcome, Ok(Written::Done(_))))
                .count();
            assert_eq!(done, 1, "{outcomes:?}");
        }
        assert_eq!(found(&*storage, id).await.version, 21);
    })
    .await;
}

#[tokio::test]
async fn the_database_itself_refuses_a_negative_stock() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(5)).await.id;
        storage
            .update(id, stock(-1), turn(10), Cause::default())
            .await
            .unwrap_err();
        let below = storage.create(mug(-1), Cause::default()).await;
        below.unwrap_err();
        assert_eq!(found(&*storage, id).await.stock, 5);
        // The one that failed took nobody with it.
        let written = storage
            .update(id, stock(4), turn(11), Cause::default())
            .await
            .unwrap();
        assert!(matches!(written, Written::Done(_)));
    })
    .await;
}

#[tokio::test]
async fn lists_are_selected_ordered_and_cut() {
    on_each_database(async |storage| {
        for (name, price) in [("Red apple", 300), ("green Apple", 100), ("100% pear", 200)] {
            let new = NewProduct {
                name: name.to_owned(),
                price,
                ..mug(price / 100)
            };
            created(&*storage, new).await;
        }
        let prices = async |selection: &Selection, limit, offset| {
            let products = storage.list(selection, limit, offset).await.unwrap();
            products
                .into_iter()
                .map(|product| product.price)
                .collect::<Vec<_>>()
        };
        let term = |terms: &[&str]| Selection {
            terms: terms.iter().map(|term| (*term).to_owned()).collect(),
            ..Selection::default()
        };
        assert_eq!(prices(&term(&["APPLE"]), 10, 0).await, [300, 100]);
        assert_eq!(prices(&term(&["apple", "red"]), 10, 0).await, [300]);
        assert_eq!(prices(&term(&["0%"]), 10, 0).await, [200]);
        assert_eq!(prices(&term(&["_"]), 10, 0).await, [0; 0]);
        assert_eq!(storage.count(&term(&["350"])).await.unwrap(), 3);
        let dear = Selection {
            bounds: vec![Bound {
                column: Column::Price,
                comparison: Comparison::GreaterOrEqual,
                value: 200,
            }],
            order: vec![(Column::Price, Direction::Descending)],
            ..Selection::default()
        };
        assert_eq!(prices(&dear, 10, 0).await, [300, 200]);
        assert_eq!(prices(&dear, 1, 1).await, [200]);
        assert_eq!(storage.count(&dear).await.unwrap(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_holds_delays_nobody_else() {
    let server = Postgres::start();
    let url = server.create_database("shop");
    let storage = storage::open(&url, LIMITS).await.unwrap();
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
                .update(locked, stock(1), turn(10), Cause::default())
                .await
        }
    });
    for fence in 10..60 {
        let written = storage
            .update(free, stock(1), turn(fence), Cause::default())
            .await
            .unwrap();
        assert!(matches!(written, Written::Done(_)));
    }
    sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished(), "its row is locked");
    holding.commit().await.unwrap();
    let written = waiting.await.unwrap().unwrap();
    assert!(matches!(written, Written::Done(_)), "{written:?}");
}
