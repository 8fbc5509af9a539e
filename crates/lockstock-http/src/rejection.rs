//! Reasons why a layer rejects a request, and the responses.
//!
//! Guarantees: if a retry can succeed, every response has a `Retry-After`, custom ones included; no
//! body made here contains an error text, the name of a lock or an address.
//!
//! The default body is `application/problem+json`
//! ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) of the type `about:blank`, with a `code`
//! for programs. The `on_rejection` method of a layer replaces it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;
use tracing::debug;

use crate::BoxError;
use crate::opaque::Opaque;

/// Reason why a layer rejected a request.
#[derive(Debug)]
#[non_exhaustive]
pub enum Rejection {
    /// 429 `busy`: a request with the same key holds the lock or has kept it.
    Busy {
        /// Remaining lease of the lock.
        retry_after: Duration,
        /// The holder is done, and the lock stays taken until `retry_after`.
        kept: bool,
        /// Whole lease of the layer: one request per 3 s.
        lease: Duration,
    },
    /// 429 `full`: all permits are held.
    Full {
        /// When the first lease of a permit ends, unless it is renewed.
        retry_after: Duration,
        /// Number of permits.
        permits: u32,
    },
    /// 409 `lock_lost`: the handler exceeded its lease or the store lost the lock. The handler was
    /// stopped at an await, and another request may have run meanwhile.
    LockLost {
        /// How long a handler may take.
        lease: Duration,
    },
    /// 503 `store_unavailable`: a lock, claim or record could not be read.
    StoreUnavailable {
        /// For the log. Not for the client: it may name hosts.
        error: BoxError,
    },
    /// 400 `key_missing`: a required `Idempotency-Key` is missing.
    KeyMissing,
    /// 400 `key_malformed`: the `Idempotency-Key` is invalid.
    KeyMalformed,
    /// 422 `key_reused`: the `Idempotency-Key` was already used with a different request.
    KeyReused,
    /// 409 `in_flight`: the request with this `Idempotency-Key` is still being processed.
    InFlight {
        /// When to ask for its result.
        retry_after: Duration,
    },
    /// 413 `body_too_large`: the request body exceeds the limit.
    BodyTooLarge {
        /// Limit in bytes.
        limit: usize,
    },
    /// 400 `body_unreadable`: the request body broke off.
    BodyUnreadable {
        /// For the log.
        error: BoxError,
    },
    /// 412 `precondition_failed`: the resource has changed since the client read it.
    PreconditionFailed {
        /// Current entity tag, as in an `ETag` header; `None` if the resource does not exist.
        current: Option<String>,
    },
    /// 428 `precondition_required`: a change without `If-Match` could overwrite another change.
    PreconditionRequired,
}

impl Rejection {
    /// Returns the status of the response.
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

    /// Returns the code for programs. It is stable across versions.
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

    /// Returns a sentence for people.
    pub fn detail(&self) -> String {
        match self {
            Self::Busy {
                kept: true, lease, ..
            } => format!("Only one request per {lease:?} is allowed."),
            Self::Busy { .. } => "Another request is being processed.".to_owned(),
            Self::Full { permits, .. } => {
                format!("Too many concurrent requests (limit: {permits}).")
            }
            Self::LockLost { .. } => {
                "The request took too long and was stopped. Another request may have been \
                 processed in the meantime."
                    .to_owned()
            }
            Self::StoreUnavailable { .. } => {
                "The store is unavailable. Try again later.".to_owned()
            }
            Self::KeyMissing => "Send an Idempotency-Key.".to_owned(),
            Self::KeyMalformed => {
                "Send one Idempotency-Key of 1 to 255 visible ASCII characters.".to_owned()
            }
            Self::KeyReused => {
                "This Idempotency-Key was already used with a different request.".to_owned()
            }
            Self::InFlight { .. } => {
                "The request with this Idempotency-Key is still being processed.".to_owned()
            }
            Self::BodyTooLarge { limit } => {
                format!("The request body is larger than {limit} bytes.")
            }
            Self::BodyUnreadable { .. } => "The request body could not be read.".to_owned(),
            Self::PreconditionFailed { current: Some(_) } => {
                "The resource has changed since you read it.".to_owned()
            }
            Self::PreconditionFailed { current: None } => "The resource does not exist.".to_owned(),
            Self::PreconditionRequired => {
                "Send If-Match with the ETag of the version that you have read.".to_owned()
            }
        }
    }

    /// Returns when to retry, if a retry can succeed.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. }
            | Self::Full { retry_after, .. }
            | Self::InFlight { retry_after } => Some(*retry_after),
            // A stopped request may be retried immediately.
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
    fn an_entity_tag_that_is_not_a_header_value_is_omitted() {
        let current = Some("\"a\"\r\nset-cookie: x".to_owned());
        let rejection = Rejection::PreconditionFailed { current };
        let response = RejectionHandler::default().respond::<Bytes>(rejection);
        assert_eq!(response.headers().len(), 1);
    }
}
