//! A write with an idempotency key takes effect once, on each kind of database.

use std::collections::HashSet;
use std::time::Duration;

use crate::{
    OPTIONS, POSTGRES, assert_no_deadlock, audited, bought, created, fenced, found, mug,
    new_postgres_database, on_each_database, on_each_database_with, order, purchase, stock,
};
use futures_util::future::join_all;
use lockstock_shop::storage::{
    self, Changes, EntryFilter, IdempotencyKey, IdempotentWrite, Order, OrderOutcome, Product,
    RequestContext, ResponseRecord, Storage, StorageOptions, WriteContext, WriteOutcome,
};
use lockstock_testkit::{Postgres, Proxy};

fn key(caller: &str, key: &str) -> IdempotencyKey {
    IdempotencyKey {
        caller: caller.into(),
        key: key.into(),
    }
}

fn idempotency<T>(name: &str, response: fn(&T) -> Option<Vec<u8>>) -> Option<IdempotentWrite<T>> {
    Some(IdempotentWrite {
        key: key("ann", name),
        fingerprint: [7; 32],
        response,
    })
}

pub(crate) fn with_key(name: &str, order: Order) -> Order {
    let response = |outcome: &OrderOutcome| match outcome {
        OrderOutcome::Purchased(entry) => Some(entry.id.to_string().into_bytes()),
        _ => None,
    };
    Order {
        idempotency: idempotency(name, response),
        ..order
    }
}

pub(crate) fn context(name: &str) -> WriteContext {
    WriteContext {
        request: RequestContext::default(),
        idempotency: idempotency(name, |product: &Product| {
            Some(product.version.to_string().into_bytes())
        }),
    }
}

fn record(text: &str) -> ResponseRecord {
    ResponseRecord {
        fingerprint: [7; 32],
        response: text.into(),
    }
}

#[tokio::test]
async fn a_purchase_with_a_key_is_one_purchase() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(5)).await.id;
        let first = bought(
            storage
                .submit_order(with_key("k", order(id, purchase(1))))
                .await,
        );
        let recorded = record(&first.id.to_string());
        assert_eq!(
            storage.find_record(&key("ann", "k")).await.unwrap(),
            Some(recorded.clone())
        );
        assert_eq!(storage.find_record(&key("bob", "k")).await.unwrap(), None);
        // The key is used, for the same product and for another.
        let other = created(&*storage, mug(5)).await.id;
        for again in [id, other] {
            let outcome = storage
                .submit_order(with_key("k", order(again, purchase(1))))
                .await
                .unwrap();
            assert_eq!(outcome, OrderOutcome::AlreadyRecorded(recorded.clone()));
        }
        assert_eq!(audited(&*storage, id).await.len(), 2);
        assert_eq!(audited(&*storage, other).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_order_without_effect_leaves_the_key_unused() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(1)).await.id;
        let rejected = storage
            .submit_order(with_key("k", order(id, purchase(2))))
            .await
            .unwrap();
        assert!(matches!(rejected, OrderOutcome::Insufficient(_)));
        assert_eq!(storage.find_record(&key("ann", "k")).await.unwrap(), None);
        let again = begun_now(&*storage, with_key("k", order(id, purchase(1))));
        bought(storage.submit_order(again).await);
    })
    .await;
}

/// An order of a request that arrives now.
fn begun_now(storage: &dyn Storage, order: Order) -> Order {
    let request = RequestContext {
        known_commits: storage.known_commits(),
        ..order.request
    };
    Order { request, ..order }
}

#[tokio::test]
async fn a_try_that_began_before_a_refusal_has_no_effect_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.sqlite3");
    for url in [
        format!("sqlite://{}", file.display()),
        new_postgres_database(),
    ] {
        outcome_at_two_servers(&url).await;
    }
}

