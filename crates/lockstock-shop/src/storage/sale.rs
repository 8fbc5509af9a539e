//! What can be done with a product's stock, and what becomes of it: purchases, reservations
//! and the ledger they are written to.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Product, Turn, now};

/// Who asks, and by which request.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The request's id, for the ledger.
    pub request: Arc<str>,
    /// Whose it is; empty if nobody is known.
    pub caller: Arc<str>,
}

/// Something to be done with the stock of one product.
#[derive(Debug, Clone)]
pub struct Order {
    /// The product's id.
    pub product: i64,
    /// What is to be done.
    pub wish: Wish,
    /// Who asks.
    pub origin: Origin,
    /// If it is to be done once only, however often it is asked for.
    pub once: Option<Once<Outcome>>,
}

impl Order {
    /// The product and the caller, if a known caller buys: whose holds are to be used first.
    pub(super) fn buys_as(&self) -> Option<(i64, &str)> {
        let buys = matches!(self.wish, Wish::Purchase { .. });
        let caller = &*self.origin.caller;
        (buys && !caller.is_empty()).then_some((self.product, caller))
    }
}

/// What an [`Order`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// To buy so many.
    Purchase {
        /// At least 1.
        quantity: i64,
    },
    /// To set so many aside.
    Reserve {
        /// At least 1.
        quantity: i64,
        /// For so long.
        hold: Duration,
    },
    /// To buy what is set aside.
    Confirm {
        /// Which reservation.
        reservation: Uuid,
    },
    /// To set it aside for so long from now on.
    Extend {
        /// Which reservation.
        reservation: Uuid,
        /// No shorter than it is held anyway.
        hold: Duration,
    },
    /// To put it back.
    Cancel {
        /// Which reservation.
        reservation: Uuid,
    },
}

impl Wish {
    pub(super) fn reservation(self) -> Option<Uuid> {
        match self {
            Self::Purchase { .. } | Self::Reserve { .. } => None,
            Self::Confirm { reservation }
            | Self::Extend { reservation, .. }
            | Self::Cancel { reservation } => Some(reservation),
        }
    }
}

/// What became of an [`Order`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was bought: this is the purchase.
    Purchased(Entry),
    /// It is set aside.
    Held(Reservation),
    /// It is not set aside any more, and was not bought.
    Released(Reservation),
    /// There is not enough.
    Insufficient(Figures),
    /// The hold has expired.
    Expired(Reservation),
    /// The reservation was confirmed or cancelled before.
    Settled(Reservation),
    /// There is no such product.
    NoProduct,
    /// There is no such reservation of this caller.
    NoReservation,
    /// The key was used before.
    Recorded(Recorded),
}

/// The three figures of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// How many there are.
    pub stock: i64,
    /// How many of them are set aside.
    pub held: i64,
}

impl Figures {
    /// How many anybody can buy. What is held can be more than there is, if the stock was set
    /// to less meanwhile.
    pub fn available(self) -> i64 {
        (self.stock - self.held).max(0)
    }
}

/// Why a product was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It was there before the ledger was.
    Opening,
    /// It was created.
    Created,
    /// It was changed or replaced.
    Changed,
    /// Somebody bought of it.
    Purchase,
    /// A hold became a purchase.
    Confirmed,
    /// It was deleted.
    Deleted,
}

impl Reason {
    const ALL: [Self; 6] = [
        Self::Opening,
        Self::Created,
        Self::Changed,
        Self::Purchase,
        Self::Confirmed,
        Self::Deleted,
    ];

    /// As it is stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Purchase => "purchase",
            Self::Confirmed => "confirmed",
            Self::Deleted => "deleted",
        }
    }

    /// It sold something.
    pub fn is_purchase(self) -> bool {
        matches!(self, Self::Purchase | Self::Confirmed)
    }
}

impl TryFrom<String> for Reason {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let reason = Self::ALL.into_iter().find(|reason| reason.name() == name);
        reason.ok_or_else(|| format!("no reason for a write: {name}"))
    }
}

