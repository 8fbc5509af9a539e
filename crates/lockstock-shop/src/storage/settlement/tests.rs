//! The arithmetic of sales, tried with orders of chance.

use super::*;
use crate::storage::sale::{Once, Origin};
use proptest::prelude::*;
use std::time::Duration;

const NOW: i64 = 1_700_000_000;

/// An order, before it is known which reservations there are.
#[derive(Debug, Clone)]
struct Draft {
    product: i64,
    caller: usize,
    wish: usize,
    quantity: i64,
    which: usize,
    key: Option<usize>,
}

fn draft() -> impl Strategy<Value = Draft> {
    let key = proptest::option::weighted(0.3, 0..4_usize);
    (1..4_i64, 0..3_usize, 0..6_usize, 1..5_i64, 0..6_usize, key).prop_map(
        |(product, caller, wish, quantity, which, key)| Draft {
            product,
            caller,
            wish,
            quantity,
            which,
            key,
        },
    )
}

fn held_before(quantity: i64, product: i64, caller: usize, left: i64) -> Reservation {
    Reservation {
        id: Uuid::now_v7(),
        product,
        caller: CALLERS[caller].to_owned(),
        quantity,
        state: State::Held,
        expires_at: at(NOW + left),
        purchase: None,
        created_at: at(NOW - 100),
    }
}

const CALLERS: [&str; 3] = ["", "ann", "bob"];

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn held(reservations: &BTreeMap<Uuid, Reservation>, product: i64) -> i64 {
    let held = reservations.values().filter(|r| r.product == product);
    held.filter(|r| r.is_held(at(NOW)))
        .map(|r| r.quantity)
        .sum()
}

/// What is told of an outcome under a key: for the tests its debug text, if it did something.
fn told(outcome: &Outcome) -> Option<Vec<u8>> {
    let did = matches!(
        outcome,
        Outcome::Purchased(_) | Outcome::Held(_) | Outcome::Released(_)
    );
    did.then(|| format!("{outcome:?}").into_bytes())
}

proptest! {
    #[test]
    fn the_books_balance(
        stocks in proptest::collection::vec(0..12_i64, 2),
        before in proptest::collection::vec((1..4_i64, 1..3_i64, 0..3_usize, -2..3_i64), 0..5),
        drafts in proptest::collection::vec(draft(), 1..40),
    ) {
        let reservations: BTreeMap<_, _> = before
            .into_iter()
            .map(|(quantity, product, caller, left)| {
                let reservation = held_before(quantity, product, caller, left);
                (reservation.id, reservation)
            })
            .collect();
        let ids: Vec<Uuid> = reservations.keys().copied().collect();
        // There are products 1 and 2, and none with the number 3.
        let products: HashMap<_, _> = (1..)
            .zip(&stocks)
            .map(|(id, stock)| {
                let figures = Figures { stock: *stock, held: held(&reservations, id) };
                (id, OnShelf { price: 100 * id, version: 7, figures })
            })
            .collect();
        let orders: Vec<Order> = drafts.iter().map(|draft| order(draft, &ids)).collect();
        let shelf = Shelf {
            now: at(NOW),
            products: products.clone(),
            reservations: reservations.clone(),
            records: HashMap::new(),
        };
        let books = settle(&orders, shelf);

        prop_assert_eq!(books.outcomes.len(), orders.len());
        let mut after = reservations.clone();
        after.extend(books.reservations.iter().map(|r| (r.id, r.clone())));
        for (id, product) in &products {
            // The ledger alone tells stock and version, without a gap and never below zero.
            let (mut stock, mut version) = (product.figures.stock, product.version);
            for entry in books.entries.iter().filter(|entry| entry.product == *id) {
                stock += entry.delta;
                version += 1;
                prop_assert_eq!((entry.stock_after, entry.version), (stock, version));
                prop_assert!(stock >= 0 && entry.delta < 0);
            }
            let written = books.products.get(id).copied();
            let changed = version > product.version;
            prop_assert_eq!(written, changed.then_some((stock, version)));
            // Nobody was sold what is held for another.
            let held_after = held(&after, *id);
            let short_before = product.figures.held > product.figures.stock;
            prop_assert!(short_before || held_after <= stock);
        }
        prop_assert!(books.entries.iter().all(|entry| products.contains_key(&entry.product)));
        // Each purchase that was answered is one entry, and each entry is one answer.
        let answered: Vec<_> = books.outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Purchased(entry) => Some(entry.clone()),
            _ => None,
        }).collect();
        prop_assert_eq!(&answered, &books.entries);
        // A hold becomes a purchase once.
        for reservation in after.values() {
            let bought = books.entries.iter().filter(|entry| {
                entry.reservation == Some(reservation.id)
            });
            prop_assert!(bought.count() <= 1);
            prop_assert_eq!(reservation.purchase.is_some(), reservation.state == State::Confirmed);
        }
        // A key has one effect, and says afterwards what that was.
        let mut known = HashMap::new();
        for (order, outcome) in orders.iter().zip(&books.outcomes) {
            let Some(once) = &order.once else { continue };
            match known.get(&once.key) {
                Some(first) => {
                    let Outcome::Recorded(recorded) = outcome else {
                        panic!("{outcome:?}")
                    };
                    prop_assert_eq!(recorded, first);
                }
                None => {
                    if let Some(recorded) = once.record(outcome) {
                        known.insert(once.key.clone(), recorded);
                    }
                }
            }
        }
        let records: HashMap<_, _> = books.records.into_iter().collect();
        prop_assert_eq!(records, known);
    }
}

