//! What is asked for under a key has one effect, on each kind of database.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use lockstock_shop::storage::{
    self, Cause, Changes, Entries, Key, Limits, Once, Order, Origin, Outcome, Product, Recorded,
    Written,
};
use lockstock_testkit::Postgres;

use crate::{
    LIMITS, audited, bought, created, found, mug, on_each_database, order, purchase, stock, turn,
};

fn key(caller: &str, key: &str) -> Key {
    Key {
        caller: caller.into(),
        key: key.into(),
    }
}

fn once<T>(name: &str, answer: fn(&T) -> Option<Vec<u8>>) -> Option<Once<T>> {
    Some(Once {
        key: key("ann", name),
        fingerprint: [7; 32],
        answer,
    })
}

fn under(name: &str, order: Order) -> Order {
    let answer = |outcome: &Outcome| match outcome {
        Outcome::Purchased(entry) => Some(entry.id.to_string().into_bytes()),
        _ => None,
    };
    Order {
        once: once(name, answer),
        ..order
    }
}

fn cause(name: &str) -> Cause {
    Cause {
        origin: Origin::default(),
        once: once(name, |product: &Product| {
            Some(product.version.to_string().into_bytes())
        }),
    }
}

fn answer(text: &str) -> Recorded {
    Recorded {
        fingerprint: [7; 32],
        answer: text.into(),
    }
}

#[tokio::test]
async fn a_purchase_under_a_key_is_one_purchase() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(5)).await.id;
        let first = bought(storage.sell(under("k", order(id, purchase(1)))).await);
        let recorded = answer(&first.id.to_string());
        assert_eq!(
            storage.recorded(&key("ann", "k")).await.unwrap(),
            Some(recorded.clone())
        );
        assert_eq!(storage.recorded(&key("bob", "k")).await.unwrap(), None);
        // Of the same product or of another: the key is used.
        let other = created(&*storage, mug(5)).await.id;
        for again in [id, other] {
            let outcome = storage
                .sell(under("k", order(again, purchase(1))))
                .await
                .unwrap();
            assert_eq!(outcome, Outcome::Recorded(recorded.clone()));
        }
        assert_eq!(audited(&*storage, id).await.len(), 2);
        assert_eq!(audited(&*storage, other).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn what_had_no_effect_leaves_the_key_free() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(1)).await.id;
        let refused = storage
            .sell(under("k", order(id, purchase(2))))
            .await
            .unwrap();
        assert!(matches!(refused, Outcome::Insufficient(_)));
        assert_eq!(storage.recorded(&key("ann", "k")).await.unwrap(), None);
        bought(storage.sell(under("k", order(id, purchase(1)))).await);
    })
    .await;
}

#[tokio::test]
async fn a_change_and_a_creation_under_a_key_happen_once() {
    on_each_database(async |storage| {
        let Written::Done(product) = storage.create(mug(5), cause("new")).await.unwrap() else {
            panic!()
        };
        let again = storage.create(mug(5), cause("new")).await.unwrap();
        assert_eq!(again, Written::Recorded(answer("1")));
        assert_eq!(storage.count(&Default::default()).await.unwrap(), 1);

        let id = product.id;
        let update = async |changes, fence, name| {
            storage
                .update(id, changes, turn(fence), cause(name))
                .await
                .unwrap()
        };
        assert!(matches!(update(stock(4), 1, "k").await, Written::Done(_)));
        assert_eq!(
            update(stock(4), 2, "k").await,
            Written::Recorded(answer("2"))
        );
        // Nothing to change is an answer too.
        assert!(matches!(
            update(Changes::default(), 3, "same").await,
            Written::Done(_)
        ));
        assert_eq!(
            update(Changes::default(), 4, "same").await,
            Written::Recorded(answer("2"))
        );
        // A refusal is none.
        assert_eq!(update(stock(3), 1, "late").await, Written::Lost);
        assert_eq!(storage.recorded(&key("ann", "late")).await.unwrap(), None);
        assert_eq!(found(&*storage, id).await.version, 2);
        audited(&*storage, id).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_under_one_key_one_takes_effect() {
    on_each_database(async |storage| {
        let ids = [
            created(&*storage, mug(1000)).await.id,
            created(&*storage, mug(1000)).await.id,
        ];
        for round in 0..20 {
            let name = format!("round {round}");
            let many = (0..16).map(|n| {
                let (storage, order) = (storage.clone(), order(ids[n % 2], purchase(1)));
                let order = under(&name, order);
                tokio::spawn(async move { storage.sell(order).await.unwrap() })
            });
            let mut answers = HashSet::new();
            let mut effects = 0;
            for outcome in join_all(many.collect::<Vec<_>>()).await {
                match outcome.unwrap() {
                    Outcome::Purchased(entry) => {
                        effects += 1;
                        answers.insert(entry.id.to_string().into_bytes());
                    }
                    Outcome::Recorded(recorded) => {
                        answers.insert(recorded.answer);
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!((effects, answers.len()), (1, 1));
        }
        let mut sold = 0;
        for id in ids {
            sold += storage.count_entries(id, Entries::Purchases).await.unwrap();
            audited(&*storage, id).await;
        }
        assert_eq!(sold, 20);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_with_each_others_keys_neither_sell_twice_nor_wait_for_ever() {
    let server = Postgres::start();
    let url = server.create_database("shop");
    let shops = [
        storage::open(&url, LIMITS).await.unwrap(),
        storage::open(&url, LIMITS).await.unwrap(),
    ];
    let ids = [
        created(&*shops[0], mug(1000)).await.id,
        created(&*shops[0], mug(1000)).await.id,
    ];
    let mut sold = 0;
    for round in 0..30 {
        // Each server sells another product, and all of them under the same keys in another
        // order.
        let sales = shops.iter().zip(ids).enumerate().map(|(turn, (shop, id))| {
            let mut names = (0..8).map(|n| format!("{round}-{n}")).collect::<Vec<_>>();
            if turn == 1 {
                names.reverse();
            }
            let shop = shop.clone();
            tokio::spawn(async move {
                let orders = names.iter().map(|name| under(name, order(id, purchase(1))));
                let sold = join_all(orders.map(|order| shop.sell(order))).await;
                let is_new = |outcome| matches!(outcome, Ok(Outcome::Purchased(_)));
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
    assert!(!server.log().contains("deadlock"), "{}", server.log());
}

#[tokio::test]
async fn a_key_is_forgotten_when_its_time_is_over() {
    let short = Limits {
        key_retention: Duration::from_millis(200),
        ..LIMITS
    };
    let folder = tempfile::tempdir().unwrap();
    let server = Postgres::start();
    for url in [
        format!("sqlite://{}", folder.path().join("shop.sqlite3").display()),
        server.create_database("shop"),
    ] {
        let storage = storage::open(&url, short).await.unwrap();
        let id = created(&*storage, mug(5)).await.id;
        let buy = async || storage.sell(under("k", order(id, purchase(1)))).await;
        let first = bought(buy().await);
        while storage.recorded(&key("ann", "k")).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Anew, before anybody has swept.
        let second = bought(buy().await);
        assert_ne!(first.id, second.id);
        for name in ["a", "b"] {
            bought(storage.sell(under(name, order(id, purchase(1)))).await);
        }
        while storage.recorded(&key("ann", "b")).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(storage.forget(2).await.unwrap(), 2, "in small steps");
        assert_eq!(storage.forget(2).await.unwrap(), 1);
        assert_eq!(storage.forget(2).await.unwrap(), 0);
        audited(&*storage, id).await;
        storage.close().await;
    }
}
