//! A lock name as text that is safe on a terminal and can be typed again.
//!
//! Visible characters stay as they are. Control characters, characters that change the
//! direction of text, invisible characters, bytes that are not UTF-8, and the backslash are
//! escaped. [`parse`] is the inverse of [`escape`].

/// The bytes of a lock name. A type of its own, because clap treats a `Vec` as several values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockName(pub(crate) Vec<u8>);

/// Returns the name with everything escaped that is not visible.
pub(crate) fn escape(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\'' | '"' => text.push(character),
                _ => text.extend(character.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Parses a name as [`escape`] writes it.
pub(crate) fn parse(text: &str) -> Result<LockName, String> {
    let mut name = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        name.extend_from_slice(plain.as_bytes());
        let (bytes, after) = unescape(escaped).ok_or_else(|| {
            format!(
                "'\\{}' is not an escape: write \\\\ for a backslash, and \\n, \\xff or \\u{{7f}} \
                 as `lockstock locks` shows them",
                escaped.chars().next().unwrap_or(' ')
            )
        })?;
        name.extend_from_slice(&bytes);
        rest = after;
    }
    name.extend_from_slice(rest.as_bytes());
    Ok(LockName(name))
}

/// Splits the text after a backslash into the bytes of the escape and the rest.
fn unescape(escaped: &str) -> Option<(Vec<u8>, &str)> {
    let mut characters = escaped.chars();
    let kind = characters.next()?;
    let after = characters.as_str();
    let byte = match kind {
        '\\' => b'\\',
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        '0' => 0,
        'x' => {
            let (digits, after) = after.split_at_checked(2)?;
            return Some((vec![u8::from_str_radix(digits, 16).ok()?], after));
        }
        'u' => {
            let (digits, after) = after.strip_prefix('{')?.split_once('}')?;
            let character = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
            return Some((character.to_string().into_bytes(), after));
        }
        _ => return None,
    };
    Some((vec![byte], after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_name_is_harmless_and_can_be_parsed_again() {
        let names: [(&[u8], &str); 8] = [
            (b"product-update-lock-42", "product-update-lock-42"),
            ("재고 42".as_bytes(), "재고 42"),
            (b"it's \"so\"", "it's \"so\""),
            (b"a\r\n\x1b[2J\0", "a\\r\\n\\u{1b}[2J\\0"),
            (b"C:\\x41", "C:\\\\x41"),
            (&[b'a', 0xff, 0xfe], "a\\xff\\xfe"),
            ("\u{202e}gpj".as_bytes(), "\\u{202e}gpj"),
            ("\u{9b}31m\u{200b}".as_bytes(), "\\u{9b}31m\\u{200b}"),
        ];
        for (name, text) in names {
            assert_eq!(escape(name), text);
            assert_eq!(parse(text), Ok(LockName(name.to_vec())));
        }
        for invalid in ["\\", "\\q", "\\x4", "\\xé", "\\u{110000}", "\\u41"] {
            assert!(parse(invalid).is_err(), "{invalid}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_survive_escape_and_parse(name: Vec<u8>) {
            proptest::prop_assert_eq!(parse(&escape(&name)), Ok(LockName(name)));
        }
    }
}
