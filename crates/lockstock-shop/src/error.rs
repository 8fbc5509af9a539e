//! Every answer that is not a success, in one type.
//!
//! A handler says *what* is wrong; how that reads, as DRF's JSON, as RFC 9457
//! `application/problem+json`, in English or in Korean, is decided once, where the whole
//! request is known (`http/middleware.rs`). No refusal shows a path, SQL, a stack or a URL.

mod layers;
pub(crate) mod negotiate;
mod orders;

use std::borrow::Cow;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, ETAG, RETRY_AFTER, VARY};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use lockstock_http::OutcomeUnknown;
use serde_json::{Map, Value, json};

use self::negotiate::{Form, Language};
use crate::storage::StorageError;

/// Why a request was not carried out. Boxed: it is the rare end of nearly every call.
#[derive(Debug, Clone)]
pub(crate) struct Refusal(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    status: StatusCode,
    about: About,
    retry_after: Option<Duration>,
    etag: Option<i64>,
    commit_unknown: bool,
}

/// What the body says.
#[derive(Debug, Clone)]
enum About {
    /// One sentence, as DRF words it.
    Detail(Cow<'static, str>),
    /// What is wrong with each field, or with the whole body.
    Fields(Map<String, Value>),
    /// A list of sentences: DRF answers so for a bad search.
    Sentences(Vec<&'static str>),
    /// One of ours: a code for programs, a sentence in each language, what else helps.
    Coded {
        code: &'static str,
        english: Cow<'static, str>,
        korean: Cow<'static, str>,
        more: Map<String, Value>,
    },
}

impl Refusal {
    fn detail(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(status, About::Detail(detail.into()))
    }

    fn coded(
        status: StatusCode,
        code: &'static str,
        english: impl Into<Cow<'static, str>>,
        korean: impl Into<Cow<'static, str>>,
    ) -> Self {
        let about = About::Coded {
            code,
            english: english.into(),
            korean: korean.into(),
            more: Map::new(),
        };
        Self::new(status, about)
    }

    fn new(status: StatusCode, about: About) -> Self {
        Self(Box::new(Inner {
            status,
            about,
            retry_after: None,
            etag: None,
            commit_unknown: false,
        }))
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        if let About::Coded { more, .. } = &mut self.0.about {
            more.insert(name.to_owned(), value.into());
        }
        self
    }

    fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// 400 with one sentence.
    pub(crate) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::detail(StatusCode::BAD_REQUEST, detail)
    }

    /// 400 with what is wrong, field by field.
    pub(crate) fn invalid(errors: Map<String, Value>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, About::Fields(errors))
    }

    /// 400 with a list of sentences.
    pub(crate) fn sentences(sentences: Vec<&'static str>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, About::Sentences(sentences))
    }

    /// 404 for a place that does not exist.
    pub(crate) fn not_found() -> Self {
        Self::detail(StatusCode::NOT_FOUND, "Not found.")
    }

    /// 404 for a product that does not exist.
    pub(crate) fn no_product() -> Self {
        Self::none_of("Product")
    }

    /// 404 for something of that kind that does not exist.
    pub(crate) fn none_of(kind: &str) -> Self {
        Self::detail(
            StatusCode::NOT_FOUND,
            format!("No {kind} matches the given query."),
        )
    }

    /// 404 for a page that does not exist.
    pub(crate) fn no_page() -> Self {
        Self::detail(StatusCode::NOT_FOUND, "Invalid page.")
    }

    /// 405.
    pub(crate) fn method(method: &str) -> Self {
        Self::detail(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("Method \"{method}\" not allowed."),
        )
    }

    /// 406.
    pub(crate) fn not_acceptable() -> Self {
        Self::detail(
            StatusCode::NOT_ACCEPTABLE,
            "Could not satisfy the request Accept header.",
        )
    }

    /// 415.
    pub(crate) fn media_type(given: &str) -> Self {
        Self::detail(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("Unsupported media type \"{given}\" in request."),
        )
    }

    /// 408: the body did not arrive in time.
    pub(crate) fn slow_body() -> Self {
        Self::coded(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            "The request's body did not arrive in time.",
            "요청 본문이 제때 도착하지 않았습니다.",
        )
    }

    /// 413.
    pub(crate) fn body_too_large(limit: usize) -> Self {
        Self::coded(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("The request's body is larger than {limit} bytes."),
            format!("요청 본문이 {limit}바이트보다 큽니다."),
        )
    }

    /// 412: the product has another version than the client has seen.
    pub(crate) fn stale(version: i64) -> Self {
        let mut refusal = Self::coded(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            format!("The product was changed in the meantime: it is at version {version} now."),
            format!("그 사이에 상품이 변경되었습니다. 현재 버전은 {version}입니다."),
        )
        .with("version", version);
        refusal.0.etag = Some(version);
        refusal
    }

    /// 428: this server wants If-Match on every change.
    pub(crate) fn if_match_required() -> Self {
        Self::coded(
            StatusCode::PRECONDITION_REQUIRED,
            "precondition_required",
            "Send If-Match with the ETag of the product that you have read.",
            "조회한 상품의 ETag를 If-Match 헤더로 보내 주세요.",
        )
    }

