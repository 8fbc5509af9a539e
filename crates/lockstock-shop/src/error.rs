//! The error type of the API.
//!
//! A handler returns *what* is wrong. The middleware, which knows the whole request, renders it:
//! as the JSON of Django REST framework or as RFC 9457 `application/problem+json`, in English or
//! in Korean. No error contains a path, SQL, a stack trace or a URL.

mod access;
mod layers;
mod locks;
mod messages;
pub(crate) mod negotiate;
mod orders;
mod replicas;
pub(crate) mod sentences;

use std::borrow::Cow;
use std::time::Duration;

use axum::http::header::{
    ACCEPT_ENCODING, CONTENT_TYPE, ETAG, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use lockstock_http::{Language, OutcomeUnknown, retry_after_secs};
use serde_json::{Map, Value, json};

use self::negotiate::ErrorFormat;
use self::sentences::Sentence;
use crate::storage::{Effect, StorageError};

/// Why a request failed. Boxed, because most results carry no error.
#[derive(Debug, Clone)]
pub(crate) struct ApiError(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    status: StatusCode,
    body: ErrorBody,
    retry_after: Option<Duration>,
    /// The current version of the product.
    etag: Option<i64>,
    /// What a failed call of the database has left behind.
    effect: Option<Effect>,
    /// The response lists the content codings of bodies that are read.
    accept_encoding: bool,
    /// The credentials that the response asks for.
    challenge: Option<&'static str>,
    /// DRF's name of the error, if its status has several. Its body does not contain it.
    drf_code: Option<&'static str>,
}

#[derive(Debug, Clone)]
enum ErrorBody {
    /// One message, as DRF words it.
    Detail(Sentence),
    /// The messages about each field, or about the whole body.
    Fields(FieldErrors),
    /// A list of messages: DRF's response to an invalid search.
    Messages(Vec<Sentence>),
    /// An error that DRF does not define: a machine-readable code, a message, and further members.
    Coded {
        code: &'static str,
        message: Sentence,
        more: Map<String, Value>,
    },
}

/// The messages about each invalid field, by its name.
pub(crate) type FieldErrors = Vec<(String, Vec<Sentence>)>;

impl ApiError {
    fn detail(status: StatusCode, detail: impl Into<Sentence>) -> Self {
        Self::new(status, ErrorBody::Detail(detail.into()))
    }

    fn coded(
        status: StatusCode,
        code: &'static str,
        english: impl Into<Cow<'static, str>>,
        korean: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::coded_sentence(status, code, Sentence::new(english, korean))
    }

    fn coded_sentence(status: StatusCode, code: &'static str, message: Sentence) -> Self {
        let body = ErrorBody::Coded {
            code,
            message,
            more: Map::new(),
        };
        Self::new(status, body)
    }

    fn new(status: StatusCode, body: ErrorBody) -> Self {
        Self(Box::new(Inner {
            status,
            body,
            retry_after: None,
            etag: None,
            effect: None,
            accept_encoding: false,
            challenge: None,
            drf_code: None,
        }))
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        if let ErrorBody::Coded { more, .. } = &mut self.0.body {
            more.insert(name.to_owned(), value.into());
        }
        self
    }

    fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// 400 with one message.
    pub(crate) fn bad_request(detail: impl Into<Sentence>) -> Self {
        Self::detail(StatusCode::BAD_REQUEST, detail)
    }

    /// 400 with messages about each invalid field.
    pub(crate) fn invalid(errors: FieldErrors) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorBody::Fields(errors))
    }

    /// 400 with a list of messages.
    pub(crate) fn messages(messages: Vec<Sentence>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorBody::Messages(messages))
    }

    /// 404 for a path without a route.
    pub(crate) fn not_found() -> Self {
        Self::detail(StatusCode::NOT_FOUND, sentences::NOT_FOUND)
    }

    /// 404 for a product that does not exist.
    pub(crate) fn product_not_found() -> Self {
        Self::not_found_of("Product")
    }

    /// 404 for an instance of `resource` that does not exist.
    pub(crate) fn not_found_of(resource: &str) -> Self {
        Self::detail(StatusCode::NOT_FOUND, sentences::no_match(resource))
    }

    /// 404 for a page that does not exist.
    pub(crate) fn invalid_page() -> Self {
        Self::detail(StatusCode::NOT_FOUND, sentences::INVALID_PAGE)
    }

    /// 405 for a method that the route does not allow.
    pub(crate) fn method_not_allowed(method: &str) -> Self {
        Self::detail(
            StatusCode::METHOD_NOT_ALLOWED,
            sentences::method_not_allowed(method),
        )
    }

    /// 406 for a client that accepts no format of the API.
    pub(crate) fn not_acceptable() -> Self {
        Self::detail(StatusCode::NOT_ACCEPTABLE, sentences::NOT_ACCEPTABLE)
    }

    /// 415 for a body of another media type.
    pub(crate) fn unsupported_media_type(media_type: &str) -> Self {
        Self::detail(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            sentences::unsupported_media_type(media_type),
        )
    }

    /// 415 for a body with a content coding.
    pub(crate) fn unsupported_content_encoding(encoding: &str) -> Self {
        let mut error = Self::detail(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Sentence::new(
                format!("Unsupported content encoding \"{encoding}\" in request."),
                format!("지원하지 않는 콘텐츠 인코딩 \"{encoding}\"입니다."),
            ),
        );
        error.0.accept_encoding = true;
        error
    }

    /// 408 for a body that did not arrive in time.
    pub(crate) fn body_timeout() -> Self {
        Self::coded(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            "The request body did not arrive in time.",
            "요청 본문이 제때 도착하지 않았습니다.",
        )
    }

    /// 413 for a body of more than `limit` bytes.
    pub(crate) fn body_too_large(limit: usize) -> Self {
        Self::coded(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("The request body is larger than {limit} bytes."),
            format!("요청 본문이 {limit}바이트보다 큽니다."),
        )
    }

    /// 429 if another request holds or keeps the product's lock.
    fn busy(lease: Duration, kept: bool, wait: Duration) -> Self {
        let seconds = retry_after_secs(wait);
        // If the lock is released after each update, there is no such interval.
        let (english, korean) = if kept {
            let lease = as_seconds(lease);
            (
                match lease.as_str() {
                    "1" => "Only one update per second is allowed.".to_owned(),
                    _ => format!("Only one update every {lease} seconds is allowed."),
                },
                format!("{lease}초에 한 번만 수정할 수 있습니다."),
            )
        } else {
            (
                "Another request is updating this product.".to_owned(),
                "다른 요청이 이 상품을 수정하고 있습니다.".to_owned(),
            )
        };
        Self::coded_sentence(
            StatusCode::TOO_MANY_REQUESTS,
            "busy",
            sentences::throttled(seconds),
        )
        .with("error", json!({ "en": english, "ko": korean }))
        .with("retry_after_ms", millis(wait))
        .retry_after(wait)
    }

    /// 409 if the lock was lost before the commit. Nothing was written.
    pub(crate) fn lock_lost() -> Self {
        Self::coded(
            StatusCode::CONFLICT,
            "lock_lost",
            "The lock on this product was lost before the change was saved. Nothing was written.",
            "변경 내용을 저장하기 전에 상품의 락을 잃었습니다. 아무것도 저장되지 않았습니다.",
        )
    }

    /// 503 if the store of the locks is down. Nothing was written.
    pub(crate) fn store_unavailable() -> Self {
        Self::coded(
            StatusCode::SERVICE_UNAVAILABLE,
            "store_unavailable",
            "The lock store is unavailable. Nothing was written.",
            "지금은 락을 얻을 수 없습니다. 아무것도 저장되지 않았습니다.",
        )
        .retry_after(Duration::from_secs(1))
    }

    /// 503 if a call of the database failed.
    fn database_unavailable(effect: Effect) -> Self {
        let (english, korean) = match effect {
            Effect::Read => (
                "The database is unavailable. Try again.",
                "지금은 데이터베이스를 사용할 수 없습니다. 잠시 후 다시 시도해 주세요.",
            ),
            Effect::NotSaved => (
                "The database is unavailable. Nothing was saved.",
                "지금은 데이터베이스를 사용할 수 없습니다. 아무것도 저장되지 않았습니다.",
            ),
            Effect::Unknown => (
                "The database did not respond. The outcome of a change is unknown: check it before you repeat the request.",
                "데이터베이스가 응답하지 않습니다. 저장 여부를 확인한 후 다시 시도해 주세요.",
            ),
        };
        let mut error = Self::coded(
            StatusCode::SERVICE_UNAVAILABLE,
            "database_unavailable",
            english,
            korean,
        )
        .retry_after(Duration::from_secs(1));
        error.0.effect = Some(effect);
        error
    }

    /// Returns the error as the response to a request that writes: a read that failed before the
    /// write means that nothing was saved.
    pub(crate) fn of_write(self) -> Self {
        match self.0.effect {
            Some(Effect::Read) => Self::database_unavailable(Effect::NotSaved),
            _ => self,
        }
    }

    /// 503 if too many requests are in progress.
    pub(crate) fn overloaded() -> Self {
        Self::coded(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "The server is handling too many requests.",
            "지금은 서버에 요청이 너무 많습니다. 잠시 후 다시 시도해 주세요.",
        )
        .retry_after(Duration::from_secs(1))
    }

    /// 503 if there was no response in time. A write that has begun continues.
    pub(crate) fn timeout() -> Self {
        Self::coded(
            StatusCode::SERVICE_UNAVAILABLE,
            "timeout",
            "The request took too long. Its outcome is unknown: check it before you repeat the request.",
            "요청 처리 시간이 초과되었습니다. 처리 여부를 확인한 후 다시 시도해 주세요.",
        )
        .retry_after(Duration::from_secs(1))
    }

    /// 500 for a bug, without details.
    pub(crate) fn internal() -> Self {
        Self::coded(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "Internal server error. The request id identifies it in the log.",
            "서버 오류가 발생했습니다. 요청 ID로 로그에서 찾을 수 있습니다.",
        )
    }

    /// Renders the error in the format and the language of the client.
    pub(crate) fn render(self, format: ErrorFormat, language: Language) -> Response {
        let Inner {
            status,
            body,
            retry_after,
            etag,
            effect: _,
            accept_encoding,
            challenge,
            drf_code: named,
        } = *self.0;
        let code = body.code().or(named).or_else(|| drf_code(status));
        let body = match format {
            ErrorFormat::Json => body.json(language),
            ErrorFormat::Problem => body.problem(status, language),
        };
        let mut response = (status, body.to_string()).into_response();
        if let Some(code) = code {
            response.extensions_mut().insert(ErrorCode(code));
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
        headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Language"));
        if let Some(wait) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after_secs(wait)));
        }
        if let Some(version) = etag {
            headers.insert(ETAG, crate::etag::format(version, 0));
        }
        if accept_encoding {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if let Some(challenge) = challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

/// The code of an error, in the extensions of its response, for the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ErrorCode(pub(crate) &'static str);

/// Returns the name that DRF gives to its errors with this status. Their bodies do not contain it.
fn drf_code(status: StatusCode) -> Option<&'static str> {
    Some(match status {
        StatusCode::BAD_REQUEST => "invalid",
        StatusCode::FORBIDDEN => "permission_denied",
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::NOT_ACCEPTABLE => "not_acceptable",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported_media_type",
        _ => return None,
    })
}

