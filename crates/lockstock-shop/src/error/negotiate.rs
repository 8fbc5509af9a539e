//! What the client can read: the form of an answer, from `Accept`, and its language, from
//! `Accept-Language` (RFC 9110, sections 12.5.1 and 12.5.4).

use std::borrow::Cow;

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, ACCEPT_LANGUAGE};
use serde_json::Value;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorFormat {
    /// `application/json`, in DRF's shapes.
    Json,
    /// RFC 9457, for refusals only.
    Problem,
}

impl ErrorFormat {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Problem => "application/problem+json",
        }
    }

    /// What a refusal to this client looks like, or `None` if it reads nothing of ours.
    /// Problem details go to those who name them: to `*/*` they would be a surprise.
    pub(crate) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let mut any = false;
        let mut form = None;
        for value in headers.get_all(ACCEPT) {
            any = true;
            for range in value.to_str().unwrap_or_default().split(',') {
                let media_type = range.split(';').next().unwrap_or_default().trim();
                match media_type.to_ascii_lowercase().as_str() {
                    "application/problem+json" => form = Some(Self::Problem),
                    "application/json" | "application/*" | "*/*" | "*/json" => {
                        form = form.or(Some(Self::Json));
                    }
                    _ => {}
                }
            }
        }
        if any { form } else { Some(Self::Json) }
    }
}

/// What our own sentences are written in. DRF's sentences stay as DRF has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    English,
    Korean,
}

impl Language {
    /// The one the client likes better; English if it does not say.
    pub(crate) fn preferred(headers: &HeaderMap) -> Self {
        let mut korean = 0.0_f32;
        let mut english = 0.0_f32;
        for value in headers.get_all(ACCEPT_LANGUAGE) {
            for range in value.to_str().unwrap_or_default().split(',') {
                let (tag, quality) = range.split_once(';').unwrap_or((range, ""));
                let quality = quality
                    .trim()
                    .strip_prefix("q=")
                    .map_or(1.0, |quality| quality.trim().parse().unwrap_or(0.0));
                let primary = tag.trim().split('-').next().unwrap_or_default();
                if primary.eq_ignore_ascii_case("ko") {
                    korean = korean.max(quality);
                } else if primary.eq_ignore_ascii_case("en") || primary == "*" {
                    english = english.max(quality);
                }
            }
        }
        if korean > english {
            return Self::Korean;
        }
        // "ko, en" without weights: the order is all the client said.
        let first = headers
            .get(ACCEPT_LANGUAGE)
            .and_then(|value| value.to_str().ok())
            .map(|value| value.trim_start().to_ascii_lowercase());
        if korean > 0.0 && korean == english && first.is_some_and(|first| first.starts_with("ko")) {
            return Self::Korean;
        }
        Self::English
    }

    pub(crate) fn choose<'a>(self, english: Cow<'a, str>, korean: Cow<'a, str>) -> Cow<'a, str> {
        match self {
            Self::English => english,
            Self::Korean => korean,
        }
    }

    /// The sentence, of a value that has one in each language; else the value.
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
    fn problem_details_go_to_those_who_ask_for_them() {
        let form = |accept| ErrorFormat::accepted(&headers("accept", accept));
        assert_eq!(form("*/*"), Some(ErrorFormat::Json));
        assert_eq!(form("application/json, */*;q=0.1"), Some(ErrorFormat::Json));
        assert_eq!(
            form("application/problem+json, application/json"),
            Some(ErrorFormat::Problem)
        );
        assert_eq!(
            form("application/json, application/problem+json"),
            Some(ErrorFormat::Problem)
        );
        assert_eq!(form("text/html"), None);
        assert_eq!(form(""), None);
        assert_eq!(
            ErrorFormat::accepted(&HeaderMap::new()),
            Some(ErrorFormat::Json)
        );
    }

    #[test]
    fn korean_is_spoken_to_those_who_prefer_it() {
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
