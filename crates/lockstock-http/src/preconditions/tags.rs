//! Entity tags ([RFC 9110, section 8.8.3](https://www.rfc-editor.org/rfc/rfc9110#section-8.8.3))
//! and lists of them.

use http::{HeaderMap, HeaderName};

/// `"opaque"` or `W/"opaque"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    weak: bool,
    opaque: Vec<u8>,
}

impl Tag {
    /// `None` for what is none.
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

    /// As an `ETag` header has it, if it is strong and text.
    pub(super) fn strong(&self) -> Option<String> {
        let opaque = std::str::from_utf8(&self.opaque).ok()?;
        (!self.weak).then(|| format!("\"{opaque}\""))
    }

    /// The weak comparison.
    pub(super) fn weak_eq(&self, other: &Self) -> bool {
        self.opaque == other.opaque
    }
}

/// What `If-Match` or `If-None-Match` names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ETagCondition {
    /// There is no such header.
    Nothing,
    /// `*`.
    Any,
    /// Without what is no entity tag. May be empty.
    OneOf(Vec<Tag>),
}

impl ETagCondition {
    pub(super) fn by(headers: &HeaderMap, name: &HeaderName) -> Self {
        let mut values = headers.get_all(name).iter().peekable();
        if values.peek().is_none() {
            return Self::Nothing;
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

    /// Whether it names what has the tag `current`, by the weak comparison.
    pub(super) fn names(&self, current: Option<&Tag>) -> bool {
        match self {
            Self::Nothing => false,
            Self::Any => true,
            Self::OneOf(tags) => {
                current.is_some_and(|current| tags.iter().any(|tag| tag.weak_eq(current)))
            }
        }
    }
}

/// Cuts a list at its commas, but not at those within quotes.
fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let cut = move |byte: &u8| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    };
    // A list may have empty members, which mean nothing.
    let members = list.split(cut).map(<[u8]>::trim_ascii);
    members.filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderValue, IF_MATCH};

    use super::*;

    fn demanded(values: &[&[u8]]) -> ETagCondition {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IF_MATCH, HeaderValue::from_bytes(value).unwrap());
        }
        ETagCondition::by(&headers, &IF_MATCH)
    }

    fn tags(of: ETagCondition) -> Vec<String> {
        let ETagCondition::OneOf(tags) = of else {
            panic!("{of:?}");
        };
        let text = |tag: &Tag| tag.strong().unwrap_or_else(|| "not strong".to_owned());
        tags.iter().map(text).collect()
    }

    #[test]
    fn lists_are_read() {
        assert_eq!(demanded(&[]), ETagCondition::Nothing);
        assert_eq!(demanded(&[b" * "]), ETagCondition::Any);
        assert_eq!(tags(demanded(&[b"\"3\""])), ["\"3\""]);
        assert_eq!(
            tags(demanded(&[b"\"a,b\" , ,W/\"c\""])),
            ["\"a,b\"", "not strong"]
        );
        assert_eq!(
            tags(demanded(&[b"\"a\"", b"\"b\", \"c\""])),
            ["\"a\"", "\"b\"", "\"c\""]
        );
        assert_eq!(tags(demanded(&[b"\"\", \"\xc3\xa9\""])), ["\"\"", "\"é\""]);
    }

    #[test]
    fn what_is_no_tag_is_left_out() {
        for none in [
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
            assert!(tags(demanded(&[none])).is_empty(), "{none:?}");
        }
        assert_eq!(tags(demanded(&[b"\"99\", *"])), ["\"99\""]);
        // Of an unclosed quote nobody can tell where it ends, but it ends with its line.
        assert_eq!(tags(demanded(&[b"\"3, \"4\"", b"\"5\""])), ["\"5\""]);
    }
}
