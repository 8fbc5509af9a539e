//! Entity tags ([RFC 9110, section 8.8.3](https://www.rfc-editor.org/rfc/rfc9110#section-8.8.3))
//! and the headers that list them.

use http::{HeaderMap, HeaderName};

/// `"opaque"` or `W/"opaque"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    weak: bool,
    opaque: Vec<u8>,
}

impl Tag {
    /// Returns `None` if the text is not an entity tag.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let (weak, quoted) = match text.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, text),
        };
        let [b'"', opaque @ .., b'"'] = quoted else {
            return None;
        };
        let is_tag = opaque
            .iter()
            .all(|byte| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..));
        is_tag.then(|| Self {
            weak,
            opaque: opaque.to_vec(),
        })
    }

    /// Returns the tag as in an `ETag` header, if it is strong and UTF-8.
    pub(super) fn strong(&self) -> Option<String> {
        let opaque = std::str::from_utf8(&self.opaque).ok()?;
        (!self.weak).then(|| format!("\"{opaque}\""))
    }

    /// Compares weakly: `W/"1"` equals `"1"`.
    pub(super) fn weak_eq(&self, other: &Self) -> bool {
        self.opaque == other.opaque
    }
}

/// Condition of an `If-Match` or `If-None-Match` header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ETagCondition {
    /// The header is missing.
    Absent,
    /// `*`.
    Any,
    /// The valid entity tags of the header. May be empty.
    OneOf(Vec<Tag>),
}

impl ETagCondition {
    pub(super) fn parse(headers: &HeaderMap, name: &HeaderName) -> Self {
        let mut values = headers.get_all(name).iter().peekable();
        if values.peek().is_none() {
            return Self::Absent;
        }
        let mut members = values.flat_map(|value| members(value.as_bytes()));
        match (members.next(), members.next()) {
            (Some(b"*"), None) => Self::Any,
            (first, second) => {
                let all = first.into_iter().chain(second).chain(members);
                Self::OneOf(all.filter_map(Tag::parse).collect())
            }
        }
    }

    /// Whether a resource with the tag `current` matches, by weak comparison. `None` is a resource
    /// without a tag.
    pub(super) fn matches(&self, current: Option<&Tag>) -> bool {
        match self {
            Self::Absent => false,
            Self::Any => true,
            Self::OneOf(tags) => {
                current.is_some_and(|current| tags.iter().any(|tag| tag.weak_eq(current)))
            }
        }
    }
}

/// Splits a list at its commas, except within quotes.
fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let is_separator = move |byte: &u8| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    };
    // Empty members of a list are ignored.
    let members = list.split(is_separator).map(<[u8]>::trim_ascii);
    members.filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderValue, IF_MATCH};

    use super::*;

    fn condition(values: &[&[u8]]) -> ETagCondition {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IF_MATCH, HeaderValue::from_bytes(value).unwrap());
        }
        ETagCondition::parse(&headers, &IF_MATCH)
    }

    fn tags(condition: ETagCondition) -> Vec<String> {
        let ETagCondition::OneOf(tags) = condition else {
            panic!("{condition:?}");
        };
        let text = |tag: &Tag| tag.strong().unwrap_or_else(|| "not strong".to_owned());
        tags.iter().map(text).collect()
    }

    #[test]
    fn lists_are_parsed() {
        assert_eq!(condition(&[]), ETagCondition::Absent);
        assert_eq!(condition(&[b" * "]), ETagCondition::Any);
        assert_eq!(tags(condition(&[b"\"3\""])), ["\"3\""]);
        assert_eq!(
            tags(condition(&[b"\"a,b\" , ,W/\"c\""])),
            ["\"a,b\"", "not strong"]
        );
        assert_eq!(
            tags(condition(&[b"\"a\"", b"\"b\", \"c\""])),
            ["\"a\"", "\"b\"", "\"c\""]
        );
        assert_eq!(tags(condition(&[b"\"\", \"\xc3\xa9\""])), ["\"\"", "\"é\""]);
    }

    #[test]
    fn invalid_tags_are_ignored() {
        for invalid in [
            &b""[..],
            b"3",
            b"\"",
            b"\"3",
            b"3\"",
            b"w/\"3\"",
            b"W/ \"3\"",
            b"\"a\"b\"",
            b"\"a b\"",
            b"W/",
            b"*, *",
            b"\"3\" \"4\"",
        ] {
            assert!(tags(condition(&[invalid])).is_empty(), "{invalid:?}");
        }
        assert_eq!(tags(condition(&[b"\"99\", *"])), ["\"99\""]);
        // An unterminated tag extends to the end of its header line.
        assert_eq!(tags(condition(&[b"\"3, \"4\"", b"\"5\""])), ["\"5\""]);
    }
}
