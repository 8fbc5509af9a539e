//! How requests are treated.

use std::time::Duration;

use crate::drf::body::BodyLimits;
use crate::drf::fields::IntegerField;

/// How requests are treated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) body: BodyLimits,
    pub(crate) request_timeout: Duration,
    pub(crate) max_in_flight: usize,
    pub(crate) require_if_match: bool,
    /// How many of a product one request may ask for.
    pub(crate) max_quantity: i64,
    /// For how long stock is set aside if the request does not say, and at most.
    pub(crate) reservation_ttl: Duration,
    pub(crate) max_reservation_ttl: Duration,
    /// For how long an idempotency key is remembered.
    pub(crate) key_retention: Duration,
}

impl Settings {
    /// How a quantity is read.
    pub(crate) fn quantity_field(&self) -> IntegerField {
        IntegerField {
            required: true,
            min_value: 1,
            max_value: self.max_quantity,
        }
    }

    /// How a hold is read, in seconds.
    pub(crate) fn reservation_ttl_field(&self) -> IntegerField {
        IntegerField {
            required: false,
            min_value: 1,
            max_value: i64::try_from(self.max_reservation_ttl.as_secs()).unwrap_or(i64::MAX),
        }
    }
}
