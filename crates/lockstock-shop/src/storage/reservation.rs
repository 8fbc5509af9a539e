//! Reservations: units of a product that are set aside until they expire.

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// The stored state of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReservationState {
    /// The units are set aside, unless the reservation has expired.
    Held,
    /// The units are bought.
    Confirmed,
    /// The units are released.
    Cancelled,
}

impl ReservationState {
    /// Returns the name that the database uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Confirmed => "confirmed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl TryFrom<String> for ReservationState {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let all = [Self::Held, Self::Confirmed, Self::Cancelled];
        let state = all.into_iter().find(|state| state.name() == name);
        state.ok_or_else(|| format!("unknown state of a reservation: {name}"))
    }
}

/// Units of a product that are set aside for a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Random: for an unknown caller it is the only proof of ownership.
    pub id: Uuid,
    /// The id of the product.
    pub product: i64,
    /// The owner; empty if unknown.
    pub caller: String,
    /// Number of units.
    pub quantity: i64,
    /// The stored state; see [`is_held`](Self::is_held).
    pub state: ReservationState,
    /// When a held reservation expires.
    pub expires_at: DateTime<Utc>,
    /// The id of the purchase that confirmed it.
    pub purchase: Option<Uuid>,
    /// Time of the creation.
    pub created_at: DateTime<Utc>,
}

impl Reservation {
    /// Returns whether the units are set aside at `now`.
    pub fn is_held(&self, now: DateTime<Utc>) -> bool {
        self.state == ReservationState::Held && self.expires_at > now
    }

    /// Returns whether `caller` may use the reservation. If the owner is unknown, every caller
    /// that knows the id may.
    pub fn is_of(&self, caller: &str) -> bool {
        self.caller.is_empty() || self.caller == caller
    }
}
