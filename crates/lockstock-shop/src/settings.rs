//! The settings that handlers read.

use std::time::Duration;

use crate::drf::body::BodyLimits;
use crate::drf::fields::IntegerField;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) body: BodyLimits,
    /// How long a response is kept of which the client reads nothing.
    pub(crate) unread_timeout: Duration,
    pub(crate) request_timeout: Duration,
    /// Maximum number of API requests in progress.
    pub(crate) max_in_flight: usize,
    pub(crate) require_if_match: bool,
    /// Maximum quantity of one purchase or reservation.
    pub(crate) max_quantity: i64,
    /// How long a reservation lasts if the request names no time.
    pub(crate) reservation_ttl: Duration,
    pub(crate) max_reservation_ttl: Duration,
    /// How long the response to an idempotency key is stored.
    pub(crate) key_retention: Duration,
}

impl Settings {
    /// Describes the quantity of a purchase or reservation.
    pub(crate) fn quantity_field(&self) -> IntegerField {
        IntegerField::up_to("quantity", self.max_quantity).required()
    }

    /// Describes the lifetime of a reservation, in seconds.
    pub(crate) fn reservation_ttl_field(&self) -> IntegerField {
        let max_secs = self.max_reservation_ttl.as_secs();
        IntegerField::up_to("hold", i64::try_from(max_secs).unwrap_or(i64::MAX))
    }
}
