//! Reasons why a layer rejects a request, and the responses.
//!
//! Guarantees: if a retry can succeed, every response has a `Retry-After`, custom ones included; no
//! body made here contains an error text, the name of a lock or an address.
//!
//! The default body is `application/problem+json`
//! ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) of the type `about:blank`, with a `code`
//! for programs and a `detail` in the language of the client, English or Korean. The `on_rejection`
//! method of a layer replaces it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LANGUAGE, CONTENT_TYPE, ETAG, RETRY_AFTER, VARY};
use http::{HeaderValue, Response, StatusCode};
use http_body::Body;
use serde_json::json;
use tracing::{debug, warn};

use crate::BoxError;
use crate::language::Language;
use crate::opaque::Opaque;
use crate::preconditions::Validators;
use crate::response_body::ResponseBody;

/// Reason why a layer rejected a request.
#[derive(Debug)]
#[non_exhaustive]
pub enum Rejection {
    /// 429 `busy`: a request with the same key holds the lock or has kept it.
    Busy {
        /// When to retry: the remaining lease of a lock that is kept. A lock that is held is usually
        /// released earlier, see [`LockLayer::retry_after`](crate::LockLayer::retry_after).
        retry_after: Duration,
        /// The holder is done, and the lock stays taken until `retry_after`.
        kept: bool,
        /// Whole lease of the layer: one request per 3 s.
        lease: Duration,
    },
    /// 429 `full`: all permits are held.
    Full {
        /// When to retry: see
        /// [`ConcurrencyLimitLayer::retry_after`](crate::ConcurrencyLimitLayer::retry_after).
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
        /// For the log: a layer with an `on_rejection` of its own logs it only at `debug`. Not for
        /// the client: it may name hosts.
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
    /// 412 `precondition_failed`: the resource has another version than the client requires.
    PreconditionFailed {
        /// Header with the condition: `If-Match`, `If-None-Match` or `If-Unmodified-Since`.
        header: &'static str,
        /// Current version; `None` if the resource does not exist.
        current: Option<Validators>,
    },
    /// 400 `precondition_malformed`: a condition is neither `*` nor a list of entity tags.
    PreconditionMalformed {
        /// Header with the condition: `If-Match` or `If-None-Match`.
        header: &'static str,
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
            Self::KeyMissing
            | Self::KeyMalformed
            | Self::BodyUnreadable { .. }
            | Self::PreconditionMalformed { .. } => StatusCode::BAD_REQUEST,
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
            Self::PreconditionMalformed { .. } => "precondition_malformed",
            Self::PreconditionRequired => "precondition_required",
        }
    }

    /// Returns a sentence for people.
    pub fn detail(&self, language: Language) -> String {
        let (english, korean) = match self {
            Self::Busy {
                kept: true, lease, ..
            } => {
                let (english, korean) = duration(*lease);
                (
                    format!("Only one request per {english} is allowed."),
                    format!("{korean}에 한 번만 요청할 수 있습니다."),
                )
            }
            Self::Full { permits, .. } => (
                format!("Too many concurrent requests (limit: {permits})."),
                format!("동시에 처리할 수 있는 요청은 {permits}개입니다."),
            ),
            Self::BodyTooLarge { limit } => (
                format!("The request body is larger than {limit} bytes."),
                format!("요청 본문이 {limit}바이트보다 큽니다."),
            ),
            Self::PreconditionMalformed { header } => (
                format!("{header} must be * or entity tags in double quotes, such as \"2\"."),
                format!("{header} 헤더에는 * 또는 \"2\"처럼 큰따옴표로 감싼 ETag를 보내 주세요."),
            ),
            other => {
                let (english, korean) = other.sentence();
                (english.to_owned(), korean.to_owned())
            }
        };
        language.choose(english, korean)
    }

    /// Returns the detail of a rejection without values, in English and in Korean.
    fn sentence(&self) -> (&'static str, &'static str) {
        match self {
            Self::LockLost { .. } => (
                "The request took too long and was stopped. Another request may have been \
                 processed in the meantime.",
                "요청 처리 시간이 초과되어 중단되었습니다. 그 사이에 다른 요청이 처리되었을 수 있습니다.",
            ),
            Self::StoreUnavailable { .. } => (
                "The store is unavailable. Try again later.",
                "저장소를 사용할 수 없습니다. 잠시 후 다시 시도해 주세요.",
            ),
            Self::KeyMissing => ("Send an Idempotency-Key.", "Idempotency-Key를 보내 주세요."),
            Self::KeyMalformed => (
                "Send one Idempotency-Key of 1 to 255 visible ASCII characters.",
                "Idempotency-Key는 공백 없는 ASCII 문자 1~255자로 한 번만 보내 주세요.",
            ),
            Self::KeyReused => (
                "This Idempotency-Key was already used with a different request.",
                "이 Idempotency-Key는 이미 다른 요청에 사용되었습니다.",
            ),
            Self::InFlight { .. } => (
                "The request with this Idempotency-Key is still being processed.",
                "이 Idempotency-Key의 요청을 아직 처리하고 있습니다.",
            ),
            Self::BodyUnreadable { .. } => (
                "The request body could not be read.",
                "요청 본문을 읽을 수 없습니다.",
            ),
            Self::PreconditionFailed { header, current } => {
                Self::failed_condition(header, current.as_ref())
            }
            Self::PreconditionRequired => (
                "Send If-Match with the ETag of the version that you have read.",
                "조회한 버전의 ETag를 If-Match 헤더로 보내 주세요.",
            ),
            Self::Busy { .. }
            | Self::Full { .. }
            | Self::BodyTooLarge { .. }
            | Self::PreconditionMalformed { .. } => (
                "Another request is being processed.",
                "다른 요청을 처리하고 있습니다.",
            ),
        }
    }

