//! Purchases and reservations, on each kind of database.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use lockstock_shop::storage::{
    self, Cause, Entries, Figures, Order, Origin, Outcome, Reason, Reservation, State, Storage,
    Wish, Written,
};
use lockstock_testkit::Postgres;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    LIMITS, audited, bought, created, found, mug, on_each_database, order, purchase, stock, turn,
};

const MINUTE: Duration = Duration::from_secs(60);

fn of(caller: &str, order: Order) -> Order {
    let origin = Origin {
        request: "request".into(),
        caller: caller.into(),
    };
    Order { origin, ..order }
}

fn reserve(quantity: i64, hold: Duration) -> Wish {
    Wish::Reserve { quantity, hold }
}

async fn held(storage: &dyn Storage, order: Order) -> Reservation {
    match storage.sell(order).await.unwrap() {
        Outcome::Held(reservation) => reservation,
        other => panic!("{other:?}"),
    }
}

fn figures(stock: i64, held: i64) -> Figures {
    Figures { stock, held }
}

#[tokio::test]
async fn the_last_one_is_sold_once() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(3)).await.id;
        let both = bought(storage.sell(order(id, purchase(2))).await);
        assert_eq!((both.delta, both.stock_after, both.version), (-2, 1, 2));
        assert_eq!(both.unit_price, Some(12_000));
        let more = storage.sell(order(id, purchase(2))).await.unwrap();
        assert_eq!(more, Outcome::Insufficient(figures(1, 0)));
        let last = bought(storage.sell(order(id, purchase(1))).await);
        let none = storage.sell(order(id, purchase(1))).await.unwrap();
        assert_eq!(none, Outcome::Insufficient(figures(0, 0)));
        assert_eq!(
            storage.sell(order(4711, purchase(1))).await.unwrap(),
            Outcome::NoProduct
        );

        assert_eq!(audited(&*storage, id).await[1..], [both.clone(), last]);
        assert_eq!(storage.purchase(both.id).await.unwrap(), Some(both.clone()));
        let only = storage.entries(id, Entries::Purchases, 1, 0).await.unwrap();
        assert_eq!(only, [both]);
        assert_eq!(
            storage.count_entries(id, Entries::Purchases).await.unwrap(),
            2
        );
        assert_eq!(storage.purchase(Uuid::nil()).await.unwrap(), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buyers_and_editors_at_once_leave_books_that_balance() {
    on_each_database(async |storage| {
        let (wanted, ids) = (
            300,
            [
                created(&*storage, mug(50)).await.id,
                created(&*storage, mug(50)).await.id,
            ],
        );
        let buyers = (0..wanted).map(|n| {
            let (storage, id) = (storage.clone(), ids[n % 2]);
            tokio::spawn(async move { (id, storage.sell(order(id, purchase(1))).await.unwrap()) })
        });
        let editors = (0..20_u64).map(|n| {
            let (storage, id) = (storage.clone(), ids[usize::try_from(n % 2).unwrap()]);
            tokio::spawn(async move {
                let change = stock(50 + i64::try_from(n).unwrap());
                let written = storage
                    .update(id, change, turn(100 + n), Cause::default())
                    .await;
                matches!(written.unwrap(), Written::Done(_) | Written::Lost)
            })
        });
        let (bought, edited) = tokio::join!(
            join_all(buyers.collect::<Vec<_>>()),
            join_all(editors.collect::<Vec<_>>())
        );
        assert!(edited.into_iter().all(|edited| edited.unwrap()));
        let bought = bought.into_iter().map(Result::unwrap).collect::<Vec<_>>();
        for id in ids {
            let answers = bought.iter().filter(|(product, _)| *product == id);
            let told = answers.filter_map(|(_, outcome)| match outcome {
                Outcome::Purchased(entry) => Some(entry.clone()),
                Outcome::Insufficient(_) => None,
                other => panic!("{other:?}"),
            });
            let told = told.map(|entry| entry.id).collect::<HashSet<_>>();
            let entries = audited(&*storage, id).await;
            let sold = entries
                .iter()
                .filter(|entry| entry.reason == Reason::Purchase);
            assert_eq!(told, sold.map(|entry| entry.id).collect());
            assert!(told.len() >= 50);
        }
    })
    .await;
}

#[tokio::test]
async fn orders_of_one_product_come_in_the_order_in_which_they_were_asked_for() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(10)).await.id;
        // Polled in their order, they are handed in in their order.
        let asked = join_all((1..=4).map(|n| storage.sell(order(id, purchase(n))))).await;
        let versions = asked.into_iter().map(|outcome| bought(outcome).version);
        assert!(versions.eq(2..=5));
    })
    .await;
}

