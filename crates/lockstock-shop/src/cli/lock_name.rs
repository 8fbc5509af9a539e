//! A lock's name as text: any bytes, and on a terminal none of them does anything.
//!
//! What can be read stands as it is; control characters, what changes the direction of text,
//! what cannot be seen, and bytes that are no UTF-8 are escaped, and so is the backslash.
//! Nothing is lost: [`read`] is the inverse of [`shown`].

/// Any bytes. A type of its own because clap takes a `Vec` for several values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(pub(crate) Vec<u8>);

/// A name, for people.
pub(crate) fn shown(name: &[u8]) -> String {
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

/// A name that a person gives, as it was shown.
pub(crate) fn read(text: &str) -> Result<Name, String> {
    let mut name = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        name.extend_from_slice(plain.as_bytes());
        let (bytes, behind) = unescape(escape).ok_or_else(|| {
            format!(
                "'\\{}' is no character of a name: write \\\\ for a backslash, and \\n, \\xff or \
                 \\u{{7f}} as `lockstock locks` shows them",
                escape.chars().next().unwrap_or(' ')
            )
        })?;
        name.extend_from_slice(&bytes);
        rest = behind;
    }
    name.extend_from_slice(rest.as_bytes());
    Ok(Name(name))
}

/// What stands behind a backslash, and what behind that.
fn unescape(escape: &str) -> Option<(Vec<u8>, &str)> {
    let mut characters = escape.chars();
    let kind = characters.next()?;
    let behind = characters.as_str();
    let plain = match kind {
        '\\' => b'\\',
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        '0' => 0,
        'x' => {
            let (digits, behind) = behind.split_at_checked(2)?;
            return Some((vec![u8::from_str_radix(digits, 16).ok()?], behind));
        }
        'u' => {
            let (digits, behind) = behind.strip_prefix('{')?.split_once('}')?;
            let character = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
            return Some((character.to_string().into_bytes(), behind));
        }
        _ => return None,
    };
    Some((vec![plain], behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_so_that_it_does_nothing_and_can_be_typed_again() {
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
            assert_eq!(shown(name), text);
            assert_eq!(read(text), Ok(Name(name.to_vec())));
        }
        for odd in ["\\", "\\q", "\\x4", "\\xé", "\\u{110000}", "\\u41"] {
            assert!(read(odd).is_err(), "{odd}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_can_be_typed_again(name: Vec<u8>) {
            proptest::prop_assert_eq!(read(&shown(&name)), Ok(Name(name)));
        }
    }
}