/// A line of the ledger: one write to one product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Of this change, and of the purchase if it is one.
    pub id: Uuid,
    /// The product's id.
    pub product: i64,
    /// The version that it made.
    pub version: i64,
    /// Why.
    pub reason: Reason,
    /// How many more there are; negative for a purchase.
    pub delta: i64,
    /// How many there were then.
    pub stock_after: i64,
    /// Of what was sold, in minor units.
    pub unit_price: Option<i64>,
    /// The hold that became this purchase.
    pub reservation: Option<Uuid>,
    /// The id of the request.
    pub request: String,
    /// Of the lock that it was made under.
    pub fence: Option<i64>,
    /// When, to the microsecond.
    pub at: DateTime<Utc>,
}

impl Entry {
    pub(super) fn created(product: &Product, origin: &Origin) -> Self {
        Self::of_write(product, origin, Reason::Created, product.stock)
    }

    /// `before`: the stock there was.
    pub(super) fn changed(product: &Product, before: i64, turn: Turn, origin: &Origin) -> Self {
        Self {
            fence: Some(turn.fence()),
            ..Self::of_write(product, origin, Reason::Changed, product.stock - before)
        }
    }

    /// `product`: as it was.
    pub(super) fn deleted(product: &Product, turn: Turn, origin: &Origin) -> Self {
        Self {
            version: product.version + 1,
            stock_after: 0,
            fence: Some(turn.fence()),
            at: now(),
            ..Self::of_write(product, origin, Reason::Deleted, -product.stock)
        }
    }

    fn of_write(product: &Product, origin: &Origin, reason: Reason, delta: i64) -> Self {
        Self {
            id: Uuid::now_v7(),
            product: product.id,
            version: product.version,
            reason,
            delta,
            stock_after: product.stock,
            unit_price: None,
            reservation: None,
            request: origin.request.to_string(),
            fence: None,
            at: product.updated_at,
        }
    }
}

/// What a reservation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Set aside, unless it has expired.
    Held,
    /// Bought.
    Confirmed,
    /// Put back.
    Cancelled,
}

impl State {
    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Confirmed => "confirmed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl TryFrom<String> for State {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let all = [Self::Held, Self::Confirmed, Self::Cancelled];
        let state = all.into_iter().find(|state| state.name() == name);
        state.ok_or_else(|| format!("no state of a reservation: {name}"))
    }
}

/// Stock that is set aside for somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Hard to guess.
    pub id: Uuid,
    /// The product's id.
    pub product: i64,
    /// Whose it is; empty if nobody is known.
    pub caller: String,
    /// How many.
    pub quantity: i64,
    /// What has become of it.
    pub state: State,
    /// When the hold ends.
    pub expires_at: DateTime<Utc>,
    /// What it became.
    pub purchase: Option<Uuid>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl Reservation {
    /// It is set aside at that time.
    pub fn is_held(&self, now: DateTime<Utc>) -> bool {
        self.state == State::Held && self.expires_at > now
    }

    /// It may be used by this caller. Whoever is not known is who knows its id.
    pub fn is_of(&self, caller: &str) -> bool {
        self.caller.is_empty() || self.caller == caller
    }
}

/// An idempotency key: of a request that shall take effect once, however often it comes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Whose key it is.
    pub caller: Arc<str>,
    /// What it is.
    pub key: Arc<str>,
}

/// What makes something happen once.
#[derive(Debug)]
pub struct Once<T> {
    /// The key that it is known by.
    pub key: Key,
    /// Of the request.
    pub fingerprint: [u8; 32],
    /// What to answer when it is asked for again; nothing if it had no effect.
    pub answer: fn(&T) -> Option<Vec<u8>>,
}

impl<T> Clone for Once<T> {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            ..*self
        }
    }
}

impl<T> Once<T> {
    pub(super) fn record(&self, done: &T) -> Option<Recorded> {
        (self.answer)(done).map(|answer| Recorded {
            fingerprint: self.fingerprint,
            answer,
        })
    }
}

/// What was answered under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Of the request that was answered.
    pub fingerprint: [u8; 32],
    /// The answer, as [`Once::answer`] wrote it.
    pub answer: Vec<u8>,
}

impl Recorded {
    /// Of caller, key, fingerprint and answer. A fingerprint of another length is that of no
    /// request.
    pub(super) fn of_row(row: (String, String, Vec<u8>, Vec<u8>)) -> (Key, Self) {
        let (caller, key, fingerprint, answer) = row;
        let key = Key {
            caller: caller.into(),
            key: key.into(),
        };
        let fingerprint = fingerprint.try_into().unwrap_or_default();
        (
            key,
            Self {
                fingerprint,
                answer,
            },
        )
    }
}
