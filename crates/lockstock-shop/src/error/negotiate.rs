//! Content negotiation of pages and errors: the format, from `Accept` (RFC 9110, section 12.5.1). The
//! language is negotiated as by the layers of `lockstock-http`.

use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, HeaderValue};
use lockstock_http::Language;
use serde_json::Value;

use crate::header_list::members;

/// The format of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorFormat {
    /// `application/json`, as DRF formats errors.
    Json,
    /// RFC 9457 problem details.
    Problem,
}

impl ErrorFormat {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Problem => "application/problem+json",
        }
    }

    /// Returns the format that the client accepts, or `None` if it accepts neither. Problem
    /// details are sent only if `Accept` names them: clients that send `*/*` expect DRF's JSON.
    pub(crate) fn accepted(headers: &HeaderMap) -> Option<Self> {
        if !headers.contains_key(ACCEPT) {
            return Some(Self::Json);
        }
        let mut format = None;
        for range in members(headers, &ACCEPT) {
            let (media_type, parameters) = range.split_once(';').unwrap_or((range, ""));
            match media_type.trim().to_ascii_lowercase().as_str() {
                "application/problem+json" if is_excluded(parameters) => {}
                "application/problem+json" => format = Some(Self::Problem),
                "application/json" | "application/*" | "*/*" | "*/json" => {
                    format = format.or(Some(Self::Json));
                }
                _ => {}
            }
        }
        format
    }
}

/// Returns whether the client accepts server-sent events.
pub(crate) fn accepts_events(headers: &HeaderMap) -> bool {
    !headers.contains_key(ACCEPT)
        || members(headers, &ACCEPT).any(|range| {
            let (media_type, parameters) = range.split_once(';').unwrap_or((range, ""));
            let media_type = media_type.trim().to_ascii_lowercase();
            matches!(&*media_type, "text/event-stream" | "text/*" | "*/*")
                && !is_excluded(parameters)
        })
}

/// Returns whether the client is a browser that opens a page.
pub(crate) fn prefers_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).map(HeaderValue::as_bytes);
    accept.is_some_and(|accept| accept.starts_with(b"text/html"))
}

/// Whether the parameters of a media range contain a quality of zero. Of the JSON types it is
/// ignored, as in DRF.
fn is_excluded(parameters: &str) -> bool {
    let mut qualities = parameters.split(';').filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_quality = name.trim().eq_ignore_ascii_case("q");
        is_quality.then(|| value.trim().parse::<f32>())
    });
    qualities.any(|quality| quality == Ok(0.0))
}

/// Returns the message in `language` if `value` has one in each language, and otherwise `value`.
pub(super) fn in_language(language: Language, value: Value) -> Value {
    match value {
        Value::Object(mut both) if both.contains_key("en") && both.contains_key("ko") => {
            both.remove(language.tag()).unwrap_or_default()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn problem_details_are_sent_only_if_accept_names_them() {
        let format = |accept| ErrorFormat::accepted(&headers("accept", accept));
        assert_eq!(format("*/*"), Some(ErrorFormat::Json));
        assert_eq!(
            format("application/json, */*;q=0.1"),
            Some(ErrorFormat::Json)
        );
        assert_eq!(
            format("application/problem+json, application/json"),
            Some(ErrorFormat::Problem)
        );
        assert_eq!(
            format("application/json, application/problem+json"),
            Some(ErrorFormat::Problem)
        );
        assert_eq!(
            format("application/json, application/problem+json; q=0.0"),
            Some(ErrorFormat::Json)
        );
        assert_eq!(format("application/problem+json;q=0"), None);
        assert_eq!(format("text/html"), None);
        assert_eq!(format(""), None);
        assert_eq!(
            ErrorFormat::accepted(&HeaderMap::new()),
            Some(ErrorFormat::Json)
        );
    }
}
