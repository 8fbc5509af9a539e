//! A limit on the number of requests in progress.

use std::sync::atomic::{AtomicUsize, Ordering};

use metrics::gauge;

use crate::error::ApiError;
use crate::state::AppState;

/// A permit for one request in progress, returned when it is dropped.
pub(super) struct RequestPermit<'a>(&'a AtomicUsize);

/// Admits a request, or rejects it with 503 if too many are in progress.
pub(super) fn admit(state: &AppState) -> Result<RequestPermit<'_>, ApiError> {
    let in_flight = &state.in_flight;
    if in_flight.fetch_add(1, Ordering::Relaxed) >= state.settings.max_in_flight {
        in_flight.fetch_sub(1, Ordering::Relaxed);
        return Err(ApiError::overloaded());
    }
    gauge!("lockstock_http_requests_in_flight").increment(1);
    Ok(RequestPermit(in_flight))
}

impl Drop for RequestPermit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        gauge!("lockstock_http_requests_in_flight").decrement(1);
    }
}
