//! Errors of requests that may not go on: without a valid key, with one of a lower scope, or too
//! many of one caller.

use std::num::NonZeroU32;
use std::time::Duration;

use axum::http::StatusCode;
use lockstock_http::retry_after_secs;
use serde_json::json;

use super::sentences::{self, Sentence};
use super::{ApiError, millis};

impl ApiError {
    /// 401 for a request without credentials.
    pub(crate) fn not_authenticated(challenge: &'static str) -> Self {
        let mut error = Self::authentication_failed(sentences::NOT_AUTHENTICATED, challenge);
        error.0.drf_code = Some("not_authenticated");
        error
    }

    /// 401 for credentials that are malformed.
    pub(crate) fn authentication_failed(detail: Sentence, challenge: &'static str) -> Self {
        let mut error = Self::detail(StatusCode::UNAUTHORIZED, detail);
        error.0.challenge = Some(challenge);
        error.0.drf_code = Some("authentication_failed");
        error
    }

    /// 401 for the secret of no key.
    pub(crate) fn invalid_token(challenge: &'static str) -> Self {
        Self::authentication_failed(sentences::INVALID_TOKEN, challenge)
    }

    /// 401 for the secret of a key that has expired.
    pub(crate) fn key_expired(challenge: &'static str) -> Self {
        let mut error = Self::coded(
            StatusCode::UNAUTHORIZED,
            "key_expired",
            "This API key has expired.",
            "API 키가 만료되었습니다.",
        );
        error.0.challenge = Some(challenge);
        error
    }

    /// 403 for a key whose scope does not include the request.
    pub(crate) fn permission_denied() -> Self {
        Self::detail(StatusCode::FORBIDDEN, sentences::PERMISSION_DENIED)
    }

    /// 429 for a caller that sent more than `requests` in `window`, which is a second, a minute or an
    /// hour.
    pub(crate) fn rate_limited(requests: NonZeroU32, window: Duration, wait: Duration) -> Self {
        let (english, korean) = match window.as_secs() {
            1 => ("second", "초"),
            60 => ("minute", "분"),
            _ => ("hour", "시간"),
        };
        let plural = if requests.get() == 1 {
            "request"
        } else {
            "requests"
        };
        let error = json!({
            "en": format!("The limit is {requests} {plural} per {english}."),
            "ko": format!("1{korean}에 {requests}번까지만 요청할 수 있습니다."),
        });
        let seconds = retry_after_secs(wait);
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self::coded_sentence(status, "rate_limited", sentences::throttled(seconds))
            .with("error", error)
            .with("retry_after_ms", millis(wait))
            .retry_after(wait)
    }
}