#[tokio::test]
async fn a_hold_keeps_stock_from_others_until_it_becomes_a_purchase_once() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(5)).await.id;
        let hold = held(&*storage, of("ann", order(id, reserve(3, MINUTE)))).await;
        let product = found(&*storage, id).await;
        assert_eq!((product.stock, product.held, product.version), (5, 3, 1));
        for other in ["", "bob"] {
            let refused = storage
                .sell(of(other, order(id, purchase(3))))
                .await
                .unwrap();
            assert_eq!(refused, Outcome::Insufficient(figures(5, 3)));
        }
        let confirm = || {
            order(
                id,
                Wish::Confirm {
                    reservation: hold.id,
                },
            )
        };
        assert_eq!(
            storage.sell(of("bob", confirm())).await.unwrap(),
            Outcome::NoReservation
        );
        let purchase = bought(storage.sell(of("ann", confirm())).await);
        assert_eq!((purchase.delta, purchase.stock_after), (-3, 2));
        assert_eq!(
            (purchase.reason, purchase.reservation),
            (Reason::Confirmed, Some(hold.id))
        );
        let Outcome::Settled(again) = storage.sell(of("ann", confirm())).await.unwrap() else {
            panic!()
        };
        assert_eq!(
            (again.state, again.purchase),
            (State::Confirmed, Some(purchase.id))
        );
        assert_eq!(found(&*storage, id).await.held, 0);
        assert_eq!(audited(&*storage, id).await.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn an_expired_hold_frees_its_stock_without_anybody_doing_anything() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(1)).await.id;
        let hold = held(&*storage, order(id, reserve(1, Duration::from_millis(300)))).await;
        assert_eq!(
            storage.sell(order(id, purchase(1))).await.unwrap(),
            Outcome::Insufficient(figures(1, 1))
        );
        while storage.reservation(hold.id).await.unwrap().unwrap().1 {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(found(&*storage, id).await.held, 0);
        for late in [
            Wish::Confirm {
                reservation: hold.id,
            },
            Wish::Extend {
                reservation: hold.id,
                hold: MINUTE,
            },
        ] {
            let outcome = storage.sell(order(id, late)).await.unwrap();
            assert!(matches!(outcome, Outcome::Expired(_)), "{outcome:?}");
        }
        bought(storage.sell(order(id, purchase(1))).await);
        let released = storage
            .sell(order(
                id,
                Wish::Cancel {
                    reservation: hold.id,
                },
            ))
            .await;
        assert!(matches!(released.unwrap(), Outcome::Released(_)));
        audited(&*storage, id).await;
    })
    .await;
}

#[tokio::test]
async fn a_hold_can_be_extended_and_put_back() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(1)).await.id;
        let hold = held(&*storage, order(id, reserve(1, MINUTE))).await;
        let extend = |hold_for| {
            order(
                id,
                Wish::Extend {
                    reservation: hold.id,
                    hold: hold_for,
                },
            )
        };
        let longer = held(&*storage, extend(MINUTE * 10)).await;
        assert!(longer.expires_at > hold.expires_at);
        let no_shorter = held(&*storage, extend(MINUTE)).await;
        assert_eq!(no_shorter.expires_at, longer.expires_at);
        let cancel = || {
            order(
                id,
                Wish::Cancel {
                    reservation: hold.id,
                },
            )
        };
        for _ in 0..2 {
            let released = storage.sell(cancel()).await.unwrap();
            assert!(matches!(released, Outcome::Released(_)), "{released:?}");
            assert_eq!(found(&*storage, id).await.held, 0);
        }
        let late = storage.sell(extend(MINUTE)).await.unwrap();
        assert!(matches!(late, Outcome::Settled(_)), "{late:?}");
        // Of another product it is none.
        let other = created(&*storage, mug(1)).await.id;
        let elsewhere = order(
            other,
            Wish::Cancel {
                reservation: hold.id,
            },
        );
        assert_eq!(
            storage.sell(elsewhere).await.unwrap(),
            Outcome::NoReservation
        );
    })
    .await;
}

