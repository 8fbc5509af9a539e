//! The header `Idempotency-Key`, bare or as a string of
//! [RFC 8941](https://www.rfc-editor.org/rfc/rfc8941#name-strings).

use http::{HeaderMap, HeaderName};

const NAME: HeaderName = HeaderName::from_static("idempotency-key");
const MOST: usize = 255;

/// What a request has in the place of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// 1 to 255 visible ASCII characters.
    Key(String),
    /// Something else, or more than one.
    Malformed,
}

pub(super) fn find(headers: &HeaderMap) -> Found {
    let mut values = headers.get_all(NAME).iter();
    match (values.next(), values.next()) {
        (None, _) => Found::Nothing,
        (Some(value), None) => {
            key(value.as_bytes().trim_ascii()).map_or(Found::Malformed, Found::Key)
        }
        (Some(_), Some(_)) => Found::Malformed,
    }
}

fn key(value: &[u8]) -> Option<String> {
    let key = match value {
        [b'"', quoted @ .., b'"'] => unquoted(quoted)?,
        // A string that does not end.
        [b'"', ..] => return None,
        bare => bare.to_vec(),
    };
    let is_key = (1..=MOST).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    String::from_utf8(key).ok().filter(|_| is_key)
}

fn unquoted(quoted: &[u8]) -> Option<Vec<u8>> {
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

    fn found(values: &[&[u8]]) -> Found {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(NAME, http::HeaderValue::from_bytes(value).unwrap());
        }
        find(&headers)
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
            let given = found(&[value.as_bytes()]);
            assert_eq!(given, Found::Key(key.to_owned()), "{value}");
        }
        assert_eq!(found(&[&[b'k'; 255]]), Found::Key("k".repeat(255)));
        assert_eq!(found(&[]), Found::Nothing);
    }

    #[test]
    fn anything_else_is_malformed() {
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
            assert_eq!(found(&[value]), Found::Malformed, "{value:?}");
        }
        assert_eq!(found(&[b"a", b"a"]), Found::Malformed);
    }
}
