//! The arithmetic of sales: orders in their order of arrival against what a transaction has
//! read, and what it has to write. It knows no database; each kind of them reads a [`Shelf`]
//! with the products locked, writes the [`Books`], and commits.
//!
//! - Stock is never sold twice: what is bought comes from what is there and not held by others.
//! - Each order is admitted or refused for itself, in order of arrival.
//! - Every change is one entry of the ledger, with the version it makes, without gaps.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::sale::{
    Entry, Figures, Key, Order, Outcome, Reason, Recorded, Reservation, State, Wish,
};

/// What the transaction has read of the products that orders name.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// The time of the transaction, by the database's clock.
    pub(super) now: DateTime<Utc>,
    /// Those that exist.
    pub(super) products: HashMap<i64, OnShelf>,
    /// Those that orders name, and those of callers who buy.
    pub(super) reservations: BTreeMap<Uuid, Reservation>,
    /// What was answered under the keys that orders have.
    pub(super) records: HashMap<Key, Recorded>,
}

/// A product, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub(super) struct OnShelf {
    pub(super) price: i64,
    pub(super) version: i64,
    pub(super) figures: Figures,
}

/// What the transaction has to write, and to answer after its commit.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// In the order of the orders.
    pub(super) outcomes: Vec<Outcome>,
    /// In the order in which they happened.
    pub(super) entries: Vec<Entry>,
    /// As they are now: each is new, or was changed.
    pub(super) reservations: Vec<Reservation>,
    /// By key, as all who write several write them: whoever waits for another's key holds none
    /// that the other waits for.
    pub(super) records: BTreeMap<Key, Recorded>,
    /// The products that were sold of: stock and version.
    pub(super) products: BTreeMap<i64, (i64, i64)>,
}

impl Books {
    /// Nothing happened: there is nothing to write.
    pub(super) fn are_empty(&self) -> bool {
        self.entries.is_empty() && self.reservations.is_empty() && self.records.is_empty()
    }
}

/// Carries out all orders, one after the other.
pub(super) fn settle<'a>(orders: impl IntoIterator<Item = &'a Order>, shelf: Shelf) -> Books {
    let mut till = Till {
        shelf,
        books: Books::default(),
        touched: HashSet::new(),
    };
    for order in orders {
        let outcome = till.once(order);
        till.books.outcomes.push(outcome);
    }
    let Till {
        mut shelf,
        mut books,
        touched,
    } = till;
    shelf.reservations.retain(|id, _| touched.contains(id));
    books.reservations = shelf.reservations.into_values().collect();
    books
}

struct Till {
    shelf: Shelf,
    books: Books,
    /// The reservations that are new or changed.
    touched: HashSet<Uuid>,
}

impl Till {
    fn once(&mut self, order: &Order) -> Outcome {
        let Some(once) = &order.once else {
            return self.take(order);
        };
        if let Some(recorded) = self.shelf.records.get(&once.key) {
            return Outcome::Recorded(recorded.clone());
        }
        let outcome = self.take(order);
        if let Some(recorded) = once.record(&outcome) {
            let records = &mut self.books.records;
            records.insert(once.key.clone(), recorded.clone());
            self.shelf.records.insert(once.key.clone(), recorded);
        }
        outcome
    }

    fn take(&mut self, order: &Order) -> Outcome {
        let Some(mut product) = self.shelf.products.get(&order.product).copied() else {
            return Outcome::NoProduct;
        };
        let outcome = match order.wish {
            Wish::Purchase { quantity } => self.purchase(order, &mut product, quantity),
            Wish::Reserve { quantity, hold } => {
                self.reserve(order, &mut product, quantity, self.shelf.now + hold)
            }
            Wish::Confirm { reservation }
            | Wish::Extend { reservation, .. }
            | Wish::Cancel { reservation } => {
                let found = self.shelf.reservations.get(&reservation).cloned();
                let ours = found.filter(|found| {
                    found.product == order.product && found.is_of(&order.origin.caller)
                });
                match ours {
                    Some(reservation) => self.settle(order, &mut product, reservation),
                    None => Outcome::NoReservation,
                }
            }
        };
        self.shelf.products.insert(order.product, product);
        outcome
    }

