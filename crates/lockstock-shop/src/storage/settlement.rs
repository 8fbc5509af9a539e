//! The arithmetic of sales: applies orders, in order of arrival, to a snapshot that a transaction
//! has read, and returns what it has to write.
//!
//! A pure function, shared by both databases: each reads a [`Snapshot`] with the products locked,
//! writes the [`Writes`], and commits.
//!
//! - No unit is sold twice: a purchase takes units that exist and are not set aside for others.
//! - Each order is accepted or rejected on its own, in order of arrival.
//! - Each change is one ledger entry, with the version that it makes, without gaps.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    IdempotencyKey, LedgerEntry, Order, OrderKind, OrderOutcome, Reason, Reservation,
    ReservationState, ResponseRecord, StockLevels,
};

/// The data that a transaction has read for its orders.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// The time of the transaction, by the clock of the database.
    pub(super) now: DateTime<Utc>,
    /// The products that exist.
    pub(super) products: HashMap<i64, ProductState>,
    /// The reservations that orders name, and the reservations of known callers that buy.
    pub(super) reservations: BTreeMap<Uuid, Reservation>,
    /// The records under the idempotency keys of the orders.
    pub(super) records: HashMap<IdempotencyKey, ResponseRecord>,
    /// The keys of orders that may have begun before a refusal under their key.
    pub(super) refused: HashSet<IdempotencyKey>,
}

/// The part of a product that orders change or depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProductState {
    pub(super) price: i64,
    pub(super) version: i64,
    pub(super) levels: StockLevels,
}

/// The data that a transaction must write, and the outcomes to return after its commit.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// One for each order, in the same order.
    pub(super) outcomes: Vec<OrderOutcome>,
    /// In the order in which they happened.
    pub(super) entries: Vec<LedgerEntry>,
    /// Each is new or changed.
    pub(super) reservations: Vec<Reservation>,
    /// Sorted by key, as every transaction writes them: transactions with the same keys cannot
    /// deadlock.
    pub(super) records: BTreeMap<IdempotencyKey, ResponseRecord>,
    /// The refusals under idempotency keys, with the fingerprints of the requests.
    pub(super) refusals: BTreeMap<IdempotencyKey, [u8; 32]>,
    /// Stock and version of the products that were sold.
    pub(super) products: BTreeMap<i64, (i64, i64)>,
}

impl Writes {
    /// Returns whether there is nothing to write.
    pub(super) fn are_empty(&self) -> bool {
        self.entries.is_empty()
            && self.reservations.is_empty()
            && self.records.is_empty()
            && self.refusals.is_empty()
    }
}

/// Applies all orders, one after another.
pub(super) fn settle<'a>(
    orders: impl IntoIterator<Item = &'a Order>,
    snapshot: Snapshot,
) -> Writes {
    let mut settlement = Settlement {
        snapshot,
        writes: Writes::default(),
        changed: HashSet::new(),
    };
    for order in orders {
        let outcome = settlement.apply_once(order);
        settlement.writes.outcomes.push(outcome);
    }
    let Settlement {
        mut snapshot,
        mut writes,
        changed,
    } = settlement;
    snapshot.reservations.retain(|id, _| changed.contains(id));
    writes.reservations = snapshot.reservations.into_values().collect();
    writes
}

/// A settlement in progress. The snapshot always reflects the orders applied so far.
struct Settlement {
    snapshot: Snapshot,
    writes: Writes,
    /// The reservations that are new or changed.
    changed: HashSet<Uuid>,
}

impl Settlement {
    /// Applies an order, unless its idempotency key was used before.
    fn apply_once(&mut self, order: &Order) -> OrderOutcome {
        let Some(idempotency) = &order.idempotency else {
            return self.apply(order);
        };
        let key = &idempotency.key;
        if let Some(record) = self.snapshot.records.get(key) {
            return OrderOutcome::AlreadyRecorded(record.clone());
        }
        if self.snapshot.refused.contains(key) {
            return OrderOutcome::Overtaken;
        }
        let outcome = self.apply(order);
        if outcome.may_change() {
            let fingerprint = idempotency.fingerprint;
            self.writes.refusals.insert(key.clone(), fingerprint);
            self.snapshot.refused.insert(key.clone());
        }
        if let Some(record) = idempotency.record(&outcome) {
            self.writes.records.insert(key.clone(), record.clone());
            self.snapshot.records.insert(key.clone(), record);
        }
        outcome
    }

    fn apply(&mut self, order: &Order) -> OrderOutcome {
        let Some(mut product) = self.snapshot.products.get(&order.product).copied() else {
            return OrderOutcome::NoProduct;
        };
        let outcome = match order.kind {
            OrderKind::Purchase { quantity } => self.purchase(order, &mut product, quantity),
            OrderKind::Reserve { quantity, ttl } => {
                self.reserve(order, &mut product, quantity, self.snapshot.now + ttl)
            }
            OrderKind::Confirm { reservation }
            | OrderKind::Extend { reservation, .. }
            | OrderKind::Cancel { reservation } => {
                let found = self.snapshot.reservations.get(&reservation).cloned();
                let usable = found.filter(|found| {
                    found.product == order.product && found.is_of(&order.request.caller)
                });
                match usable {
                    Some(reservation) => self.settle_reservation(order, &mut product, reservation),
                    None => OrderOutcome::NoReservation,
                }
            }
        };
        self.snapshot.products.insert(order.product, product);
        outcome
    }

