//! Orders against the stock of a product, and their outcomes.

use std::time::Duration;

use metrics::counter;
use uuid::Uuid;

use super::idempotency::{IdempotentWrite, ResponseRecord};
use super::ledger::LedgerEntry;
use super::product::StockLevels;
use super::request_context::RequestContext;
use super::reservation::Reservation;

/// Maximum age of a request with a key when its transaction begins. Far below the retention of
/// refusals: a call takes at most a few of its timeouts, each of which is at most an hour.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// A request to change the stock of one product.
#[derive(Debug, Clone)]
pub struct Order {
    /// The id of the product.
    pub product: i64,
    /// The requested change.
    pub kind: OrderKind,
    /// The request that the order came with.
    pub request: RequestContext,
    /// Set if the order must take effect once only.
    pub idempotency: Option<IdempotentWrite<OrderOutcome>>,
}

impl Order {
    /// Returns whether refusals under the key may have been deleted since the request arrived: its
    /// server was suspended.
    pub(super) fn is_too_old(&self) -> bool {
        let as_of = self.request.known_commits.as_of;
        self.idempotency.is_some() && as_of.is_some_and(|as_of| as_of.elapsed() > MAX_AGE)
    }

    /// Returns the product and the caller of a purchase by a known caller, whose reservations
    /// are used up first.
    pub(super) fn purchase_by(&self) -> Option<(i64, &str)> {
        let is_purchase = matches!(self.kind, OrderKind::Purchase { .. });
        let caller = &*self.request.caller;
        (is_purchase && !caller.is_empty()).then_some((self.product, caller))
    }
}

/// The change that an [`Order`] requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderKind {
    /// Buys units.
    Purchase {
        /// At least 1.
        quantity: i64,
    },
    /// Sets units aside.
    Reserve {
        /// At least 1.
        quantity: i64,
        /// How long the units stay set aside.
        ttl: Duration,
    },
    /// Buys the units of a reservation.
    Confirm {
        /// The id of the reservation.
        reservation: Uuid,
    },
    /// Extends a reservation.
    Extend {
        /// The id of the reservation.
        reservation: Uuid,
        /// How long the units stay set aside from now on. Never shortens the reservation.
        ttl: Duration,
    },
    /// Cancels a reservation.
    Cancel {
        /// The id of the reservation.
        reservation: Uuid,
    },
}

impl OrderKind {
    /// Returns the name in the metrics.
    fn name(self) -> &'static str {
        match self {
            Self::Purchase { .. } => "purchase",
            Self::Reserve { .. } => "reserve",
            Self::Confirm { .. } => "confirm",
            Self::Extend { .. } => "extend",
            Self::Cancel { .. } => "cancel",
        }
    }

    /// Returns the id of the reservation that the order names.
    pub(super) fn reservation(self) -> Option<Uuid> {
        match self {
            Self::Purchase { .. } | Self::Reserve { .. } => None,
            Self::Confirm { reservation }
            | Self::Extend { reservation, .. }
            | Self::Cancel { reservation } => Some(reservation),
        }
    }
}

/// The outcome of an [`Order`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderOutcome {
    /// The units are bought.
    Purchased(LedgerEntry),
    /// The units are set aside.
    Held(Reservation),
    /// The units are no longer set aside, and not bought.
    Released(Reservation),
    /// Too few units are available.
    Insufficient(StockLevels),
    /// The reservation has expired.
    Expired(Reservation),
    /// The reservation is already confirmed or cancelled.
    Settled(Reservation),
    /// The product does not exist.
    NoProduct,
    /// The caller has no such reservation.
    NoReservation,
    /// The idempotency key was used before: nothing is written.
    AlreadyRecorded(ResponseRecord),
    /// Another try under the idempotency key was refused, perhaps after this one had begun. That
    /// refusal stands, so nothing is written. A try that begins now runs.
    Overtaken,
}

impl OrderOutcome {
    /// Counts the outcome of an order in the metrics, once it is committed.
    pub(super) fn count(&self, order: OrderKind) {
        let units = |quantity: i64| u64::try_from(quantity).unwrap_or_default();
        let outcome = match self {
            Self::Purchased(entry) => {
                counter!("lockstock_units_sold_total").increment(units(-entry.delta));
                "done"
            }
            Self::Held(reservation) => {
                if matches!(order, OrderKind::Reserve { .. }) {
                    let reserved = units(reservation.quantity);
                    counter!("lockstock_units_reserved_total").increment(reserved);
                }
                "done"
            }
            Self::Released(_) => "done",
            Self::Insufficient(_) => "insufficient",
            Self::Expired(_) => "expired",
            Self::Settled(_) => "settled",
            Self::NoProduct | Self::NoReservation => "missing",
            Self::AlreadyRecorded(_) => "recorded",
            Self::Overtaken => "overtaken",
        };
        let labels = [("order", order.name()), ("outcome", outcome)];
        counter!("lockstock_orders_total", &labels).increment(1);
    }

    /// Returns whether the order has changed the stock of its product, or what is set aside of it.
    pub(crate) fn has_effect(&self) -> bool {
        matches!(self, Self::Purchased(_) | Self::Held(_) | Self::Released(_))
    }

    /// Returns whether the order is refused for a state that may change: the same order may
    /// succeed later. An expired or settled reservation stays so.
    pub(super) fn may_change(&self) -> bool {
        matches!(self, Self::Insufficient(_) | Self::NoProduct)
    }
}