    /// Of what is there and not held by others. What the caller holds is used first: it was
    /// held for this.
    fn purchase(&mut self, order: &Order, product: &mut OnShelf, quantity: i64) -> Outcome {
        let own = self.held_by(order);
        let held_by_caller: i64 = own.iter().map(|reservation| reservation.quantity).sum();
        let others = Figures {
            held: product.figures.held - held_by_caller,
            ..product.figures
        };
        if quantity > others.available() {
            return Outcome::Insufficient(others);
        }
        let entry = self.sell(order, product, quantity, None);
        let mut left = quantity;
        for mut reservation in own {
            let used = left.min(reservation.quantity);
            if used == 0 {
                break;
            }
            left -= used;
            product.figures.held -= used;
            if used == reservation.quantity {
                reservation.state = State::Confirmed;
                reservation.purchase = Some(entry.id);
            } else {
                reservation.quantity -= used;
            }
            self.note(reservation);
        }
        Outcome::Purchased(entry)
    }

    fn reserve(
        &mut self,
        order: &Order,
        product: &mut OnShelf,
        quantity: i64,
        expires_at: DateTime<Utc>,
    ) -> Outcome {
        if quantity > product.figures.available() {
            return Outcome::Insufficient(product.figures);
        }
        product.figures.held += quantity;
        let reservation = Reservation {
            // Of chance alone: for a caller nobody knows it is the only proof.
            id: Uuid::new_v4(),
            product: order.product,
            caller: order.origin.caller.to_string(),
            quantity,
            state: State::Held,
            expires_at,
            purchase: None,
            created_at: self.shelf.now,
        };
        self.note(reservation.clone());
        Outcome::Held(reservation)
    }

    /// Does with a reservation what is wished, if that can still be done.
    fn settle(
        &mut self,
        order: &Order,
        product: &mut OnShelf,
        mut reservation: Reservation,
    ) -> Outcome {
        let (now, quantity) = (self.shelf.now, reservation.quantity);
        let is_held = reservation.is_held(now);
        match (reservation.state, order.wish) {
            // What was wished is so.
            (State::Cancelled, Wish::Cancel { .. }) => Outcome::Released(reservation),
            (State::Cancelled | State::Confirmed, _) => Outcome::Settled(reservation),
            (State::Held, Wish::Cancel { .. }) => {
                if is_held {
                    product.figures.held -= quantity;
                }
                reservation.state = State::Cancelled;
                self.note(reservation.clone());
                Outcome::Released(reservation)
            }
            (State::Held, _) if !is_held => Outcome::Expired(reservation),
            (State::Held, Wish::Extend { hold, .. }) => {
                reservation.expires_at = reservation.expires_at.max(now + hold);
                self.note(reservation.clone());
                Outcome::Held(reservation)
            }
            // The stock was set to less than is held.
            (State::Held, _) if quantity > product.figures.stock => {
                Outcome::Insufficient(product.figures)
            }
            (State::Held, _) => {
                let entry = self.sell(order, product, quantity, Some(reservation.id));
                product.figures.held -= quantity;
                reservation.state = State::Confirmed;
                reservation.purchase = Some(entry.id);
                self.note(reservation);
                Outcome::Purchased(entry)
            }
        }
    }

    fn sell(
        &mut self,
        order: &Order,
        product: &mut OnShelf,
        quantity: i64,
        reservation: Option<Uuid>,
    ) -> Entry {
        product.figures.stock -= quantity;
        product.version += 1;
        let entry = Entry {
            id: Uuid::now_v7(),
            product: order.product,
            version: product.version,
            reason: match reservation {
                Some(_) => Reason::Confirmed,
                None => Reason::Purchase,
            },
            delta: -quantity,
            stock_after: product.figures.stock,
            unit_price: Some(product.price),
            reservation,
            request: order.origin.request.to_string(),
            fence: None,
            at: self.shelf.now,
        };
        let now = (entry.stock_after, entry.version);
        self.books.products.insert(order.product, now);
        self.books.entries.push(entry.clone());
        entry
    }

    /// What the caller holds of the product: that which expires first comes first.
    fn held_by(&self, order: &Order) -> Vec<Reservation> {
        let caller = &*order.origin.caller;
        if caller.is_empty() {
            return Vec::new();
        }
        let is_own = |reservation: &&Reservation| {
            reservation.product == order.product
                && reservation.caller == caller
                && reservation.is_held(self.shelf.now)
        };
        let mut own = self
            .shelf
            .reservations
            .values()
            .filter(is_own)
            .cloned()
            .collect::<Vec<_>>();
        own.sort_by_key(|reservation| (reservation.expires_at, reservation.id));
        own
    }

    fn note(&mut self, reservation: Reservation) {
        self.touched.insert(reservation.id);
        self.shelf.reservations.insert(reservation.id, reservation);
    }
}

#[cfg(test)]
mod tests;