    /// Names the reason, so that a client does not repeat what can never succeed.
    fn failed_condition(
        header: &str,
        current: Option<&Validators>,
    ) -> (&'static str, &'static str) {
        let etag = current.map(|current| current.etag.as_deref());
        match (header, etag) {
            (_, None) => ("The resource does not exist.", "리소스가 없습니다."),
            ("If-None-Match", Some(None)) => ("The resource exists.", "이미 있는 리소스입니다."),
            ("If-None-Match", Some(Some(_))) => (
                "The resource exists and has this version.",
                "이 버전의 리소스가 이미 있습니다.",
            ),
            ("If-Match", Some(None)) => (
                "The resource has no ETag. Repeat the request without If-Match.",
                "이 리소스에는 ETag가 없습니다. If-Match 없이 다시 요청해 주세요.",
            ),
            ("If-Match", Some(Some(etag))) if etag.starts_with("W/") => (
                "The ETag of the resource is weak. If-Match never matches a weak ETag.",
                "리소스의 ETag가 약한(weak) ETag라서 If-Match로 비교할 수 없습니다.",
            ),
            _ => (
                "The resource has changed since you read it.",
                "조회한 뒤에 리소스가 변경되었습니다.",
            ),
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

    /// Returns the default response: `application/problem+json` in this language.
    pub fn problem(&self, language: Language) -> Response<Bytes> {
        let status = self.status();
        let problem = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": self.detail(language),
            "code": self.code(),
        });
        let mut response = Response::new(Bytes::from(problem.to_string()));
        *response.status_mut() = status;
        let json = HeaderValue::from_static("application/problem+json");
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, json);
        headers.insert(CONTENT_LANGUAGE, HeaderValue::from_static(language.tag()));
        headers.insert(VARY, HeaderValue::from_static("Accept-Language"));
        response
    }
}

/// Returns a duration in English and in Korean.
fn duration(duration: Duration) -> (String, String) {
    let ms = duration.as_millis();
    match ms % 1000 {
        0 => (format!("{} s", ms / 1000), format!("{}초", ms / 1000)),
        _ => (format!("{ms} ms"), format!("{ms}밀리초")),
    }
}

/// Responds to rejected requests; by default with [`Rejection::problem`].
#[derive(Debug, Clone, Default)]
pub(crate) struct RejectionHandler(Option<Respond>);

type Respond = Opaque<dyn Fn(Rejection, Language) -> Response<Bytes> + Send + Sync>;

impl RejectionHandler {
    pub(crate) fn new(
        respond: impl Fn(Rejection, Language) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Opaque(Arc::new(respond))))
    }

    /// Returns the response, with `Retry-After` and `ETag` where the rejection implies them and
    /// the response has none.
    pub(crate) fn respond<B: Body>(
        &self,
        rejection: Rejection,
        language: Language,
    ) -> Response<ResponseBody<B>> {
        debug!(code = rejection.code(), "rejected");
        let retry_after = rejection.retry_after();
        let current = match &rejection {
            Rejection::PreconditionFailed {
                current: Some(Validators { etag, .. }),
                ..
            } => etag
                .as_ref()
                .and_then(|etag| HeaderValue::try_from(etag).ok()),
            _ => None,
        };
        let mut response = match &self.0 {
            Some(respond) => respond(rejection, language),
            None => {
                if let Rejection::StoreUnavailable { error } = &rejection {
                    warn!(%error, "the store is unavailable");
                }
                rejection.problem(language)
            }
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
        response.map(ResponseBody::from)
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
        let rejection = Rejection::PreconditionFailed {
            header: "If-Match",
            current: Some("\"a\"\r\nset-cookie: x".into()),
        };
        let response = RejectionHandler::default()
            .respond::<http_body_util::Empty<Bytes>>(rejection, Language::English);
        assert!(!response.headers().contains_key(ETAG));
        assert!(!response.headers().contains_key("set-cookie"));
    }

    #[test]
    fn a_lease_has_the_unit_of_the_language() {
        let detail = |millis, language| {
            let (retry_after, lease) = (Duration::ZERO, Duration::from_millis(millis));
            let busy = Rejection::Busy {
                retry_after,
                kept: true,
                lease,
            };
            busy.detail(language)
        };
        for (millis, english, korean) in [(3000, "3 s", "3초"), (1500, "1500 ms", "1500밀리초")]
        {
            assert_eq!(
                detail(millis, Language::English),
                format!("Only one request per {english} is allowed.")
            );
            assert_eq!(
                detail(millis, Language::Korean),
                format!("{korean}에 한 번만 요청할 수 있습니다.")
            );
        }
    }
}
