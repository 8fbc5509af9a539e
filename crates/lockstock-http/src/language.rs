//! Language of the default rejections ([RFC 9110, section
//! 12.5.4](https://www.rfc-editor.org/rfc/rfc9110#section-12.5.4)).

use http::HeaderMap;
use http::header::ACCEPT_LANGUAGE;

/// Language of a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Language {
    /// `en`, and the default.
    #[default]
    English,
    /// `ko`.
    Korean,
}

impl Language {
    /// Returns the language with the highest quality value in `Accept-Language`, the first of
    /// several.
    ///
    /// ```
    /// use http::{HeaderMap, HeaderValue, header::ACCEPT_LANGUAGE};
    /// use lockstock_http::Language;
    ///
    /// let accepted = HeaderValue::from_static("ko-KR,ko;q=0.9,en;q=0.8");
    /// let headers = HeaderMap::from_iter([(ACCEPT_LANGUAGE, accepted)]);
    /// assert_eq!(Language::preferred(&headers), Language::Korean);
    /// ```
    pub fn preferred(headers: &HeaderMap) -> Self {
        let mut preferred = (Self::default(), 0.0);
        for value in headers.get_all(ACCEPT_LANGUAGE) {
            for range in value.to_str().unwrap_or_default().split(',') {
                let (tag, weight) = range.split_once(';').unwrap_or((range, ""));
                let primary = tag.trim().split('-').next().unwrap_or_default();
                let language = match primary.to_ascii_lowercase().as_str() {
                    "en" | "*" => Self::English,
                    "ko" => Self::Korean,
                    _ => continue,
                };
                let quality = quality(weight);
                if quality > preferred.1 {
                    preferred = (language, quality);
                }
            }
        }
        preferred.0
    }

    /// Returns the language tag, as in `Content-Language`.
    pub fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Korean => "ko",
        }
    }

    /// Returns the text in this language.
    pub(crate) fn choose<T>(self, english: T, korean: T) -> T {
        match self {
            Self::English => english,
            Self::Korean => korean,
        }
    }
}

fn quality(weight: &str) -> f32 {
    match weight.trim().split_once('=') {
        None => 1.0,
        Some((name, value)) if name.trim().eq_ignore_ascii_case("q") => {
            value.trim().parse().unwrap_or(0.0)
        }
        Some(_) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_quality_is_preferred() {
        for (accepted, language) in [
            ("", Language::English),
            ("ko", Language::Korean),
            ("KO-kr", Language::Korean),
            ("ko, en", Language::Korean),
            ("en, ko", Language::English),
            ("en;q=0.5, ko; Q=0.6", Language::Korean),
            ("ko;q=0", Language::English),
            ("ko;q=x", Language::English),
            ("*, ko;q=0.1", Language::English),
            ("fr", Language::English),
        ] {
            let value = accepted.parse().unwrap();
            let headers = HeaderMap::from_iter([(ACCEPT_LANGUAGE, value)]);
            assert_eq!(Language::preferred(&headers), language, "{accepted}");
        }
        assert_eq!(Language::preferred(&HeaderMap::new()), Language::English);
    }
}
