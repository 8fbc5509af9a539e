//! Purchases and reservations, on each kind of database.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use lockstock_shop::storage::{
    self, EntryFilter, Order, OrderKind, OrderOutcome, Reason, RequestContext, Reservation,
    ReservationState, StockLevels, Storage, WriteContext, WriteOutcome,
};
use lockstock_testkit::Postgres;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    OPTIONS, POSTGRES, assert_no_deadlock, audited, bought, created, fenced, found, mug,
    new_postgres_database, on_each_database, order, purchase, stock,
};

const MINUTE: Duration = Duration::from_secs(60);

fn of(caller: &str, order: Order) -> Order {
    let request = RequestContext {
        request_id: "request".into(),
        caller: caller.into(),
        ..RequestContext::default()
    };
    Order { request, ..order }
}

fn reserve(quantity: i64, ttl: Duration) -> OrderKind {
    OrderKind::Reserve { quantity, ttl }
}

async fn held(storage: &dyn Storage, order: Order) -> Reservation {
    match storage.submit_order(order).await.unwrap() {
        OrderOutcome::Held(reservation) => reservation,
        other => panic!("{other:?}"),
    }
}

fn levels(stock: i64, held: i64) -> StockLevels {
    StockLevels { stock, held }
}

#[tokio::test]
async fn the_last_unit_is_sold_once() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(3)).await.id;
        let both = bought(storage.submit_order(order(id, purchase(2))).await);
        assert_eq!((both.delta, both.stock_after, both.version), (-2, 1, 2));
        assert_eq!(both.unit_price, Some(12_000));
        let more = storage.submit_order(order(id, purchase(2))).await.unwrap();
        assert_eq!(more, OrderOutcome::Insufficient(levels(1, 0)));
        let last = bought(storage.submit_order(order(id, purchase(1))).await);
        let none = storage.submit_order(order(id, purchase(1))).await.unwrap();
        assert_eq!(none, OrderOutcome::Insufficient(levels(0, 0)));
        assert_eq!(
            storage
                .submit_order(order(4711, purchase(1)))
                .await
                .unwrap(),
            OrderOutcome::NoProduct
        );

        assert_eq!(audited(&*storage, id).await[1..], [both.clone(), last]);
        assert_eq!(storage.purchase(both.id).await.unwrap(), Some(both.clone()));
        let only = storage
            .entries(id, EntryFilter::Purchases, 1, 0)
            .await
            .unwrap();
        assert_eq!(only, [both]);
        assert_eq!(
            storage
                .count_entries(id, EntryFilter::Purchases)
                .await
                .unwrap(),
            2
        );
        assert_eq!(storage.purchase(Uuid::nil()).await.unwrap(), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_buyers_and_editors_leave_a_ledger_that_balances() {
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
            tokio::spawn(async move {
                (
                    id,
                    storage.submit_order(order(id, purchase(1))).await.unwrap(),
                )
            })
        });
        let editors = (0..20_u64).map(|n| {
            let (storage, id) = (storage.clone(), ids[usize::try_from(n % 2).unwrap()]);
            tokio::spawn(async move {
                let change = stock(50 + i64::try_from(n).unwrap());
                let written = storage
                    .update(id, change, fenced(100 + n), WriteContext::default())
                    .await;
                matches!(
                    written.unwrap(),
                    WriteOutcome::Done(_) | WriteOutcome::Fenced
                )
            })
        });
        let (bought, edited) = tokio::join!(
            join_all(buyers.collect::<Vec<_>>()),
            join_all(editors.collect::<Vec<_>>())
        );
        assert!(edited.into_iter().all(|edited| edited.unwrap()));
        let bought = bought.into_iter().map(Result::unwrap).collect::<Vec<_>>();
        for id in ids {
            let outcomes = bought.iter().filter(|(product, _)| *product == id);
            let purchases = outcomes.filter_map(|(_, outcome)| match outcome {
                OrderOutcome::Purchased(entry) => Some(entry.clone()),
                OrderOutcome::Insufficient(_) => None,
                other => panic!("{other:?}"),
            });
            let purchases = purchases.map(|entry| entry.id).collect::<HashSet<_>>();
            let entries = audited(&*storage, id).await;
            let sold = entries
                .iter()
                .filter(|entry| entry.reason == Reason::Purchase);
            assert_eq!(purchases, sold.map(|entry| entry.id).collect());
            assert!(purchases.len() >= 50);
        }
    })
    .await;
}

