//! Why a request was not carried out, and how that is told.
//!
//! Guarantees: whatever body it has, an answer that says to come back later has a
//! `Retry-After`, in whole seconds, rounded up, at least 1; no body made here shows an error
//! text, a name of a lock or an address.
//!
//! By default the body is `application/problem+json`
//! ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) of the type `about:blank`, with a `code`
//! for programs. A layer's `refuse` takes a closure for bodies of your own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;
use tracing::debug;

use crate::BoxError;
use crate::opaque::Opaque;

/// Why a request was not carried out.
#[derive(Debug)]
#[non_exhaustive]
pub enum Rejection {
    /// 429 `busy`: another request with the same key is under way, or was a moment ago.
    Busy {
        /// What is left of the lease of that one.
        retry_after: Duration,
        /// It is done, and nobody gets the lock before `retry_after`.
        kept: bool,
        /// How long a lease is in all: "once in 3 s".
        lease: Duration,
    },
    /// 429 `full`: as many requests as may be are under way.
    Full {
        /// When the lease of the first of them ends, if it is not renewed.
        retry_after: Duration,
        /// How many may be.
        permits: u32,
    },
    /// 409 `lock_lost`: it took longer than the lease, or the store forgot the lock, so another
    /// request may have had its turn meanwhile. It was stopped, wherever it was.
    LockLost {
        /// How long it may take.
        lease: Duration,
    },
    /// 503 `store_unavailable`: nobody can tell whether it may be carried out.
    StoreUnavailable {
        /// For the log. Not for the client: it may name hosts.
        error: BoxError,
    },
    /// 400 `key_missing`: there is no `Idempotency-Key`, and one is required.
    KeyMissing,
    /// 400 `key_malformed`: the `Idempotency-Key` is no key.
    KeyMalformed,
    /// 422 `key_reused`: the `Idempotency-Key` came with another request before.
    KeyReused,
    /// 409 `in_flight`: the request with this `Idempotency-Key` is being carried out.
    InFlight {
        /// When to ask for its result.
        retry_after: Duration,
    },
    /// 413 `body_too_large`.
    BodyTooLarge {
        /// How many bytes it may have.
        limit: usize,
    },
    /// 400 `body_unreadable`: it broke off.
    BodyUnreadable {
        /// For the log.
        error: BoxError,
    },
    /// 412 `precondition_failed`: it was changed since the client saw it.
    PreconditionFailed {
        /// Its entity tag now, as an `ETag` header has it; `None` if it does not exist.
        current: Option<String>,
    },
    /// 428 `precondition_required`: a change without `If-Match` could undo somebody else's.
    PreconditionRequired,
}

impl Rejection {
    /// The status that it is answered with.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Busy { .. } | Self::Full { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::LockLost { .. } | Self::InFlight { .. } => StatusCode::CONFLICT,
            Self::StoreUnavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::KeyMissing | Self::KeyMalformed | Self::BodyUnreadable { .. } => {
                StatusCode::BAD_REQUEST
            }
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::PreconditionFailed { .. } => StatusCode::PRECONDITION_FAILED,
            Self::PreconditionRequired => StatusCode::PRECONDITION_REQUIRED,
        }
    }

    /// One word for programs. It does not change from version to version.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "busy",
            Self::Full { .. } => "full",
            Self::LockLost { .. } => "lock_lost",
            Self::StoreUnavailable { .. } => "store_unavailable",
            Self::KeyMissing => "key_missing",
            Self::KeyMalformed => "key_malformed",
            Self::KeyReused => "key_reused",
            Self::InFlight { .. } => "in_flight",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BodyUnreadable { .. } => "body_unreadable",
            Self::PreconditionFailed { .. } => "precondition_failed",
            Self::PreconditionRequired => "precondition_required",
        }
    }

    /// A sentence for people.
    pub fn detail(&self) -> String {
        match self {
            Self::Busy {
                kept: true, lease, ..
            } => format!("Only one request in {lease:?} is allowed here."),
            Self::Busy { .. } => "Another request is being carried out here.".to_owned(),
            Self::Full { permits, .. } => {
                format!("As many requests are being carried out as may be: {permits}.")
            }
            Self::LockLost { .. } => {
                "It took too long, and another request may have been carried out meanwhile."
                    .to_owned()
            }
            Self::StoreUnavailable { .. } => {
                "It cannot be told now whether this request may be carried out.".to_owned()
            }
            Self::KeyMissing => "Send an Idempotency-Key.".to_owned(),
            Self::KeyMalformed => {
                "Send one Idempotency-Key of 1 to 255 visible ASCII characters.".to_owned()
            }
            Self::KeyReused => "This Idempotency-Key came with another request before.".to_owned(),
            Self::InFlight { .. } => {
                "The request with this Idempotency-Key is being carried out.".to_owned()
            }
            Self::BodyTooLarge { limit } => {
                format!("The request's body is larger than {limit} bytes.")
            }
            Self::BodyUnreadable { .. } => "The request's body could not be read.".to_owned(),
            Self::PreconditionFailed { current: Some(_) } => {
                "It was changed since you read it.".to_owned()
            }
            Self::PreconditionFailed { current: None } => "It does not exist any more.".to_owned(),
            Self::PreconditionRequired => {
                "Send If-Match with the ETag of what you have read.".to_owned()
            }
        }
    }

    /// When to try again, if that is of use.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. }
            | Self::Full { retry_after, .. }
            | Self::InFlight { retry_after } => Some(*retry_after),
            // What was stopped halfway may be tried anew at once.
            Self::LockLost { .. } | Self::StoreUnavailable { .. } => Some(Duration::ZERO),
            _ => None,
        }
    }

    /// Returns the default response: `application/problem+json`.
    pub fn problem(&self) -> Response<Bytes> {
        let status = self.status();
        let problem = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": self.detail(),
            "code": self.code(),
        });
        let mut response = Response::new(Bytes::from(problem.to_string()));
        *response.status_mut() = status;
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

