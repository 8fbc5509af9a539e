//! `ETag`, `If-Match` and `If-None-Match` over the version of a product (RFC 9110,
//! section 13).

use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// The entity tag of a product: its version and, while some of it is held, how many. Strong,
/// because two answers with one tag are the same.
pub(crate) fn etag(version: i64, held: i64) -> HeaderValue {
    let tag = match held {
        0 => format!("\"{version}\""),
        held => format!("\"{version}.{held}\""),
    };
    // Digits, a dot and quotes are always a header value.
    HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"0\""))
}

/// What a client demands of the version it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IfMatch {
    /// It did not say.
    Absent,
    /// `*`: any version, as long as there is one.
    Any,
    /// One of these. Empty if none of its tags can be one of ours: then nothing matches.
    OneOf(Vec<i64>),
}

impl IfMatch {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        match tags(headers, IF_MATCH) {
            None => Self::Absent,
            Some(tags) if tags[..] == ["*"] => Self::Any,
            // Weak tags never match here: the comparison is the strong one.
            Some(tags) => Self::OneOf(tags.into_iter().filter_map(version).collect()),
        }
    }
}

/// The client has this very version already.
pub(crate) fn is_known(headers: &HeaderMap, version: i64, held: i64) -> bool {
    let current = etag(version, held);
    tags(headers, IF_NONE_MATCH).is_some_and(|tags| {
        tags.into_iter()
            .any(|tag| tag == "*" || current == *tag.trim_start_matches("W/"))
    })
}

fn tags(headers: &HeaderMap, name: HeaderName) -> Option<Vec<&str>> {
    let mut values = headers.get_all(name).iter().peekable();
    values.peek()?;
    let lists = values.map(|value| value.to_str().unwrap_or_default());
    Some(lists.flat_map(split).collect())
}

/// Cuts a list at its commas, but not at those within quotes.
fn split(list: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let cut = move |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    };
    list.split(cut).map(str::trim)
}

/// The version in a tag of ours. How many were held is nothing that a change could undo.
fn version(tag: &str) -> Option<i64> {
    let text = tag.strip_prefix('"')?.strip_suffix('"')?;
    let (version, held) = text.split_once('.').unwrap_or((text, "0"));
    let (version, held) = (version.parse().ok()?, held.parse().ok()?);
    // Only as we write it: "+3" and "03" are other tags.
    (etag(version, held).as_bytes() == tag.as_bytes()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn if_match(value: &'static str) -> IfMatch {
        IfMatch::of(&HeaderMap::from_iter([(
            IF_MATCH,
            HeaderValue::from_static(value),
        )]))
    }

    #[test]
    fn only_our_own_strong_tags_match() {
        assert_eq!(if_match("\"3\""), IfMatch::OneOf(vec![3]));
        assert_eq!(if_match("\"3\", \"4\""), IfMatch::OneOf(vec![3, 4]));
        assert_eq!(if_match("\"3.2\""), IfMatch::OneOf(vec![3]));
        assert_eq!(if_match("*"), IfMatch::Any);
        assert_eq!(if_match("\"99\", *"), IfMatch::OneOf(vec![99]));
        for none in [
            "\"a,*,b\"",
            "W/\"3\"",
            "3",
            "\"03\"",
            "\"+3\"",
            "\"3.0\"",
            "\"3.\"",
            "\"3.01\"",
            "\"abc\"",
            "",
            "\"",
        ] {
            assert_eq!(if_match(none), IfMatch::OneOf(vec![]), "{none}");
        }
        assert_eq!(IfMatch::of(&HeaderMap::new()), IfMatch::Absent);
    }
}