    /// 429: somebody else is updating the product, or has just done so.
    fn busy(lease: Duration, kept: bool, wait: Duration) -> Self {
        let seconds = whole_seconds(wait);
        // The article's sentence where it is true; where the lock is freed after each
        // update, "once in 3 s" would be a lie.
        let (english, korean) = if kept {
            let lease = in_seconds(lease);
            (
                format!("Only one update every {lease} seconds is allowed."),
                format!("{lease}초에 한 번만 수정할 수 있습니다."),
            )
        } else {
            (
                "Somebody else is updating this product.".to_owned(),
                "다른 요청이 이 상품을 수정하고 있습니다.".to_owned(),
            )
        };
        let unit = if seconds == 1 { "second" } else { "seconds" };
        Self::coded(
            StatusCode::TOO_MANY_REQUESTS,
            "busy",
            format!("Request was throttled. Expected available in {seconds} {unit}."),
            format!("요청이 제한되었습니다. {seconds}초 후에 다시 시도해 주세요."),
        )
        .with("error", json!({ "en": english, "ko": korean }))
        .with(
            "retry_after_ms",
            u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        )
        .retry_after(wait)
    }

    /// 409: the lock was lost before the write, nothing was written.
    pub(crate) fn lock_lost() -> Self {
        Self::coded(
            StatusCode::CONFLICT,
            "lock_lost",
            "The lock on this product was lost before the change was saved. Nothing was written.",
            "변경 내용을 저장하기 전에 상품의 잠금을 잃었습니다. 아무것도 저장되지 않았습니다.",
        )
    }

    /// 503: no lock can be had, so nothing is written.
    pub(crate) fn store_unavailable() -> Self {
        Self::coded(
            StatusCode::SERVICE_UNAVAILABLE,
            "store_unavailable",
            "Locks cannot be had at the moment. Nothing was written.",
            "지금은 잠금을 얻을 수 없습니다. 아무것도 저장되지 않았습니다.",
        )
        .retry_after(Duration::from_secs(1))
    }

    /// 503: too many requests at once.
    pub(crate) fn overloaded() -> Self {
        Self::coded(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "The server has too much to do at the moment.",
            "지금은 서버에 요청이 너무 많습니다.",
        )
        .retry_after(Duration::from_secs(1))
    }

    /// 503: the answer took too long. What was begun goes on.
    pub(crate) fn timeout() -> Self {
        Self::coded(
            StatusCode::SERVICE_UNAVAILABLE,
            "timeout",
            "The request took too long. Whether it was carried out is not known: look first, then repeat it.",
            "요청 처리 시간이 초과되었습니다. 처리 여부를 확인한 후 다시 시도해 주세요.",
        )
        .retry_after(Duration::from_secs(1))
    }

    /// 500: a defect of ours, told without its details.
    pub(crate) fn defect() -> Self {
        Self::coded(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "The server made a mistake. The request id helps to find it in the log.",
            "서버 오류가 발생했습니다. 요청 ID로 로그에서 찾을 수 있습니다.",
        )
    }

    /// The answer for a client that reads `form` and speaks `language`.
    pub(crate) fn render(self, form: Form, language: Language) -> Response {
        let Inner {
            status,
            about,
            retry_after,
            etag,
            commit_unknown: _,
        } = *self.0;
        let speaks = matches!(about, About::Coded { .. });
        let body = match form {
            Form::Json => about.json(language),
            Form::Problem => about.problem(status, language),
        };
        let mut response = (status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
        if speaks {
            headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Language"));
        }
        if let Some(wait) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if let Some(version) = etag {
            headers.insert(ETAG, crate::etag::etag(version, 0));
        }
        response
    }
}

impl About {
    fn json(self, language: Language) -> Value {
        match self {
            Self::Detail(detail) => json!({ "detail": detail }),
            Self::Fields(fields) => Value::Object(fields),
            Self::Sentences(sentences) => json!(sentences),
            Self::Coded {
                code,
                english,
                korean,
                more,
            } => {
                let mut body = Map::new();
                body.insert("detail".to_owned(), json!(language.of(english, korean)));
                for (name, value) in more {
                    body.insert(name, language.pick(value));
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
        let invalid = "The request is not valid.";
        match self {
            Self::Fields(fields) => {
                body.insert("detail".to_owned(), json!(invalid));
                body.insert("errors".to_owned(), Value::Object(fields));
            }
            Self::Sentences(sentences) => {
                body.insert("detail".to_owned(), json!(invalid));
                body.insert("errors".to_owned(), json!(sentences));
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

/// Carried in the response's extensions to where it is rendered.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        if self.0.commit_unknown {
            response.extensions_mut().insert(OutcomeUnknown);
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        tracing::error!(%error, "the database failed");
        let mut refusal = Self::coded(
            StatusCode::SERVICE_UNAVAILABLE,
            "database_unavailable",
            "The database did not answer. Whether a change was saved is not known: look first, then repeat it.",
            "데이터베이스가 응답하지 않습니다. 저장 여부를 확인한 후 다시 시도해 주세요.",
        )
        .retry_after(Duration::from_secs(1));
        refusal.0.commit_unknown = error.commit_unknown();
        refusal
    }
}

/// As `Retry-After` wants it: rounded up, at least 1. From whole milliseconds, as a lease is
/// counted: a microsecond over 3 s is not 4 s.
fn whole_seconds(wait: Duration) -> u64 {
    let up = wait.as_millis().div_ceil(1000);
    u64::try_from(up).unwrap_or(u64::MAX).max(1)
}

fn in_seconds(lease: Duration) -> String {
    // `3`, `0.5`: f64 writes whole numbers without a point.
    lease.as_secs_f64().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        assert_eq!(whole_seconds(Duration::ZERO), 1);
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::from_millis(2001)), 3);
        assert_eq!(whole_seconds(Duration::from_secs(3)), 3);
        assert_eq!(whole_seconds(Duration::from_micros(3_000_100)), 3);
    }

    #[test]
    fn a_lease_reads_as_people_write_it() {
        assert_eq!(in_seconds(Duration::from_secs(3)), "3");
        assert_eq!(in_seconds(Duration::from_millis(500)), "0.5");
    }
}