async fn outcome_at_two_servers(url: &str) {
    let shared = StorageOptions {
        exclusive: false,
        ..OPTIONS
    };
    let [here, there] = [
        storage::open(url, shared).await.unwrap(),
        storage::open(url, shared).await.unwrap(),
    ];
    let id = created(&*here, mug(0)).await.id;
    let begin = |storage: &dyn Storage| begun_now(storage, with_key("k", order(id, purchase(1))));
    let earlier = begin(&*here);
    let refused = there.submit_order(begin(&*there)).await.unwrap();
    assert!(matches!(refused, OrderOutcome::Insufficient(_)));
    let raised = here.update(id, stock(5), fenced(1), WriteContext::default());
    assert!(matches!(raised.await.unwrap(), WriteOutcome::Done(_)));
    for storage in [&here, &there, &here] {
        let outcome = storage.submit_order(earlier.clone()).await.unwrap();
        assert_eq!(outcome, OrderOutcome::Overtaken);
    }
    // A try that begins now is a new one, here and where the key was refused.
    for (storage, number) in [(&here, 0), (&there, 1)] {
        let outcome = storage.submit_order(begin(&**storage)).await.unwrap();
        match number {
            0 => drop(bought(Ok(outcome))),
            _ => assert!(matches!(outcome, OrderOutcome::AlreadyRecorded(_))),
        }
    }
    // The effect is found by the earlier try too.
    let outcome = here.submit_order(earlier).await.unwrap();
    assert!(matches!(outcome, OrderOutcome::AlreadyRecorded(_)));
    assert_eq!(found(&*here, id).await.stock, 4);
}

#[tokio::test]
async fn a_refusal_that_was_restored_into_another_postgres_is_earlier_than_every_try() {
    let url = new_postgres_database();
    let storage = storage::open(&url, OPTIONS).await.unwrap();
    let id = created(&*storage, mug(0)).await.id;
    let begin = || begun_now(&*storage, with_key("k", order(id, purchase(1))));
    let refused = storage.submit_order(begin()).await.unwrap();
    assert!(matches!(refused, OrderOutcome::Insufficient(_)));
    let (_, database) = url.rsplit_once('/').unwrap();
    let higher = "UPDATE idempotency SET refused = '1000000000000'";
    POSTGRES.psql(database, higher);
    let raised = storage.update(id, stock(5), fenced(1), WriteContext::default());
    assert!(matches!(raised.await.unwrap(), WriteOutcome::Done(_)));
    bought(storage.submit_order(begin()).await);
}

#[tokio::test]
async fn a_refusal_by_a_postgres_with_lower_transaction_ids_is_later_than_a_try_before_it() {
    let (old, new) = (Postgres::start(), Postgres::start());
    let proxy = Proxy::start(old.address());
    let (address, proxied) = (old.address().to_string(), proxy.address().to_string());
    let url = old.create_database("shop").replace(&address, &proxied);
    let transactions = "DO $$ BEGIN
        FOR i IN 1..2000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$";
    old.psql("shop", transactions);
    let here = storage::open(&url, OPTIONS).await.unwrap();
    let there = storage::open(&new.create_database("shop"), OPTIONS)
        .await
        .unwrap();
    let id = created(&*there, mug(0)).await.id;
    assert_eq!(created(&*here, mug(5)).await.id, id);
    let begin = |storage: &dyn Storage| begun_now(storage, with_key("k", order(id, purchase(1))));
    bought(here.submit_order(begin(&*here)).await);

    proxy.redirect(new.address());
    old.kill();
    while here.get(id).await.is_err() {}
    let earlier = begin(&*here);
    let refused = there.submit_order(begin(&*there)).await.unwrap();
    assert!(matches!(refused, OrderOutcome::Insufficient(_)));
    let raised = there.update(id, stock(5), fenced(1), WriteContext::default());
    assert!(matches!(raised.await.unwrap(), WriteOutcome::Done(_)));
    let outcome = here.submit_order(earlier).await.unwrap();
    assert_eq!(outcome, OrderOutcome::Overtaken);
    bought(here.submit_order(begin(&*here)).await);
}

#[tokio::test]
async fn the_next_try_at_the_server_that_refused_runs_at_once() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(0)).await.id;
        let begin = || begun_now(&*storage, with_key("k", order(id, purchase(1))));
        for fence in 1..=3 {
            let refused = storage.submit_order(begin()).await.unwrap();
            assert!(matches!(refused, OrderOutcome::Insufficient(_)), "{fence}");
        }
        let raised = storage.update(id, stock(5), fenced(1), WriteContext::default());
        assert!(matches!(raised.await.unwrap(), WriteOutcome::Done(_)));
        bought(storage.submit_order(begin()).await);
    })
    .await;
}

