//! Decimal numbers of any size, with the precision that a comparison with integers needs.

use crate::drf::python;

/// Python rejects exponents from this magnitude on.
const MAX_EXPONENT: u64 = 1_000_000_000_000_000_000;

/// A decimal number: its floor, saturated to an `i64`, and whether it has a fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decimal {
    pub(crate) floor: i64,
    pub(crate) has_fraction: bool,
}

/// The reason why a text is not a decimal number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotANumber {
    Malformed,
    /// Greater than 1e50, the maximum of django-filter.
    TooLarge,
}

impl Decimal {
    /// Parses `100`, ` +1_00.50 `, `1e2`, `.5`, `5.`. Rejects NaN and infinity.
    pub(crate) fn parse(text: &str) -> Result<Self, NotANumber> {
        // Python allows underscores anywhere in a decimal.
        let text = &python::strip(text).replace('_', "");
        let (negative, text) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, &text[..]),
        };
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let exponent = Some(exponent)
            // `python::int` trims.
            .filter(|exponent| !exponent.contains(char::is_whitespace))
            .and_then(python::int)
            .filter(|exponent| exponent.unsigned_abs() < MAX_EXPONENT)
            .ok_or(NotANumber::Malformed)?;
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = [whole, fraction].concat();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NotANumber::Malformed);
        }
        let significant = digits.trim_start_matches('0');
        let zeros = i64::try_from(digits.len() - significant.len()).unwrap_or(i64::MAX);
        if significant.is_empty() {
            return Ok(Self {
                floor: 0,
                has_fraction: false,
            });
        }
        // The position of the point in `significant`.
        let point = i64::try_from(whole.len())
            .unwrap_or(i64::MAX)
            .saturating_sub(zeros)
            .saturating_add(exponent);
        let beyond = significant.trim_end_matches('0') != "1" && point == 51;
        if !negative && (point > 51 || beyond) {
            return Err(NotANumber::TooLarge);
        }
        let digits = usize::try_from(point.clamp(0, 60)).unwrap_or_default();
        let whole = &significant[..digits.min(significant.len())];
        let rest = &significant[whole.len()..];
        let has_fraction = rest.bytes().any(|digit| digit != b'0');
        let mut magnitude = 0_i64;
        for index in 0..digits {
            let digit = whole.as_bytes().get(index).map_or(0, |digit| digit - b'0');
            magnitude = magnitude.saturating_mul(10).saturating_add(digit.into());
        }
        let floor = match (negative, has_fraction) {
            (false, _) => magnitude,
            (true, false) => -magnitude,
            (true, true) => (-magnitude).saturating_sub(1),
        };
        Ok(Self {
            floor,
            has_fraction,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> (i64, bool) {
        let number = Decimal::parse(text).unwrap();
        (number.floor, number.has_fraction)
    }

    #[test]
    fn numbers_are_parsed_in_several_forms() {
        assert_eq!(parsed("100"), (100, false));
        assert_eq!(parsed(" +1_00.0 "), (100, false));
        assert_eq!(parsed(".1e3"), (100, false));
        assert_eq!(parsed("100."), (100, false));
        assert_eq!(parsed("9.5"), (9, true));
        assert_eq!(parsed("-9.5"), (-10, true));
        assert_eq!(parsed("-0"), (0, false));
        assert_eq!(parsed("1e-400"), (0, true));
        assert_eq!(parsed("1e49"), (i64::MAX, false));
        assert_eq!(parsed("-1e400"), (-i64::MAX, false));
    }

    #[test]
    fn malformed_and_too_large_numbers_are_rejected() {
        for text in [
            "",
            "+",
            "abc",
            "1,000",
            "0x64",
            "NaN",
            "Infinity",
            "-inf",
            "1e",
            ".",
            "1e 2",
            "1e2.0",
            "1 0",
            "+-1",
            "1e9999999999999999999",
        ] {
            assert_eq!(Decimal::parse(text), Err(NotANumber::Malformed), "{text}");
        }
        for text in ["1e51", "1e400", "2e50", &"9".repeat(60)] {
            assert_eq!(Decimal::parse(text), Err(NotANumber::TooLarge), "{text}");
        }
        assert!(Decimal::parse("1e50").is_ok());
    }

    proptest! {
        #[test]
        fn agrees_with_floor(whole in -1_000_000_i64..1_000_000, cents in 0_i64..100) {
            let text = format!("{whole}.{cents:02}");
            let below = whole < 0 || (whole == 0 && text.starts_with('-'));
            let floor = if below && cents > 0 { whole - 1 } else { whole };
            prop_assert_eq!(parsed(&text), (floor, cents > 0));
        }

        #[test]
        fn no_text_is_a_panic(text in ".*", digits in "-?[0-9._eE+-]{0,70}") {
            let _ = Decimal::parse(&text);
            let _ = Decimal::parse(&digits);
        }
    }
}
