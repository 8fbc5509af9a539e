//! Errors of requests that may not go on: without a valid key, or with one of a lower scope.

use axum::http::StatusCode;

use super::ApiError;
use super::sentences::{self, Sentence};

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
}