impl ErrorBody {
    /// Returns the code, unless DRF defines the error.
    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Coded { code, .. } => Some(code),
            _ => None,
        }
    }

    fn json(self, language: Language) -> Value {
        match self {
            Self::Detail(detail) => json!({ "detail": detail.into_text(language) }),
            Self::Fields(fields) => {
                let fields = fields
                    .into_iter()
                    .map(|(name, messages)| (name, texts(messages, language)));
                Value::Object(fields.collect())
            }
            Self::Messages(messages) => texts(messages, language),
            Self::Coded {
                code,
                message,
                more,
            } => {
                let mut body = Map::new();
                body.insert("detail".to_owned(), json!(message.into_text(language)));
                for (name, value) in more {
                    body.insert(name, negotiate::in_language(language, value));
                }
                body.insert("code".to_owned(), json!(code));
                Value::Object(body)
            }
        }
    }

    fn problem(self, status: StatusCode, language: Language) -> Value {
        let mut body = Map::new();
        body.insert("type".to_owned(), json!("about:blank"));
        let title = status.canonical_reason().unwrap_or_default();
        body.insert("title".to_owned(), json!(title));
        body.insert("status".to_owned(), json!(status.as_u16()));
        match self {
            Self::Fields(_) | Self::Messages(_) => {
                let detail = sentences::INVALID.into_text(language);
                body.insert("detail".to_owned(), json!(detail));
                body.insert("errors".to_owned(), self.json(language));
            }
            other => {
                if let Value::Object(members) = other.json(language) {
                    body.extend(members);
                }
            }
        }
        Value::Object(body)
    }
}

