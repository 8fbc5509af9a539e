//! The two kinds of field a product has, validated as DRF's serializer fields do it, to the
//! letter of their messages.

use serde_json::{Map, Value, json};

use crate::drf::body::{FieldValue, is_float};
use crate::drf::python;

/// What is wrong with one field.
pub(crate) type FieldErrors = Vec<String>;

const REQUIRED: &str = "This field is required.";
const NULL: &str = "This field may not be null.";
const NOT_A_STRING: &str = "Not a valid string.";
const NOT_AN_INTEGER: &str = "A valid integer is required.";

/// A text, as DRF's `CharField`: trimmed, numbers welcome, no NUL.
pub(crate) struct CharField {
    pub(crate) required: bool,
    pub(crate) allow_blank: bool,
    pub(crate) max_length: Option<usize>,
}

impl CharField {
    /// The text, or `None` if none was given and none need be. A `partial` request may leave
    /// out what is required otherwise.
    pub(crate) fn validate(
        &self,
        given: Option<&FieldValue>,
        partial: bool,
    ) -> Result<Option<String>, FieldErrors> {
        let text = match given {
            None if self.required && !partial => return wrong(REQUIRED),
            None => return Ok(None),
            Some(FieldValue::Null) => return wrong(NULL),
            Some(FieldValue::Other) => return wrong(NOT_A_STRING),
            Some(FieldValue::Number(number)) => python_str(number),
            Some(FieldValue::Text(text) | FieldValue::Input(text)) => text.clone(),
        };
        let text = python::strip(&text);
        if text.is_empty() && !self.allow_blank {
            return wrong("This field may not be blank.");
        }
        let mut errors = Vec::new();
        if let Some(max_length) = self.max_length
            && text.chars().count() > max_length
        {
            errors.push(format!(
                "Ensure this field has no more than {max_length} characters."
            ));
        }
        if text.contains('\0') {
            errors.push("Null characters are not allowed.".to_owned());
        }
        if errors.is_empty() {
            Ok(Some(text.to_owned()))
        } else {
            Err(errors)
        }
    }
}

/// A whole number within bounds, as DRF's `IntegerField`: `9`, `"9"`, `9.0` and `" 9 "` are
/// all 9.
#[derive(Clone, Copy)]
pub(crate) struct IntegerField {
    pub(crate) required: bool,
    pub(crate) min_value: i64,
    pub(crate) max_value: i64,
}

impl IntegerField {
    /// From 0 to the largest number that fits, as a `PositiveIntegerField` of Django.
    pub(crate) const fn positive(required: bool) -> Self {
        Self {
            required,
            min_value: 0,
            max_value: 2_147_483_647,
        }
    }

    /// Longer texts are not read at all.
    const MAX_INPUT_LENGTH: usize = 1000;

    /// The number, or `None` if none was given and none need be. A `partial` request may
    /// leave out what is required otherwise.
    pub(crate) fn validate(
        &self,
        given: Option<&FieldValue>,
        partial: bool,
    ) -> Result<Option<i64>, FieldErrors> {
        let text = match given {
            None if self.required && !partial => return wrong(REQUIRED),
            None => return Ok(None),
            // A form sends its empty inputs too: as good as left out where that is allowed
            // in every request. In a required field it is a mistake, even in a partial one.
            Some(FieldValue::Input(text)) if text.is_empty() && !self.required => return Ok(None),
            Some(FieldValue::Null) => return wrong(NULL),
            Some(FieldValue::Other) => return wrong(NOT_AN_INTEGER),
            Some(FieldValue::Number(number)) => python_str(number),
            Some(FieldValue::Text(text) | FieldValue::Input(text)) => self.short(text)?.to_owned(),
        };
        match python::int(without_fraction(&text)) {
            None => wrong(NOT_AN_INTEGER),
            Some(number) if number < self.min_value => Err(vec![format!(
                "Ensure this value is greater than or equal to {}.",
                self.min_value
            )]),
            Some(number) if number > self.max_value => Err(vec![format!(
                "Ensure this value is less than or equal to {}.",
                self.max_value
            )]),
            Some(number) => Ok(Some(number)),
        }
    }

