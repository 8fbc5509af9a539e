//! Numbers and white space as Python parses, formats and trims them, which clients of a Django
//! API rely on: `" 9 "` is 9, `1_000` is 1000, `9.0` is formatted as `9.0`.

/// Parses an integer as Python's `int(text)` does, but saturates at the bounds of an `i64` and
/// rejects the digits of other scripts, which Python accepts.
pub(crate) fn int(text: &str) -> Option<i64> {
    let text = text.trim_matches(|c: char| c.is_whitespace());
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let mut number = 0_i64;
    let mut digit_before = false;
    for byte in digits.bytes() {
        match byte {
            b'0'..=b'9' => {
                let digit = i64::from(byte - b'0');
                number = number.saturating_mul(10);
                number = if negative {
                    number.saturating_sub(digit)
                } else {
                    number.saturating_add(digit)
                };
                digit_before = true;
            }
            // Allowed between two digits only.
            b'_' if digit_before => digit_before = false,
            _ => return None,
        }
    }
    digit_before.then_some(number)
}

/// Trims what Python's `str.strip()` trims: white space and the separators of ASCII.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Returns whether Python's `str.isspace()` is true.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Formats a number as Python's `repr(float)` does: the shortest digits that parse to the same
/// number, with an exponent below 1e-4 and from 1e16 on.
pub(crate) fn float(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = number.to_string();
    if text.contains('.') {
        text
    } else {
        text + ".0"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_parsed_as_python_parses_them() {
        for (text, number) in [
            ("9", 9),
            (" 9 ", 9),
            ("+9", 9),
            ("-0", 0),
            ("009", 9),
            ("1_000", 1000),
            ("\u{a0}9\u{3000}", 9),
            ("99999999999999999999", i64::MAX),
            ("-99999999999999999999", i64::MIN),
        ] {
            assert_eq!(int(text), Some(number), "{text:?}");
        }
        for text in [
            "",
            " ",
            "9.0",
            "0x9",
            "1__0",
            "_1",
            "1_",
            "+ 9",
            "++9",
            "abc",
            "\u{feff}9",
        ] {
            assert_eq!(int(text), None, "{text:?}");
        }
    }

    #[test]
    fn floats_are_formatted_as_python_formats_them() {
        for (number, text) in [
            (9.0, "9.0"),
            (9.5, "9.5"),
            (-0.0, "-0.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.2345678901234568e16, "1.2345678901234568e+16"),
            (1.5e300, "1.5e+300"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(float(number), text);
        }
    }
}