    /// Buys units. The caller's own reservations are used up first, as if they were confirmed;
    /// further units must not be set aside.
    fn purchase(
        &mut self,
        order: &Order,
        product: &mut ProductState,
        quantity: i64,
    ) -> OrderOutcome {
        let own = self.held_by(order);
        let levels = levels_for_owner(product.levels, &own);
        if quantity > levels.available() {
            return OrderOutcome::Insufficient(levels);
        }
        let entry = self.sell(order, product, quantity, None);
        let mut remaining = quantity;
        for mut reservation in own {
            let used = remaining.min(reservation.quantity);
            if used == 0 {
                break;
            }
            remaining -= used;
            product.levels.held -= used;
            if used == reservation.quantity {
                reservation.state = ReservationState::Confirmed;
                reservation.purchase = Some(entry.id);
            } else {
                reservation.quantity -= used;
            }
            self.stage(reservation);
        }
        OrderOutcome::Purchased(entry)
    }

    fn reserve(
        &mut self,
        order: &Order,
        product: &mut ProductState,
        quantity: i64,
        expires_at: DateTime<Utc>,
    ) -> OrderOutcome {
        if quantity > product.levels.available() {
            return OrderOutcome::Insufficient(product.levels);
        }
        product.levels.held += quantity;
        let reservation = Reservation {
            // Random: for an unknown caller it is the only proof of ownership.
            id: Uuid::new_v4(),
            product: order.product,
            caller: order.request.caller.to_string(),
            quantity,
            state: ReservationState::Held,
            expires_at,
            purchase: None,
            created_at: self.snapshot.now,
        };
        self.stage(reservation.clone());
        OrderOutcome::Held(reservation)
    }

    /// Confirms, extends or cancels a reservation, if its state allows that.
    fn settle_reservation(
        &mut self,
        order: &Order,
        product: &mut ProductState,
        mut reservation: Reservation,
    ) -> OrderOutcome {
        let (now, quantity) = (self.snapshot.now, reservation.quantity);
        let is_held = reservation.is_held(now);
        match (reservation.state, order.kind) {
            // Cancelled before: cancelling is idempotent.
            (ReservationState::Cancelled, OrderKind::Cancel { .. }) => {
                OrderOutcome::Released(reservation)
            }
            (ReservationState::Cancelled | ReservationState::Confirmed, _) => {
                OrderOutcome::Settled(reservation)
            }
            (ReservationState::Held, OrderKind::Cancel { .. }) => {
                if is_held {
                    product.levels.held -= quantity;
                }
                reservation.state = ReservationState::Cancelled;
                self.stage(reservation.clone());
                OrderOutcome::Released(reservation)
            }
            (ReservationState::Held, _) if !is_held => OrderOutcome::Expired(reservation),
            (ReservationState::Held, OrderKind::Extend { ttl, .. }) => {
                reservation.expires_at = reservation.expires_at.max(now + ttl);
                self.stage(reservation.clone());
                OrderOutcome::Held(reservation)
            }
            // An update has set the stock below the held units.
            (ReservationState::Held, _) if quantity > product.levels.stock => {
                let own = self.held_by(order);
                OrderOutcome::Insufficient(levels_for_owner(product.levels, &own))
            }
            (ReservationState::Held, _) => {
                let entry = self.sell(order, product, quantity, Some(reservation.id));
                product.levels.held -= quantity;
                reservation.state = ReservationState::Confirmed;
                reservation.purchase = Some(entry.id);
                self.stage(reservation);
                OrderOutcome::Purchased(entry)
            }
        }
    }

    fn sell(
        &mut self,
        order: &Order,
        product: &mut ProductState,
        quantity: i64,
        reservation: Option<Uuid>,
    ) -> LedgerEntry {
        product.levels.stock -= quantity;
        product.version += 1;
        let entry = LedgerEntry {
            id: Uuid::now_v7(),
            product: order.product,
            version: product.version,
            reason: match reservation {
                Some(_) => Reason::Confirmed,
                None => Reason::Purchase,
            },
            delta: -quantity,
            stock_after: product.levels.stock,
            unit_price: Some(product.price),
            reservation,
            request: order.request.request_id.to_string(),
            caller: order.request.key_name(),
            fence: None,
            at: self.snapshot.now,
        };
        let now = (entry.stock_after, entry.version);
        self.writes.products.insert(order.product, now);
        self.writes.entries.push(entry.clone());
        entry
    }

    /// Returns what the caller holds of the product, the earliest expiry first.
    fn held_by(&self, order: &Order) -> Vec<Reservation> {
        let caller = &*order.request.caller;
        if caller.is_empty() {
            return Vec::new();
        }
        let is_own = |reservation: &&Reservation| {
            reservation.product == order.product
                && reservation.caller == caller
                && reservation.is_held(self.snapshot.now)
        };
        let mut own = self
            .snapshot
            .reservations
            .values()
            .filter(is_own)
            .cloned()
            .collect::<Vec<_>>();
        own.sort_by_key(|reservation| (reservation.expires_at, reservation.id));
        own
    }

    /// Records a new or changed reservation.
    fn stage(&mut self, reservation: Reservation) {
        self.changed.insert(reservation.id);
        self.snapshot
            .reservations
            .insert(reservation.id, reservation);
    }
}

/// Returns the levels as the owner of reservations sees them. Available are the units of its
/// reservations, and those that are not set aside. If an update has set the stock below the held
/// units, reservations can be used while units are left.
fn levels_for_owner(levels: StockLevels, own: &[Reservation]) -> StockLevels {
    if own.is_empty() {
        return levels;
    }
    let own: i64 = own.iter().map(|reservation| reservation.quantity).sum();
    let available = levels.stock.min(own + levels.available());
    StockLevels {
        stock: levels.stock,
        held: levels.stock - available,
    }
}

#[cfg(test)]
mod tests;