    fn short<'a>(&self, text: &'a str) -> Result<&'a str, FieldErrors> {
        if text.chars().count() > Self::MAX_INPUT_LENGTH {
            return Err(vec!["String value too large.".to_owned()]);
        }
        Ok(text)
    }
}

/// The value of a field, or a note of what is wrong with it.
pub(crate) fn collect_error<T>(
    field: &str,
    validated: Result<Option<T>, FieldErrors>,
    errors: &mut Map<String, Value>,
) -> Option<T> {
    validated.unwrap_or_else(|wrong| {
        errors.insert(field.to_owned(), json!(wrong));
        None
    })
}

fn wrong<T>(why: &str) -> Result<T, FieldErrors> {
    Err(vec![why.to_owned()])
}

/// A JSON number as Python's `str()` writes what it has read.
fn python_str(number: &str) -> String {
    if !is_float(number) {
        return if number == "-0" { "0" } else { number }.to_owned();
    }
    // A number beyond the range of a double reads as infinity, in Python as here.
    number
        .parse::<f64>()
        .map_or_else(|_| number.to_owned(), python::float)
}

/// Without a trailing `.`, `.0`, `.00`, … and the white space after it.
fn without_fraction(text: &str) -> &str {
    let trimmed = text
        .trim_end_matches(python::is_space)
        .trim_end_matches('0');
    trimmed.strip_suffix('.').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STOCK: IntegerField = IntegerField::positive(false);
    const PRICE: IntegerField = IntegerField::positive(true);

    fn number(text: &str) -> FieldValue {
        FieldValue::Number(text.to_owned())
    }

    fn text(text: &str) -> FieldValue {
        FieldValue::Text(text.to_owned())
    }

    fn input(text: &str) -> FieldValue {
        FieldValue::Input(text.to_owned())
    }

    #[test]
    fn what_is_a_whole_number() {
        for nine in [
            number("9"),
            number("9.0"),
            number("0.9e1"),
            text("9"),
            text(" 9 "),
            text("9."),
            input("9.00 "),
        ] {
            assert_eq!(STOCK.validate(Some(&nine), false), Ok(Some(9)), "{nine:?}");
        }
        for refused in [
            number("9.5"),
            number("1e400"),
            text(""),
            text("nine"),
            input(" "),
            FieldValue::Other,
        ] {
            let answer = STOCK.validate(Some(&refused), false);
            assert_eq!(answer, wrong(NOT_AN_INTEGER), "{refused:?}");
        }
        assert_eq!(STOCK.validate(Some(&FieldValue::Null), false), wrong(NULL));
        assert!(STOCK.validate(Some(&number("-1")), false).is_err());
    }

    #[test]
    fn what_may_be_left_out_and_when() {
        assert_eq!(PRICE.validate(None, false), wrong(REQUIRED));
        assert_eq!(PRICE.validate(None, true), Ok(None));
        assert_eq!(STOCK.validate(None, false), Ok(None));
        let empty = input("");
        assert_eq!(STOCK.validate(Some(&empty), false), Ok(None));
        assert_eq!(PRICE.validate(Some(&empty), true), wrong(NOT_AN_INTEGER));
    }

    proptest! {
        #[test]
        fn every_number_in_range_is_read_back(n in 0..=2_147_483_647_i64) {
            prop_assert_eq!(STOCK.validate(Some(&number(&n.to_string())), false), Ok(Some(n)));
            prop_assert_eq!(STOCK.validate(Some(&text(&format!(" {n}.00 "))), false), Ok(Some(n)));
        }

        #[test]
        fn no_text_is_a_panic(any in ".*") {
            let given = input(&any);
            let _ = STOCK.validate(Some(&given), false);
            let name = CharField { required: true, allow_blank: false, max_length: Some(200) };
            if let Ok(Some(kept)) = name.validate(Some(&given), false) {
                prop_assert!(!kept.is_empty() && kept.chars().count() <= 200);
            }
        }
    }
}