#[tokio::test]
async fn a_product_that_did_not_exist_yet_is_not_bought_by_an_earlier_try() {
    let url = new_postgres_database();
    let storage = storage::open(&url, OPTIONS).await.unwrap();
    let begin = || begun_now(&*storage, with_key("k", order(1, purchase(1))));
    let earlier = begin();
    let refused = storage.submit_order(begin()).await.unwrap();
    assert_eq!(refused, OrderOutcome::NoProduct);
    assert_eq!(created(&*storage, mug(5)).await.id, 1);
    let outcome = storage.submit_order(earlier).await.unwrap();
    assert_eq!(outcome, OrderOutcome::Overtaken);
    // The key of a refused order is free for an update.
    let updated = storage.update(1, stock(4), fenced(1), context("k"));
    assert!(matches!(updated.await.unwrap(), WriteOutcome::Done(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_at_two_servers_during_changes_of_the_stock_agree_on_the_outcome() {
    let url = new_postgres_database();
    let shops = [
        storage::open(&url, OPTIONS).await.unwrap(),
        storage::open(&url, OPTIONS).await.unwrap(),
    ];
    let id = created(&*shops[0], mug(0)).await.id;
    for round in 1..=30 {
        let name = format!("round {round}");
        let begin = |shop: &dyn Storage| begun_now(shop, with_key(&name, order(id, purchase(1))));
        // All begin before the first one is sent; a refusal of one is final for the others.
        let begun = [0, 1, 0, 1].map(|n: usize| (shops[n].clone(), begin(&*shops[n])));
        let tries = begun.map(|(shop, order)| {
            tokio::spawn(async move { shop.submit_order(order).await.unwrap() })
        });
        let raised = shops[0].update(id, stock(1), fenced(2 * round - 1), WriteContext::default());
        assert!(matches!(raised.await.unwrap(), WriteOutcome::Done(_)));
        let mut refused = false;
        let mut is_bought = false;
        for outcome in join_all(tries).await {
            match outcome.unwrap() {
                OrderOutcome::Insufficient(_) => refused = true,
                OrderOutcome::Purchased(_) => is_bought = true,
                OrderOutcome::Overtaken | OrderOutcome::AlreadyRecorded(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_ne!(refused, is_bought, "one outcome");
        let lowered = shops[0].update(id, stock(0), fenced(2 * round), WriteContext::default());
        assert!(matches!(lowered.await.unwrap(), WriteOutcome::Done(_)));
    }
    audited(&*shops[0], id).await;
    assert_no_deadlock();
}

#[tokio::test]
async fn an_update_and_a_creation_with_a_key_happen_once() {
    on_each_database(async |storage| {
        let WriteOutcome::Done(product) = storage.create(mug(5), context("new")).await.unwrap()
        else {
            panic!()
        };
        let again = storage.create(mug(5), context("new")).await.unwrap();
        assert_eq!(again, WriteOutcome::AlreadyRecorded(record("1")));
        assert_eq!(storage.count(&Default::default()).await.unwrap(), 1);

        let id = product.id;
        let update = async |changes, fence, name| {
            storage
                .update(id, changes, fenced(fence), context(name))
                .await
                .unwrap()
        };
        assert!(matches!(
            update(stock(4), 1, "k").await,
            WriteOutcome::Done(_)
        ));
        assert_eq!(
            update(stock(4), 2, "k").await,
            WriteOutcome::AlreadyRecorded(record("2"))
        );
        // An update without changes is recorded too.
        assert!(matches!(
            update(Changes::default(), 3, "same").await,
            WriteOutcome::Done(_)
        ));
        assert_eq!(
            update(Changes::default(), 4, "same").await,
            WriteOutcome::AlreadyRecorded(record("2"))
        );
        // A rejection is not recorded.
        assert_eq!(update(stock(3), 1, "late").await, WriteOutcome::Fenced);
        assert_eq!(
            storage.find_record(&key("ann", "late")).await.unwrap(),
            None
        );
        assert_eq!(found(&*storage, id).await.version, 2);
        audited(&*storage, id).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_orders_with_one_key_one_takes_effect() {
    on_each_database(async |storage| {
        let ids = [
            created(&*storage, mug(1000)).await.id,
            created(&*storage, mug(1000)).await.id,
        ];
        for round in 0..20 {
            let name = format!("round {round}");
            let many = (0..16).map(|n| {
                let (storage, order) = (storage.clone(), order(ids[n % 2], purchase(1)));
                let order = with_key(&name, order);
                tokio::spawn(async move { storage.submit_order(order).await.unwrap() })
            });
            let mut responses = HashSet::new();
            let mut effects = 0;
            for outcome in join_all(many.collect::<Vec<_>>()).await {
                match outcome.unwrap() {
                    OrderOutcome::Purchased(entry) => {
                        effects += 1;
                        responses.insert(entry.id.to_string().into_bytes());
                    }
                    OrderOutcome::AlreadyRecorded(recorded) => {
                        responses.insert(recorded.response);
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!((effects, responses.len()), (1, 1));
        }
        let mut sold = 0;
        for id in ids {
            sold += storage
                .count_entries(id, EntryFilter::Purchases)
                .await
                .unwrap();
            audited(&*storage, id).await;
        }
        assert_eq!(sold, 20);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_with_the_same_keys_neither_sell_twice_nor_deadlock() {
    let url = new_postgres_database();
    let shops = [
        storage::open(&url, OPTIONS).await.unwrap(),
        storage::open(&url, OPTIONS).await.unwrap(),
    ];
    let ids = [
        created(&*shops[0], mug(1000)).await.id,
        created(&*shops[0], mug(1000)).await.id,
    ];
    let mut sold = 0;
    for round in 0..30 {
        // Each server sells its own product, with the same keys in opposite order.
        let sales = shops
            .iter()
            .zip(ids)
            .enumerate()
            .map(|(server, (shop, id))| {
                let mut names = (0..8).map(|n| format!("{round}-{n}")).collect::<Vec<_>>();
                if server == 1 {
                    names.reverse();
                }
                let shop = shop.clone();
                tokio::spawn(async move {
                    let orders = names
                        .iter()
                        .map(|name| with_key(name, order(id, purchase(1))));
                    let sold = join_all(orders.map(|order| shop.submit_order(order))).await;
                    let is_new = |outcome| matches!(outcome, Ok(OrderOutcome::Purchased(_)));
                    assert!(sold.iter().all(Result::is_ok), "{sold:?}");
                    sold.into_iter()
                        .filter(|outcome| is_new(outcome.clone()))
                        .count()
                })
            });
        let new = join_all(sales.collect::<Vec<_>>()).await;
        sold += new.into_iter().map(Result::unwrap).sum::<usize>();
    }
    assert_eq!(sold, 30 * 8);
    let ledger = audited(&*shops[0], ids[0]).await.len() + audited(&*shops[0], ids[1]).await.len();
    assert_eq!(ledger - 2, sold);
    assert_no_deadlock();
}

#[tokio::test]
async fn a_record_expires() {
    let short = StorageOptions {
        key_retention: Duration::from_millis(200),
        ..OPTIONS
    };
    on_each_database_with(short, async |storage| {
        let id = created(&*storage, mug(5)).await.id;
        let buy = async || {
            storage
                .submit_order(with_key("k", order(id, purchase(1))))
                .await
        };
        let first = bought(buy().await);
        while storage
            .find_record(&key("ann", "k"))
            .await
            .unwrap()
            .is_some()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // The key is usable again, although the expired record still exists.
        let second = bought(buy().await);
        assert_ne!(first.id, second.id);
        for name in ["a", "b"] {
            bought(
                storage
                    .submit_order(with_key(name, order(id, purchase(1))))
                    .await,
            );
        }
        while storage
            .find_record(&key("ann", "b"))
            .await
            .unwrap()
            .is_some()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(storage.delete_expired_records(2).await.unwrap(), 2);
        assert_eq!(storage.delete_expired_records(2).await.unwrap(), 1);
        assert_eq!(storage.delete_expired_records(2).await.unwrap(), 0);
        audited(&*storage, id).await;
    })
    .await;
}