/// Puts the error into the extensions of the response, from which the middleware renders it.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        if self.0.effect == Some(Effect::Unknown) {
            response.extensions_mut().insert(OutcomeUnknown);
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StorageError> for ApiError {
    fn from(cause: StorageError) -> Self {
        if cause.is_outage() {
            // The condition of the database was logged when it changed.
            tracing::debug!(error = %cause, "the database failed");
        } else {
            tracing::error!(error = %cause, "the database failed");
        }
        Self::database_unavailable(cause.effect())
    }
}

fn texts(messages: Vec<Sentence>, language: Language) -> Value {
    let texts = messages
        .into_iter()
        .map(|message| json!(message.into_text(language)));
    texts.collect()
}

fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}

fn as_seconds(lease: Duration) -> String {
    // `3`, `0.5`: an f64 without a fraction is formatted without a point.
    lease.as_secs_f64().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_database_says_what_was_saved_in_both_languages() {
        let detail = |error: ApiError, language| {
            error.0.body.json(language)["detail"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        for (effect, english, korean) in [
            (Effect::Read, "Try again.", "잠시 후 다시 시도해 주세요."),
            (
                Effect::NotSaved,
                "Nothing was saved.",
                "아무것도 저장되지 않았습니다.",
            ),
            (Effect::Unknown, "is unknown", "저장 여부를 확인한 후"),
        ] {
            let error = ApiError::database_unavailable(effect);
            assert!(detail(error.clone(), Language::English).contains(english));
            assert!(detail(error, Language::Korean).contains(korean));
        }
        let error = ApiError::database_unavailable(Effect::Read).of_write();
        assert!(detail(error, Language::English).contains("Nothing was saved."));
    }

    #[test]
    fn a_lease_has_a_fraction_only_if_needed() {
        assert_eq!(as_seconds(Duration::from_secs(3)), "3");
        assert_eq!(as_seconds(Duration::from_millis(500)), "0.5");
    }
}