#[tokio::test]
async fn orders_of_one_product_are_carried_out_in_order_of_arrival() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(10)).await.id;
        // Polled in order, they are submitted in order.
        let outcomes =
            join_all((1..=4).map(|n| storage.submit_order(order(id, purchase(n))))).await;
        let versions = outcomes.into_iter().map(|outcome| bought(outcome).version);
        assert!(versions.eq(2..=5));
    })
    .await;
}

#[tokio::test]
async fn a_reservation_sets_units_aside_and_is_confirmed_once() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(5)).await.id;
        let reservation = held(&*storage, of("ann", order(id, reserve(3, MINUTE)))).await;
        let product = found(&*storage, id).await;
        assert_eq!((product.stock, product.held, product.version), (5, 3, 1));
        for other in ["", "bob"] {
            let rejected = storage
                .submit_order(of(other, order(id, purchase(3))))
                .await
                .unwrap();
            assert_eq!(rejected, OrderOutcome::Insufficient(levels(5, 3)));
        }
        let confirm = || {
            order(
                id,
                OrderKind::Confirm {
                    reservation: reservation.id,
                },
            )
        };
        assert_eq!(
            storage.submit_order(of("bob", confirm())).await.unwrap(),
            OrderOutcome::NoReservation
        );
        let purchase = bought(storage.submit_order(of("ann", confirm())).await);
        assert_eq!((purchase.delta, purchase.stock_after), (-3, 2));
        assert_eq!(
            (purchase.reason, purchase.reservation),
            (Reason::Confirmed, Some(reservation.id))
        );
        let OrderOutcome::Settled(again) =
            storage.submit_order(of("ann", confirm())).await.unwrap()
        else {
            panic!()
        };
        assert_eq!(
            (again.state, again.purchase),
            (ReservationState::Confirmed, Some(purchase.id))
        );
        assert_eq!(found(&*storage, id).await.held, 0);
        assert_eq!(audited(&*storage, id).await.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn an_expired_reservation_releases_its_units_without_a_write() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(1)).await.id;
        let reservation = held(&*storage, order(id, reserve(1, Duration::from_millis(300)))).await;
        assert_eq!(
            storage.submit_order(order(id, purchase(1))).await.unwrap(),
            OrderOutcome::Insufficient(levels(1, 1))
        );
        while storage
            .reservation(reservation.id)
            .await
            .unwrap()
            .unwrap()
            .1
        {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(found(&*storage, id).await.held, 0);
        for late in [
            OrderKind::Confirm {
                reservation: reservation.id,
            },
            OrderKind::Extend {
                reservation: reservation.id,
                ttl: MINUTE,
            },
        ] {
            let outcome = storage.submit_order(order(id, late)).await.unwrap();
            assert!(matches!(outcome, OrderOutcome::Expired(_)), "{outcome:?}");
        }
        bought(storage.submit_order(order(id, purchase(1))).await);
        let released = storage
            .submit_order(order(
                id,
                OrderKind::Cancel {
                    reservation: reservation.id,
                },
            ))
            .await;
        assert!(matches!(released.unwrap(), OrderOutcome::Released(_)));
        audited(&*storage, id).await;
    })
    .await;
}

