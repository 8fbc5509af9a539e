//! Content negotiation of errors: the format, from `Accept`, and the language, from
//! `Accept-Language` (RFC 9110, sections 12.5.1 and 12.5.4).

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, ACCEPT_LANGUAGE};
use serde_json::Value;

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
        for value in headers.get_all(ACCEPT) {
            for range in value.to_str().unwrap_or_default().split(',') {
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
        }
        format
    }
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

/// The language of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    English,
    Korean,
}

impl Language {
    /// Returns the language with the highest quality value, the first one of several. The
    /// default is English.
    pub(crate) fn preferred(headers: &HeaderMap) -> Self {
        let mut preferred = Self::English;
        let mut highest = 0.0_f32;
        for value in headers.get_all(ACCEPT_LANGUAGE) {
            for range in value.to_str().unwrap_or_default().split(',') {
                let (tag, parameters) = range.split_once(';').unwrap_or((range, ""));
                let quality = parameters.trim().strip_prefix("q=");
                let quality = quality.map_or(1.0, |q| q.trim().parse().unwrap_or(0.0));
                let primary = tag.trim().split('-').next().unwrap_or_default();
                let language = match primary.to_ascii_lowercase().as_str() {
                    "ko" => Self::Korean,
                    "en" | "*" => Self::English,
                    _ => continue,
                };
                if quality > highest {
                    (preferred, highest) = (language, quality);
                }
            }
        }
        preferred
    }

    /// Returns the message in this language if `value` has one in each, and otherwise `value`.
    pub(crate) fn pick(self, value: Value) -> Value {
        let key = match self {
            Self::English => "en",
            Self::Korean => "ko",
        };
        match value {
            Value::Object(mut both) if both.contains_key("en") && both.contains_key("ko") => {
                both.remove(key).unwrap_or_default()
            }
            other => other,
        }
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

    #[test]
    fn korean_is_used_if_it_is_preferred() {
        let language = |value| Language::preferred(&headers("accept-language", value));
        assert_eq!(language("ko"), Language::Korean);
        assert_eq!(
            language("ko-KR,ko;q=0.9,en-US;q=0.8,en;q=0.7"),
            Language::Korean
        );
        assert_eq!(language("ko, en"), Language::Korean);
        assert_eq!(language("en, ko"), Language::English);
        assert_eq!(language("en-GB, ko;q=0.5"), Language::English);
        assert_eq!(language("ko;q=0"), Language::English);
        assert_eq!(language("fr"), Language::English);
        assert_eq!(Language::preferred(&HeaderMap::new()), Language::English);
    }
}
