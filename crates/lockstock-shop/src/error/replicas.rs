//! Errors of updates that another server of the shop should have carried out.

use axum::http::StatusCode;

use super::ApiError;

impl ApiError {
    /// 502 if the other server accepts no connection. Nothing was sent.
    pub(crate) fn replica_unreachable() -> Self {
        Self::coded(
            StatusCode::BAD_GATEWAY,
            "replica_unreachable",
            "The other server cannot be reached. Nothing was written.",
            "다른 서버에 연결할 수 없습니다. 아무것도 저장되지 않았습니다.",
        )
    }

    /// 502 if the connection to the other server failed after the request was sent.
    pub(crate) fn replica_failed() -> Self {
        Self::coded(
            StatusCode::BAD_GATEWAY,
            "replica_failed",
            "The other server did not respond. The outcome of the change is unknown: check it before you repeat the request.",
            "다른 서버가 응답하지 않았습니다. 저장 여부를 확인한 후 다시 시도해 주세요.",
        )
    }

    /// 502 if the other server redirects.
    pub(crate) fn replica_redirects() -> Self {
        Self::coded(
            StatusCode::BAD_GATEWAY,
            "replica_redirects",
            "The other server redirects to another URL. Redirects are not followed.",
            "다른 서버가 다른 URL로 리디렉션했습니다. 리디렉션은 따르지 않습니다.",
        )
    }

    /// 504 if the other server did not respond in time.
    pub(crate) fn replica_timeout() -> Self {
        Self::coded(
            StatusCode::GATEWAY_TIMEOUT,
            "replica_timeout",
            "The other server did not respond in time. The outcome of the change is unknown: check it before you repeat the request.",
            "다른 서버가 제때 응답하지 않았습니다. 저장 여부를 확인한 후 다시 시도해 주세요.",
        )
    }
}
