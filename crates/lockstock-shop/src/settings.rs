//! How requests are treated.

use std::time::Duration;

use crate::drf::body::BodyLimits;
use crate::drf::fields::Whole;

/// How requests are treated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) body: BodyLimits,
    pub(crate) request_timeout: Duration,
    pub(crate) most_in_flight: usize,
    pub(crate) require_if_match: bool,
    /// How many of a product one request may ask for.
    pub(crate) most_quantity: i64,
    /// For how long stock is set aside if the request does not say, and at most.
    pub(crate) usual_hold: Duration,
    pub(crate) most_hold: Duration,
    /// For how long an idempotency key is remembered.
    pub(crate) key_retention: Duration,
}

impl Settings {
    /// How a quantity is read.
    pub(crate) fn quantity(&self) -> Whole {
        Whole {
            required: true,
            least: 1,
            most: self.most_quantity,
        }
    }

    /// How a hold is read, in seconds.
    pub(crate) fn hold(&self) -> Whole {
        Whole {
            required: false,
            least: 1,
            most: i64::try_from(self.most_hold.as_secs()).unwrap_or(i64::MAX),
        }
    }
}
