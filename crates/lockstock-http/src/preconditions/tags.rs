//! Entity tags ([RFC 9110, section 8.8.3](https://www.rfc-editor.org/rfc/rfc9110#section-8.8.3))
//! and the headers that list them.

use std::fmt;

use http::{HeaderMap, HeaderName};

/// Entity tag: `"opaque"` or `W/"opaque"`.
///
/// ```
/// use lockstock_http::EntityTag;
///
/// let tag = EntityTag::parse(b"W/\"3\"").unwrap();
/// assert!(tag.is_weak() && tag.opaque() == b"3");
/// assert_eq!(EntityTag::parse(b"3"), None, "the quotes are part of the tag");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct EntityTag {
    weak: bool,
    opaque: Vec<u8>,
}

impl EntityTag {
    /// Parses a tag as in an `ETag` header. Returns `None` if the text is not an entity tag.
    pub fn parse(text: &[u8]) -> Option<Self> {
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

    /// Whether the tag begins with `W/`: representations with the same tag may differ.
    pub fn is_weak(&self) -> bool {
        self.weak
    }

    /// Returns the bytes between the quotes.
    pub fn opaque(&self) -> &[u8] {
        &self.opaque
    }

    /// Compares weakly: `W/"1"` equals `"1"`.
    pub(super) fn weak_eq(&self, other: &Self) -> bool {
        self.opaque == other.opaque
    }
}

impl fmt::Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weak = if self.weak { "W/" } else { "" };
        write!(f, "{weak}\"{}\"", String::from_utf8_lossy(&self.opaque))
    }
}

impl fmt::Debug for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Condition of an `If-Match` or `If-None-Match` header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TagCondition {
    /// The header is missing.
    #[default]
    Absent,
    /// `*`: any resource that exists.
    Any,
    /// One of these entity tags.
    OneOf(Vec<EntityTag>),
}

/// Error for a header that is neither `*` nor a list of entity tags.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MalformedTags;

impl TagCondition {
    /// An empty list is an error too: a client that sends one has lost its tag.
    pub(super) fn parse(headers: &HeaderMap, name: &HeaderName) -> Result<Self, MalformedTags> {
        let mut values = headers.get_all(name).iter().peekable();
        if values.peek().is_none() {
            return Ok(Self::Absent);
        }
        let members = values.flat_map(|value| members(value.as_bytes()));
        let members = members.collect::<Vec<_>>();
        if members == [b"*"] {
            return Ok(Self::Any);
        }
        let tags = members.into_iter().map(EntityTag::parse);
        match tags.collect::<Option<Vec<_>>>() {
            Some(tags) if !tags.is_empty() => Ok(Self::OneOf(tags)),
            _ => Err(MalformedTags),
        }
    }

    /// Whether the header is missing.
    pub fn is_absent(&self) -> bool {
        *self == Self::Absent
    }

    /// Whether a resource that exists has one of the tags. Tags that no client can have weakened
    /// by accident are compared: see [`Preconditions`](crate::Preconditions).
    pub(super) fn matches_strongly(&self, current: Option<&EntityTag>) -> bool {
        let current = current.filter(|current| !current.is_weak());
        self.matches_weakly(current)
    }

    /// Whether a resource that exists has one of the tags, by weak comparison. `None` is a resource
    /// without a tag.
    pub(super) fn matches_weakly(&self, current: Option<&EntityTag>) -> bool {
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

    fn condition(values: &[&[u8]]) -> Result<TagCondition, MalformedTags> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IF_MATCH, HeaderValue::from_bytes(value).unwrap());
        }
        TagCondition::parse(&headers, &IF_MATCH)
    }

    fn tags(values: &[&[u8]]) -> Vec<String> {
        let Ok(TagCondition::OneOf(tags)) = condition(values) else {
            panic!("{values:?}");
        };
        tags.iter().map(EntityTag::to_string).collect()
    }

    #[test]
    fn lists_are_parsed() {
        assert_eq!(condition(&[]), Ok(TagCondition::Absent));
        assert_eq!(condition(&[b" * "]), Ok(TagCondition::Any));
        assert_eq!(tags(&[b"\"3\""]), ["\"3\""]);
        assert_eq!(tags(&[b"\"a,b\" , ,W/\"c\""]), ["\"a,b\"", "W/\"c\""]);
        assert_eq!(
            tags(&[b"\"a\"", b"\"b\", \"c\""]),
            ["\"a\"", "\"b\"", "\"c\""]
        );
        assert_eq!(tags(&[b"\"\", \"\xc3\xa9\""]), ["\"\"", "\"é\""]);
    }

    #[test]
    fn a_list_with_anything_but_entity_tags_is_malformed() {
        for malformed in [
            &b""[..],
            b",",
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
            b"\"99\", *",
            b"\"99\", 3",
        ] {
            assert_eq!(condition(&[malformed]), Err(MalformedTags), "{malformed:?}");
        }
        // An unterminated tag extends to the end of its header line.
        assert_eq!(condition(&[b"\"3, \"4\"", b"\"5\""]), Err(MalformedTags));
    }
}
