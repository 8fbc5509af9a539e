//! Errors of the layers in front of a handler: the update lock, idempotency keys, preconditions.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use lockstock_http::{Language, Rejection};

use super::ApiError;
use crate::health::{Health, report_store_error};
use crate::storage::StorageError;

impl From<Rejection> for ApiError {
    fn from(refused: Rejection) -> Self {
        match refused {
            Rejection::Busy {
                retry_after,
                kept,
                lease,
            } => Self::busy(lease, kept, retry_after),
            Rejection::LockLost { .. } => Self::lock_lost(),
            Rejection::StoreUnavailable { error } => match error.downcast::<StorageError>() {
                Ok(error) => Self::from(*error),
                Err(why) => {
                    // The condition of the store was logged when it changed.
                    tracing::debug!(%why, "the store of the locks is unavailable");
                    Self::store_unavailable()
                }
            },
            Rejection::KeyMissing | Rejection::KeyMalformed => Self::key_malformed(),
            Rejection::KeyReused => Self::key_reused(),
            Rejection::InFlight { retry_after } => Self::in_flight(retry_after),
            Rejection::BodyTooLarge { limit } => Self::body_too_large(limit),
            Rejection::PreconditionFailed { .. } | Rejection::PreconditionMalformed { .. } => {
                let detail = |language| refused.detail(language);
                let (english, korean) = (detail(Language::English), detail(Language::Korean));
                Self::coded(refused.status(), refused.code(), english, korean)
            }
            other => {
                tracing::error!(
                    ?other,
                    "a layer rejected a request for an unexpected reason"
                );
                Self::internal()
            }
        }
    }
}

impl ApiError {
    /// Returns the response to a request that a layer rejected. It carries the error to where it
    /// is rendered.
    pub(crate) fn of_layer(rejection: Rejection) -> Response<Bytes> {
        Self::from(rejection).into_response().map(|_| Bytes::new())
    }

    /// Returns [`of_layer`](Self::of_layer) for a layer that uses the store of the locks, whose
    /// failures are recorded.
    pub(crate) fn of_layer_on(
        store: Arc<Health>,
    ) -> impl Fn(Rejection, Language) -> Response<Bytes> + Send + Sync + 'static {
        // The middleware renders the error in the language of the client.
        move |rejection, _| {
            if let Rejection::StoreUnavailable { error } = &rejection
                && !error.is::<StorageError>()
            {
                report_store_error(&store, error);
            }
            Self::of_layer(rejection)
        }
    }

    /// 412 if the product has another version than `If-Match` requires.
    pub(crate) fn precondition_failed(version: i64) -> Self {
        Self::other_version(
            version,
            format!("The product was changed in the meantime: it is at version {version} now."),
            format!("그 사이에 상품이 변경되었습니다. 현재 버전은 {version}입니다."),
        )
    }

    /// 412 if no tag in `If-Match` is one of this API, such as one that a proxy has changed. Reading
    /// the product again would not help.
    pub(crate) fn foreign_etag(version: i64) -> Self {
        Self::other_version(
            version,
            format!(
                "If-Match has no ETag of this API, such as \"{version}\". The product is at version \
                 {version}."
            ),
            format!(
                "If-Match에 \"{version}\"처럼 이 API가 보낸 ETag가 없습니다. 현재 버전은 {version}입니다."
            ),
        )
    }

    /// 412 if the product has a version that `If-None-Match` excludes.
    pub(crate) fn version_excluded(version: i64) -> Self {
        Self::other_version(
            version,
            format!(
                "The product exists and is at version {version}, which If-None-Match excludes."
            ),
            format!("If-None-Match가 제외한 버전 {version}의 상품이 이미 있습니다."),
        )
    }

    fn other_version(version: i64, english: String, korean: String) -> Self {
        let status = StatusCode::PRECONDITION_FAILED;
        let mut error = Self::coded(status, "precondition_failed", english, korean);
        error = error.with("version", version);
        error.0.etag = Some(version);
        error
    }

    /// 428 if the server requires `If-Match` and the request has none.
    pub(crate) fn precondition_required() -> Self {
        Self::coded(
            StatusCode::PRECONDITION_REQUIRED,
            "precondition_required",
            "Send If-Match with the ETag of the product that you have read.",
            "조회한 상품의 ETag를 If-Match 헤더로 보내 주세요.",
        )
    }

    /// 400 for a malformed idempotency key.
    fn key_malformed() -> Self {
        Self::coded(
            StatusCode::BAD_REQUEST,
            "key_malformed",
            "Send one Idempotency-Key of 1 to 255 visible ASCII characters.",
            "Idempotency-Key는 공백 없는 ASCII 문자 1~255자로 한 번만 보내 주세요.",
        )
    }

    /// 422 if the key was used with a different request.
    pub(crate) fn key_reused() -> Self {
        Self::coded(
            StatusCode::UNPROCESSABLE_ENTITY,
            "key_reused",
            "This Idempotency-Key was already used with a different request.",
            "이 Idempotency-Key는 이미 다른 요청에 사용되었습니다.",
        )
    }

    /// 409 if a request with the key is in progress.
    pub(super) fn in_flight(retry_after: Duration) -> Self {
        Self::coded(
            StatusCode::CONFLICT,
            "in_flight",
            "The request with this Idempotency-Key is still in progress. Repeat it to get its response.",
            "이 Idempotency-Key의 요청을 처리하고 있습니다. 잠시 후 같은 요청을 다시 보내 결과를 확인해 주세요.",
        )
        .retry_after(retry_after)
    }
}