#[tokio::test]
async fn a_reservation_can_be_extended_and_cancelled() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(1)).await.id;
        let reservation = held(&*storage, order(id, reserve(1, MINUTE))).await;
        let extend = |ttl| {
            order(
                id,
                OrderKind::Extend {
                    reservation: reservation.id,
                    ttl,
                },
            )
        };
        let longer = held(&*storage, extend(MINUTE * 10)).await;
        assert!(longer.expires_at > reservation.expires_at);
        let no_shorter = held(&*storage, extend(MINUTE)).await;
        assert_eq!(no_shorter.expires_at, longer.expires_at);
        let cancel = || {
            order(
                id,
                OrderKind::Cancel {
                    reservation: reservation.id,
                },
            )
        };
        for _ in 0..2 {
            let released = storage.submit_order(cancel()).await.unwrap();
            assert!(
                matches!(released, OrderOutcome::Released(_)),
                "{released:?}"
            );
            assert_eq!(found(&*storage, id).await.held, 0);
        }
        let late = storage.submit_order(extend(MINUTE)).await.unwrap();
        assert!(matches!(late, OrderOutcome::Settled(_)), "{late:?}");
        // The reservation belongs to another product.
        let other = created(&*storage, mug(1)).await.id;
        let elsewhere = order(
            other,
            OrderKind::Cancel {
                reservation: reservation.id,
            },
        );
        assert_eq!(
            storage.submit_order(elsewhere).await.unwrap(),
            OrderOutcome::NoReservation
        );
    })
    .await;
}

#[tokio::test]
async fn a_reservation_never_blocks_its_owner_and_is_used_up_by_their_purchases() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(3)).await.id;
        let soon = held(&*storage, of("ann", order(id, reserve(1, MINUTE)))).await;
        let later = held(&*storage, of("ann", order(id, reserve(2, MINUTE * 2)))).await;
        bought(
            storage
                .submit_order(of("ann", order(id, purchase(2))))
                .await,
        );
        let (soon, _) = storage.reservation(soon.id).await.unwrap().unwrap();
        assert_eq!(soon.state, ReservationState::Confirmed);
        let (later, is_held) = storage.reservation(later.id).await.unwrap().unwrap();
        assert_eq!(
            (later.quantity, later.state, is_held),
            (1, ReservationState::Held, true)
        );
        let product = found(&*storage, id).await;
        assert_eq!((product.stock, product.held), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn more_units_can_be_held_than_exist_and_no_more_than_exist_are_sold() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(3)).await.id;
        let reservation = held(&*storage, order(id, reserve(3, MINUTE))).await;
        let set = storage
            .update(id, stock(1), fenced(1), WriteContext::default())
            .await;
        assert!(matches!(set.unwrap(), WriteOutcome::Done(_)));
        assert_eq!(found(&*storage, id).await.stock_levels().available(), 0);
        let confirm = order(
            id,
            OrderKind::Confirm {
                reservation: reservation.id,
            },
        );
        let rejected = storage.submit_order(confirm).await.unwrap();
        assert_eq!(rejected, OrderOutcome::Insufficient(levels(1, 3)));
        audited(&*storage, id).await;
    })
    .await;
}

