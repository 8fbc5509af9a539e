//! The header `Idempotency-Key`, bare or as a string of
//! [RFC 8941](https://www.rfc-editor.org/rfc/rfc8941#name-strings).

use http::{HeaderMap, HeaderName};

use crate::rejection::Rejection;

const NAME: HeaderName = HeaderName::from_static("idempotency-key");
const MAX_KEY_BYTES: usize = 255;

/// Returns the idempotency key of a request, if it has one. For services that reject a malformed key
/// before they read the body.
///
/// # Errors
///
/// [`Rejection::KeyMalformed`] if the key is invalid or there are several.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Rejection> {
    match KeyHeader::parse(headers) {
        KeyHeader::Absent => Ok(None),
        KeyHeader::Key(key) => Ok(Some(key)),
        KeyHeader::Malformed => Err(Rejection::KeyMalformed),
    }
}

/// Content of the header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyHeader {
    Absent,
    /// 1 to 255 visible ASCII characters.
    Key(String),
    /// An invalid key, or several headers.
    Malformed,
}

impl KeyHeader {
    pub(super) fn parse(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(NAME).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::Absent,
            (Some(value), None) => {
                key(value.as_bytes().trim_ascii()).map_or(Self::Malformed, Self::Key)
            }
            (Some(_), Some(_)) => Self::Malformed,
        }
    }
}

fn key(value: &[u8]) -> Option<String> {
    let key = match value {
        [b'"', quoted @ .., b'"'] => unquote(quoted)?,
        // An unterminated string.
        [b'"', ..] => return None,
        bare => bare.to_vec(),
    };
    let is_key = (1..=MAX_KEY_BYTES).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    String::from_utf8(key).ok().filter(|_| is_key)
}

fn unquote(quoted: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter();
    while let Some(&byte) = bytes.next() {
        key.push(match byte {
            b'"' => return None,
            b'\\' => *bytes.next().filter(|byte| matches!(byte, b'"' | b'\\'))?,
            other => other,
        });
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(values: &[&[u8]]) -> KeyHeader {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(NAME, http::HeaderValue::from_bytes(value).unwrap());
        }
        KeyHeader::parse(&headers)
    }

    #[test]
    fn a_key_is_bare_or_quoted() {
        for (value, key) in [
            ("abc", "abc"),
            ("\"abc\"", "abc"),
            (" abc ", "abc"),
            ("a\"b", "a\"b"),
            (r#""a\"b\\""#, r#"a"b\"#),
            (r"a\b", r"a\b"),
            ("!~", "!~"),
        ] {
            let parsed = parse(&[value.as_bytes()]);
            assert_eq!(parsed, KeyHeader::Key(key.to_owned()), "{value}");
        }
        assert_eq!(parse(&[&[b'k'; 255]]), KeyHeader::Key("k".repeat(255)));
        assert_eq!(parse(&[]), KeyHeader::Absent);
    }

    #[test]
    fn any_other_value_is_malformed() {
        for value in [
            &b""[..],
            b" ",
            b"\"\"",
            b"\"",
            b"\"abc",
            b"a b",
            b"\"a b\"",
            b"a\tb",
            b"\xc3\xa9",
            b"\"a\"b\"",
            br#""a\b""#,
            br#""abc\""#,
            b"\"abc\";a=1",
            &[b'k'; 256],
        ] {
            assert_eq!(parse(&[value]), KeyHeader::Malformed, "{value:?}");
        }
        assert_eq!(parse(&[b"a", b"a"]), KeyHeader::Malformed);
    }
}
