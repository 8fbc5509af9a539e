//! Conditions of a request, and their evaluation in the order of RFC 9110, section 13.2.2.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED,
    TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode};
use http_body::Body;

use super::tags::TagCondition;
use super::validators::Validators;
use crate::rejection::Rejection;
use crate::response_body::ResponseBody;

/// Conditions of a request: an extension of requests that write. For handlers that compare the
/// version in the transaction that writes.
///
/// `If-Match` and `If-Unmodified-Since` are met by the version that the client has read,
/// `If-None-Match` by any other. `If-Match` compares strongly, with one exception to RFC 9110: a
/// weak tag `W/"3"` of the client matches the *strong* current tag `"3"`. A proxy that compresses
/// responses weakens their tags, and its clients would be rejected for ever. A current tag that is
/// weak itself never matches.
///
/// ```
/// use http::Request;
/// use lockstock_http::{Preconditions, Rejection};
///
/// let request = Request::put("/products/1/").header("if-match", "\"3\"").body(()).unwrap();
/// let conditions = Preconditions::of(request.method(), request.headers())?;
/// assert!(conditions.check(Some(&"\"3\"".into())).is_ok());
/// assert!(conditions.check(Some(&"\"4\"".into())).is_err());
/// assert!(conditions.check(None).is_err(), "the resource does not exist");
/// # Ok::<_, Rejection>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Preconditions {
    /// `If-Match`.
    pub if_match: TagCondition,
    /// `If-None-Match`.
    pub if_none_match: TagCondition,
    /// `If-Unmodified-Since`. `None` also if it is not a date or `If-Match` replaces it.
    pub if_unmodified_since: Option<SystemTime>,
    /// `If-Modified-Since` of a GET or HEAD. `None` also if it is not a date or `If-None-Match`
    /// replaces it.
    pub if_modified_since: Option<SystemTime>,
}

impl Preconditions {
    /// Parses the conditions of a request.
    ///
    /// There are none in an OPTIONS, TRACE or CONNECT request. An `If-None-Match` of a GET that is
    /// not a list of entity tags matches nothing: the client gets the whole response.
    ///
    /// # Errors
    ///
    /// [`Rejection::PreconditionMalformed`] if `If-Match`, or `If-None-Match` of a request that
    /// writes, is neither `*` nor a list of entity tags.
    pub fn of(method: &Method, headers: &HeaderMap) -> Result<Self, Rejection> {
        let has_conditions = [
            IF_MATCH,
            IF_NONE_MATCH,
            IF_UNMODIFIED_SINCE,
            IF_MODIFIED_SINCE,
        ]
        .iter()
        .any(|name| headers.contains_key(name));
        if !has_conditions || selects_nothing(method) {
            return Ok(Self::default());
        }
        let malformed = |header| Rejection::PreconditionMalformed { header };
        let if_match =
            TagCondition::parse(headers, &IF_MATCH).map_err(|_| malformed("If-Match"))?;
        let if_none_match = match TagCondition::parse(headers, &IF_NONE_MATCH) {
            Ok(condition) => condition,
            Err(_) if is_read(method) => TagCondition::OneOf(Vec::new()),
            Err(_) => return Err(malformed("If-None-Match")),
        };
        let since = |name| date(headers, &name);
        Ok(Self {
            if_unmodified_since: since(IF_UNMODIFIED_SINCE).filter(|_| if_match.is_absent()),
            if_modified_since: since(IF_MODIFIED_SINCE)
                .filter(|_| if_none_match.is_absent() && is_read(method)),
            if_match,
            if_none_match,
        })
    }

    /// Whether the request has no condition.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Evaluates the conditions of a request that writes. `current` is the version of the requested
    /// resource, `None` if the resource does not exist.
    ///
    /// # Errors
    ///
    /// [`Rejection::PreconditionFailed`] if the request must not be processed.
    pub fn check(&self, current: Option<&Validators>) -> Result<(), Rejection> {
        let tag = current.and_then(Validators::tag);
        let failed = |header| {
            Err(Rejection::PreconditionFailed {
                header,
                current: current.cloned(),
            })
        };
        if !self.if_match.is_absent() {
            let is_met = current.is_some() && self.if_match.matches_strongly(tag.as_ref());
            if !is_met {
                return failed("If-Match");
            }
        } else if let Some(since) = self.if_unmodified_since
            && let Some(modified) = current.and_then(|current| current.last_modified)
            && is_later(modified, since)
        {
            return failed("If-Unmodified-Since");
        }
        if current.is_some() && self.if_none_match.matches_weakly(tag.as_ref()) {
            return failed("If-None-Match");
        }
        Ok(())
    }

    /// Evaluates the conditions of a GET or HEAD with the validators of its response. If the client
    /// has that version, the response becomes 304 without a body. A response that is not 2xx stays
    /// as it is.
    ///
    /// # Errors
    ///
    /// [`Rejection::PreconditionFailed`] if the client has asked for another version.
    pub fn select<B: Body<Data = Bytes>>(
        &self,
        response: Response<B>,
    ) -> Result<Response<ResponseBody<B>>, Rejection> {
        if self.is_empty() || !response.status().is_success() {
            return Ok(response.map(ResponseBody::inner));
        }
        let headers = response.headers();
        let etag = headers.get(ETAG);
        let etag = etag.and_then(|tag| str::from_utf8(tag.as_bytes()).ok());
        let validators = Validators {
            etag: etag.map(str::to_owned),
            last_modified: date(headers, &LAST_MODIFIED),
        };
        let tag = validators.tag();
        let current = Self {
            if_none_match: TagCondition::Absent,
            ..self.clone()
        };
        current.check(Some(&validators))?;
        let is_unchanged = || {
            let (since, modified) = (self.if_modified_since?, validators.last_modified?);
            Some(!is_later(modified, since))
        };
        if self.if_none_match.matches_weakly(tag.as_ref()) || is_unchanged() == Some(true) {
            return Ok(not_modified(response));
        }
        Ok(response.map(ResponseBody::inner))
    }
}

pub(super) fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Whether a method neither selects nor changes a representation: section 13.2.1.
fn selects_nothing(method: &Method) -> bool {
    matches!(*method, Method::OPTIONS | Method::TRACE | Method::CONNECT)
}

/// Whether the resource was modified after `since`. Dates in headers are whole seconds.
fn is_later(modified: SystemTime, since: SystemTime) -> bool {
    let seconds = |time: SystemTime| {
        let elapsed = time.duration_since(SystemTime::UNIX_EPOCH);
        elapsed.map_or(0, |elapsed| elapsed.as_secs())
    };
    seconds(modified) > seconds(since)
}

/// Returns the date in a header, if the header is one date.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => httpdate::parse_http_date(value.to_str().ok()?).ok(),
        _ => None,
    }
}

fn not_modified<B: Body>(response: Response<B>) -> Response<ResponseBody<B>> {
    let (mut parts, _) = response.into_parts();
    parts.status = StatusCode::NOT_MODIFIED;
    let has_tag = parts.headers.contains_key(ETAG);
    // Headers that describe the body, and headers that the client has with it: section 15.4.5.
    for name in [
        CONTENT_ENCODING,
        CONTENT_LANGUAGE,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        TRANSFER_ENCODING,
    ] {
        parts.headers.remove(name);
    }
    if has_tag {
        parts.headers.remove(LAST_MODIFIED);
    }
    Response::from_parts(parts, ResponseBody::from(Bytes::new()))
}