#[tokio::test]
async fn a_hold_never_blocks_its_owner_and_is_used_up_by_what_they_buy() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(3)).await.id;
        let soon = held(&*storage, of("ann", order(id, reserve(1, MINUTE)))).await;
        let later = held(&*storage, of("ann", order(id, reserve(2, MINUTE * 2)))).await;
        bought(storage.sell(of("ann", order(id, purchase(2)))).await);
        let (soon, _) = storage.reservation(soon.id).await.unwrap().unwrap();
        assert_eq!(soon.state, State::Confirmed);
        let (later, is_held) = storage.reservation(later.id).await.unwrap().unwrap();
        assert_eq!(
            (later.quantity, later.state, is_held),
            (1, State::Held, true)
        );
        let product = found(&*storage, id).await;
        assert_eq!((product.stock, product.held), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn what_is_held_can_be_more_than_there_is_and_sells_no_more_than_that() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(3)).await.id;
        let hold = held(&*storage, order(id, reserve(3, MINUTE))).await;
        let set = storage
            .update(id, stock(1), turn(1), Cause::default())
            .await;
        assert!(matches!(set.unwrap(), Written::Done(_)));
        assert_eq!(found(&*storage, id).await.figures().available(), 0);
        let confirm = order(
            id,
            Wish::Confirm {
                reservation: hold.id,
            },
        );
        let refused = storage.sell(confirm).await.unwrap();
        assert_eq!(refused, Outcome::Insufficient(figures(1, 3)));
        audited(&*storage, id).await;
    })
    .await;
}

/// Two servers on one database.
async fn two(server: &Postgres) -> [Arc<dyn Storage>; 2] {
    let url = server.create_database("shop");
    [
        storage::open(&url, LIMITS).await.unwrap(),
        storage::open(&url, LIMITS).await.unwrap(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn carts_with_several_products_do_not_wait_for_each_other_in_a_circle() {
    let server = Postgres::start();
    let shops = two(&server).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(created(&*shops[0], mug(1_000_000)).await.id);
    }
    let carts = (0..40).map(|n: usize| {
        let (shop, mut ids) = (shops[n % 2].clone(), ids.clone());
        ids.rotate_left(n % 5);
        if n.is_multiple_of(3) {
            ids.reverse();
        }
        tokio::spawn(async move {
            for _ in 0..10 {
                let cart = ids.iter().map(|id| shop.sell(order(*id, purchase(1))));
                for outcome in join_all(cart).await {
                    bought(outcome);
                }
            }
        })
    });
    for cart in join_all(carts.collect::<Vec<_>>()).await {
        cart.unwrap();
    }
    for id in ids {
        assert_eq!(audited(&*shops[0], id).await.len(), 401);
    }
    assert!(!server.log().contains("deadlock"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_product_that_somebody_has_locked_holds_up_nobody_elses_orders() {
    let server = Postgres::start();
    let [shop, _] = two(&server).await;
    let locked = created(&*shop, mug(10)).await.id;
    let free = created(&*shop, mug(10)).await.id;
    let text = format!(
        "BEGIN; SELECT FROM products WHERE id = {locked} FOR UPDATE; \
         SELECT pg_notify('locked', ''); SELECT pg_sleep(3600)"
    );
    std::thread::scope(|scope| {
        let session = scope.spawn(|| server.try_psql("shop", &text));
        let is_locked = format!("SELECT FROM products WHERE id = {locked} FOR UPDATE NOWAIT");
        while server.try_psql("shop", &is_locked).is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let waiting = {
            let shop = shop.clone();
            tokio::spawn(async move {
                join_all((1..=3).map(|n| shop.sell(order(locked, purchase(n))))).await
            })
        };
        let handle = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            handle.block_on(async {
                for _ in 0..5 {
                    bought(shop.sell(order(free, purchase(1))).await);
                }
            });
        });
        assert!(!waiting.is_finished());
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()";
        server.psql("shop", end);
        session.join().unwrap().unwrap_err();
        let outcomes = tokio::task::block_in_place(|| handle.block_on(waiting)).unwrap();
        let versions = outcomes.into_iter().map(|outcome| bought(outcome).version);
        assert!(versions.eq(2..=4), "in their order");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_database_is_no_reason_to_refuse_an_order() {
    let server = Postgres::start();
    let [shop, _] = two(&server).await;
    let id = created(&*shop, mug(10)).await.id;
    bought(shop.sell(order(id, purchase(1))).await);
    server.kill();
    server.restart();
    bought(shop.sell(order(id, purchase(1))).await);
    assert_eq!(audited(&*shop, id).await.len(), 3);
}