/// Responds to rejected requests; by default with [`Rejection::problem`].
#[derive(Debug, Clone, Default)]
pub(crate) struct RejectionHandler(Option<Respond>);

type Respond = Opaque<dyn Fn(Rejection) -> Response<Bytes> + Send + Sync>;

impl RejectionHandler {
    pub(crate) fn new(
        respond: impl Fn(Rejection) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Opaque(Arc::new(respond))))
    }

    /// Returns the response, with `Retry-After` and `ETag` where the rejection implies them and
    /// the response has none.
    pub(crate) fn respond<B: From<Bytes>>(&self, rejection: Rejection) -> Response<B> {
        debug!(code = rejection.code(), "rejected");
        let retry_after = rejection.retry_after();
        let current = match &rejection {
            Rejection::PreconditionFailed {
                current: Some(current),
            } => HeaderValue::try_from(current).ok(),
            _ => None,
        };
        let mut response = match &self.0 {
            Some(respond) => respond(rejection),
            None => rejection.problem(),
        };
        let headers = response.headers_mut();
        if let Some(retry_after) = retry_after {
            headers
                .entry(RETRY_AFTER)
                .or_insert_with(|| HeaderValue::from(retry_after_secs(retry_after)));
        }
        if let Some(current) = current {
            headers.entry(ETAG).or_insert(current);
        }
        response.map(B::from)
    }
}

/// Returns `wait` in the seconds of a `Retry-After` header: rounded up, at least 1.
///
/// Fractions of a millisecond are dropped first, because leases are counted in milliseconds:
/// 3.0001 s is 3, and 3.001 s is 4.
///
/// ```
/// use std::time::Duration;
/// use lockstock_http::retry_after_secs;
///
/// assert_eq!(retry_after_secs(Duration::from_millis(2001)), 3);
/// assert_eq!(retry_after_secs(Duration::ZERO), 1);
/// ```
pub fn retry_after_secs(wait: Duration) -> u64 {
    let seconds = wait.as_millis().div_ceil(1000);
    u64::try_from(seconds).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (2999, 3), (3000, 3)] {
            assert_eq!(retry_after_secs(Duration::from_millis(millis)), seconds);
        }
        assert_eq!(retry_after_secs(Duration::from_micros(3_000_100)), 3);
        assert_eq!(retry_after_secs(Duration::MAX), u64::MAX);
    }

    #[test]
    fn a_tag_that_is_no_header_value_is_left_out() {
        let current = Some("\"a\"\r\nset-cookie: x".to_owned());
        let refused = Rejection::PreconditionFailed { current };
        let response = RejectionHandler::default().respond::<Bytes>(refused);
        assert_eq!(response.headers().len(), 1);
    }
}
