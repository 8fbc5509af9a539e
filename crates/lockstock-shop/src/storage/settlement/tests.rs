//! The arithmetic of sales, tested with random orders.

use super::*;
use crate::storage::{IdempotentWrite, RequestContext};
use proptest::prelude::*;
use std::time::Duration;

const NOW: i64 = 1_700_000_000;

/// An order, before the reservations are recorded.
#[derive(Debug, Clone)]
struct Draft {
    product: i64,
    caller: usize,
    kind: usize,
    quantity: i64,
    which: usize,
    key: Option<usize>,
}

fn draft() -> impl Strategy<Value = Draft> {
    let key = proptest::option::weighted(0.3, 0..4_usize);
    (1..4_i64, 0..3_usize, 0..6_usize, 1..5_i64, 0..6_usize, key).prop_map(
        |(product, caller, kind, quantity, which, key)| Draft {
            product,
            caller,
            kind,
            quantity,
            which,
            key,
        },
    )
}

fn held_before(quantity: i64, product: i64, caller: usize, ttl: i64) -> Reservation {
    Reservation {
        id: Uuid::now_v7(),
        product,
        caller: CALLERS[caller].to_owned(),
        quantity,
        state: ReservationState::Held,
        expires_at: at(NOW + ttl),
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

/// The response recorded for an outcome: its debug text, if it had an effect.
fn recorded_response(outcome: &OrderOutcome) -> Option<Vec<u8>> {
    let had_effect = matches!(
        outcome,
        OrderOutcome::Purchased(_) | OrderOutcome::Held(_) | OrderOutcome::Released(_)
    );
    had_effect.then(|| format!("{outcome:?}").into_bytes())
}

proptest! {
    #[test]
    fn the_ledger_balances(
        stocks in proptest::collection::vec(0..12_i64, 2),
        before in proptest::collection::vec((1..4_i64, 1..3_i64, 0..3_usize, -2..3_i64), 0..5),
        drafts in proptest::collection::vec(draft(), 1..40),
    ) {
        let reservations: BTreeMap<_, _> = before
            .into_iter()
            .map(|(quantity, product, caller, ttl)| {
                let reservation = held_before(quantity, product, caller, ttl);
                (reservation.id, reservation)
            })
            .collect();
        let ids: Vec<Uuid> = reservations.keys().copied().collect();
        // Products 1 and 2 exist, 3 does not.
        let products: HashMap<_, _> = (1..)
            .zip(&stocks)
            .map(|(id, stock)| {
                let levels = StockLevels { stock: *stock, held: held(&reservations, id) };
                (id, ProductState { price: 100 * id, version: 7, levels })
            })
            .collect();
        let orders: Vec<Order> = drafts.iter().map(|draft| order(draft, &ids)).collect();
        let snapshot = Snapshot {
            now: at(NOW),
            products: products.clone(),
            reservations: reservations.clone(),
            ..Snapshot::default()
        };
        let writes = settle(&orders, snapshot);

        prop_assert_eq!(writes.outcomes.len(), orders.len());
        let mut after = reservations.clone();
        after.extend(writes.reservations.iter().map(|r| (r.id, r.clone())));
        for (id, product) in &products {
            // Stock and version follow from the ledger, without gaps and never below zero.
            let (mut stock, mut version) = (product.levels.stock, product.version);
            for entry in writes.entries.iter().filter(|entry| entry.product == *id) {
                stock += entry.delta;
                version += 1;
                prop_assert_eq!((entry.stock_after, entry.version), (stock, version));
                prop_assert!(stock >= 0 && entry.delta < 0);
            }
            let written = writes.products.get(id).copied();
            let changed = version > product.version;
            prop_assert_eq!(written, changed.then_some((stock, version)));
            // No purchase took units that are set aside for another caller.
            let held_after = held(&after, *id);
            let short_before = product.levels.held > product.levels.stock;
            prop_assert!(short_before || held_after <= stock);
        }
        prop_assert!(writes.entries.iter().all(|entry| products.contains_key(&entry.product)));
        // Each purchase is one entry, and each entry is one purchase.
        let purchased: Vec<_> = writes.outcomes.iter().filter_map(|outcome| match outcome {
            OrderOutcome::Purchased(entry) => Some(entry.clone()),
            _ => None,
        }).collect();
        prop_assert_eq!(&purchased, &writes.entries);
        // A reservation is confirmed at most once.
        for reservation in after.values() {
            let bought = writes.entries.iter().filter(|entry| {
                entry.reservation == Some(reservation.id)
            });
            prop_assert!(bought.count() <= 1);
            prop_assert_eq!(reservation.purchase.is_some(), reservation.state == ReservationState::Confirmed);
        }
        // A key has one effect; later orders under it return its record.
        let mut records = HashMap::new();
        for (order, outcome) in orders.iter().zip(&writes.outcomes) {
            let Some(idempotency) = &order.idempotency else { continue };
            match records.get(&idempotency.key) {
                Some(first) => {
                    let OrderOutcome::AlreadyRecorded(recorded) = outcome else {
                        panic!("{outcome:?}")
                    };
                    prop_assert_eq!(recorded, first);
                }
                None => {
                    if let Some(recorded) = idempotency.record(outcome) {
                        records.insert(idempotency.key.clone(), recorded);
                    }
                }
            }
        }
        let written: HashMap<_, _> = writes.records.into_iter().collect();
        prop_assert_eq!(written, records);
    }
}

fn order(draft: &Draft, ids: &[Uuid]) -> Order {
    let reservation = ids.get(draft.which).copied().unwrap_or_default();
    let (quantity, ttl) = (draft.quantity, Duration::from_secs(60));
    let kind = match draft.kind {
        0 | 1 => OrderKind::Purchase { quantity },
        2 => OrderKind::Reserve { quantity, ttl },
        3 => OrderKind::Confirm { reservation },
        4 => OrderKind::Extend { reservation, ttl },
        _ => OrderKind::Cancel { reservation },
    };
    let caller = CALLERS[draft.caller];
    let idempotency = draft.key.map(|key| IdempotentWrite {
        key: IdempotencyKey {
            caller: caller.into(),
            key: format!("key-{key}").into(),
        },
        fingerprint: [0; 32],
        response: recorded_response,
    });
    Order {
        product: draft.product,
        kind,
        request: RequestContext {
            request_id: "r".into(),
            caller: caller.into(),
            ..RequestContext::default()
        },
        idempotency,
    }
}

#[test]
fn a_reservation_does_not_block_its_owner_and_is_used_up_by_their_purchases() {
    let reservation = held_before(2, 1, 1, 60);
    let buy = |caller: &str, quantity| {
        let levels = StockLevels { stock: 2, held: 2 };
        let snapshot = Snapshot {
            now: at(NOW),
            products: HashMap::from([(
                1,
                ProductState {
                    price: 1,
                    version: 1,
                    levels,
                },
            )]),
            reservations: BTreeMap::from([(reservation.id, reservation.clone())]),
            ..Snapshot::default()
        };
        let request = RequestContext {
            request_id: "r".into(),
            caller: caller.into(),
            ..RequestContext::default()
        };
        let kind = OrderKind::Purchase { quantity };
        settle(
            &[Order {
                product: 1,
                kind,
                request,
                idempotency: None,
            }],
            snapshot,
        )
    };
    for stranger in ["", "bob"] {
        let levels = StockLevels { stock: 2, held: 2 };
        assert_eq!(
            buy(stranger, 1).outcomes,
            [OrderOutcome::Insufficient(levels)]
        );
    }
    let one = buy("ann", 1);
    assert!(matches!(one.outcomes[..], [OrderOutcome::Purchased(_)]));
    assert_eq!(one.reservations[0].quantity, 1);
    assert_eq!(one.reservations[0].state, ReservationState::Held);
    let both = buy("ann", 2);
    assert_eq!(both.reservations[0].state, ReservationState::Confirmed);
    assert_eq!(both.reservations[0].purchase, Some(both.entries[0].id));
}
