//! Errors of requests for the locks and their events.

use std::time::Duration;

use axum::http::StatusCode;

use super::ApiError;

/// `Retry-After` of a client that found as many streams open as are allowed.
const STREAM_RETRY: Duration = Duration::from_secs(5);

impl ApiError {
    /// 409 if the lock to release has another holder by now.
    pub(crate) fn other_holder() -> Self {
        Self::coded(
            StatusCode::CONFLICT,
            "other_holder",
            "Another holder has the lock. Nothing was released.",
            "다른 요청이 락을 보유하고 있습니다. 아무것도 해제되지 않았습니다.",
        )
    }

    /// 503 if the store does not report its locks.
    pub(crate) fn locks_unavailable() -> Self {
        Self::coded(
            StatusCode::SERVICE_UNAVAILABLE,
            "store_unavailable",
            "The lock store is unavailable. Try again.",
            "지금은 락 저장소를 사용할 수 없습니다. 잠시 후 다시 시도해 주세요.",
        )
        .retry_after(Duration::from_secs(1))
    }

    /// 503 if as many streams of events are open as are allowed.
    pub(crate) fn too_many_watchers() -> Self {
        Self::coded(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_watchers",
            "Too many streams of events are open.",
            "열려 있는 이벤트 스트림이 너무 많습니다. 잠시 후 다시 시도해 주세요.",
        )
        .retry_after(STREAM_RETRY)
    }

    /// 503 for a stream of events while the server shuts down.
    pub(crate) fn shutting_down() -> Self {
        Self::coded(
            StatusCode::SERVICE_UNAVAILABLE,
            "shutting_down",
            "The server is shutting down.",
            "서버가 종료되는 중입니다. 잠시 후 다시 시도해 주세요.",
        )
        .retry_after(Duration::from_secs(1))
    }
}