fn order(draft: &Draft, ids: &[Uuid]) -> Order {
    let reservation = ids.get(draft.which).copied().unwrap_or_default();
    let (quantity, hold) = (draft.quantity, Duration::from_secs(60));
    let wish = match draft.wish {
        0 | 1 => Wish::Purchase { quantity },
        2 => Wish::Reserve { quantity, hold },
        3 => Wish::Confirm { reservation },
        4 => Wish::Extend { reservation, hold },
        _ => Wish::Cancel { reservation },
    };
    let caller = CALLERS[draft.caller];
    let once = draft.key.map(|key| Once {
        key: Key {
            caller: caller.into(),
            key: format!("key-{key}").into(),
        },
        fingerprint: [0; 32],
        answer: told,
    });
    Order {
        product: draft.product,
        wish,
        origin: Origin {
            request: "r".into(),
            caller: caller.into(),
        },
        once,
    }
}

#[test]
fn a_hold_does_not_block_its_owner_and_is_used_up_by_what_they_buy() {
    let hold = held_before(2, 1, 1, 60);
    let shelf = |caller: &str, quantity| {
        let figures = Figures { stock: 2, held: 2 };
        let shelf = Shelf {
            now: at(NOW),
            products: HashMap::from([(
                1,
                OnShelf {
                    price: 1,
                    version: 1,
                    figures,
                },
            )]),
            reservations: BTreeMap::from([(hold.id, hold.clone())]),
            records: HashMap::new(),
        };
        let origin = Origin {
            request: "r".into(),
            caller: caller.into(),
        };
        let wish = Wish::Purchase { quantity };
        settle(
            &[Order {
                product: 1,
                wish,
                origin,
                once: None,
            }],
            shelf,
        )
    };
    for stranger in ["", "bob"] {
        let figures = Figures { stock: 2, held: 2 };
        assert_eq!(
            shelf(stranger, 1).outcomes,
            [Outcome::Insufficient(figures)]
        );
    }
    let one = shelf("ann", 1);
    assert!(matches!(one.outcomes[..], [Outcome::Purchased(_)]));
    assert_eq!(one.reservations[0].quantity, 1);
    assert_eq!(one.reservations[0].state, State::Held);
    let both = shelf("ann", 2);
    assert_eq!(both.reservations[0].state, State::Confirmed);
    assert_eq!(both.reservations[0].purchase, Some(both.entries[0].id));
}