#[tokio::test]
async fn the_owner_of_a_reservation_may_buy_what_it_may_confirm_if_the_stock_is_short() {
    on_each_database(async |storage| {
        let set = async |id, level, fence| {
            let set = storage.update(id, stock(level), fenced(fence), WriteContext::default());
            assert!(matches!(set.await.unwrap(), WriteOutcome::Done(_)));
        };
        let buy = |caller: &str, id, quantity| of(caller, order(id, purchase(quantity)));
        for is_confirmed in [true, false] {
            let id = created(&*storage, mug(5)).await.id;
            let anns = held(&*storage, of("ann", order(id, reserve(1, MINUTE)))).await;
            held(&*storage, of("bob", order(id, reserve(4, MINUTE)))).await;
            set(id, 2, 1).await;
            // Further units would be those of others.
            let more = storage.submit_order(buy("ann", id, 2)).await.unwrap();
            assert_eq!(more, OrderOutcome::Insufficient(levels(2, 1)));
            let confirm = OrderKind::Confirm {
                reservation: anns.id,
            };
            let one = match is_confirmed {
                true => of("ann", order(id, confirm)),
                false => buy("ann", id, 1),
            };
            assert_eq!(bought(storage.submit_order(one).await).stock_after, 1);
            let bobs = storage.submit_order(buy("bob", id, 2)).await.unwrap();
            assert_eq!(bobs, OrderOutcome::Insufficient(levels(1, 0)));
            bought(storage.submit_order(buy("bob", id, 1)).await);
            let stranger = storage.submit_order(buy("eve", id, 1)).await.unwrap();
            assert!(matches!(stranger, OrderOutcome::Insufficient(_)));
            assert_eq!(found(&*storage, id).await.held, 3);
            audited(&*storage, id).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_product_is_deleted_only_without_reservations() {
    on_each_database(async |storage| {
        let id = created(&*storage, mug(5)).await.id;
        let reservation = held(&*storage, order(id, reserve(2, MINUTE))).await.id;
        let delete = async |fence| {
            let deleted = storage.delete(id, fenced(fence), RequestContext::default());
            deleted.await.unwrap()
        };
        assert_eq!(delete(1).await, WriteOutcome::Held { held: 2 });
        assert!(storage.reservation(reservation).await.unwrap().unwrap().1);
        let cancel = OrderKind::Cancel { reservation };
        let cancelled = storage.submit_order(order(id, cancel)).await.unwrap();
        assert!(matches!(cancelled, OrderOutcome::Released(_)));
        assert!(matches!(delete(1).await, WriteOutcome::Done(_)));
        let confirm = OrderKind::Confirm { reservation };
        let late = storage.submit_order(order(id, confirm)).await.unwrap();
        assert_eq!(late, OrderOutcome::NoProduct);
    })
    .await;
}

/// Two servers on one database.
async fn open_twice(url: &str) -> [Arc<dyn Storage>; 2] {
    [
        storage::open(url, OPTIONS).await.unwrap(),
        storage::open(url, OPTIONS).await.unwrap(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn carts_with_several_products_do_not_deadlock() {
    let shops = open_twice(&new_postgres_database()).await;
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
                let cart = ids
                    .iter()
                    .map(|id| shop.submit_order(order(*id, purchase(1))));
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
    assert_no_deadlock();
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_products_do_not_delay_orders_of_other_products() {
    let url = new_postgres_database();
    let database = url.rsplit_once('/').unwrap().1;
    let shop = storage::open(&url, OPTIONS).await.unwrap();
    let mut locked = Vec::new();
    for _ in 0..6 {
        locked.push(created(&*shop, mug(10)).await.id);
    }
    let free = created(&*shop, mug(10)).await.id;
    let wanted = locked.iter().map(ToString::to_string).collect::<Vec<_>>();
    let text = format!(
        "BEGIN; SELECT FROM products WHERE id IN ({}) FOR UPDATE; SELECT pg_sleep(3600)",
        wanted.join(", ")
    );
    std::thread::scope(|scope| {
        let session = scope.spawn(|| POSTGRES.try_psql(database, &text));
        let last = locked[5];
        let is_locked = format!("SELECT FROM products WHERE id = {last} FOR UPDATE NOWAIT");
        while POSTGRES.try_psql(database, &is_locked).is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let waiting = {
            let (shop, locked) = (shop.clone(), locked.clone());
            tokio::spawn(async move {
                let others = locked[1..]
                    .iter()
                    .map(|id| shop.submit_order(order(*id, purchase(1))));
                let first = (1..=3).map(|n| shop.submit_order(order(locked[0], purchase(n))));
                tokio::join!(join_all(first), join_all(others))
            })
        };
        let handle = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            handle.block_on(async {
                for _ in 0..5 {
                    bought(shop.submit_order(order(free, purchase(1))).await);
                }
            });
        });
        assert!(!waiting.is_finished());
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid() \
                   AND datname = current_database()";
        POSTGRES.psql(database, end);
        session.join().unwrap().unwrap_err();
        let (first, others) = tokio::task::block_in_place(|| handle.block_on(waiting)).unwrap();
        let versions = first.into_iter().map(|outcome| bought(outcome).version);
        assert!(versions.eq(2..=4), "in order of arrival");
        others.into_iter().for_each(|outcome| drop(bought(outcome)));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_survives_a_restart_of_the_database() {
    let server = Postgres::start();
    let url = server.create_database("shop");
    let shop = storage::open(&url, OPTIONS).await.unwrap();
    let id = created(&*shop, mug(10)).await.id;
    bought(shop.submit_order(order(id, purchase(1))).await);
    server.kill();
    server.restart();
    bought(shop.submit_order(order(id, purchase(1))).await);
    assert_eq!(audited(&*shop, id).await.len(), 3);
}
