//! The two kinds of field a product has, validated as DRF's serializer fields do it, to the
//! letter of their messages.

use serde_json::Value;

use crate::body::{Given, is_float};
use crate::python;

/// What is wrong with one field.
pub(crate) type Wrong = Vec<String>;

const REQUIRED: &str = "This field is required.";
const NULL: &str = "This field may not be null.";
const NOT_A_STRING: &str = "Not a valid string.";
const NOT_AN_INTEGER: &str = "A valid integer is required.";

/// A text, as DRF's `CharField`: trimmed, numbers welcome, no NUL.
pub(crate) struct Text {
    pub(crate) required: bool,
    pub(crate) may_be_blank: bool,
    pub(crate) most_characters: Option<usize>,
}

impl Text {
    /// The text, or `None` if none was given and none need be. A `partial` request may leave
    /// out what is required otherwise.
    pub(crate) fn validate(
        &self,
        given: Given<'_>,
        partial: bool,
    ) -> Result<Option<String>, Wrong> {
        let text = match given {
            Given::Absent if self.required && !partial => return wrong(REQUIRED),
            Given::Absent => return Ok(None),
            Given::Json(Value::Null) => return wrong(NULL),
            Given::Json(Value::String(text)) => text.clone(),
            Given::Json(Value::Number(number)) => written(number),
            Given::Json(_) | Given::File => return wrong(NOT_A_STRING),
            Given::Text(text) => text.to_owned(),
        };
        let text = python::strip(&text);
        if text.is_empty() && !self.may_be_blank {
            return wrong("This field may not be blank.");
        }
        let mut errors = Vec::new();
        if let Some(most) = self.most_characters
            && text.chars().count() > most
        {
            errors.push(format!(
                "Ensure this field has no more than {most} characters."
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

/// A whole number from 0 to [`MOST`](Whole::MOST), as DRF's `IntegerField` over a
/// `PositiveIntegerField`: `9`, `"9"`, `9.0` and `" 9 "` are all 9.
pub(crate) struct Whole {
    pub(crate) required: bool,
}

impl Whole {
    /// The largest number that fits.
    pub(crate) const MOST: i64 = 2_147_483_647;

    /// Longer texts are not read at all.
    const MOST_CHARACTERS: usize = 1000;

    /// The number, or `None` if none was given and none need be. A `partial` request may
    /// leave out what is required otherwise.
    pub(crate) fn validate(&self, given: Given<'_>, partial: bool) -> Result<Option<i64>, Wrong> {
        let text = match given {
            Given::Absent if self.required && !partial => return wrong(REQUIRED),
            Given::Absent => return Ok(None),
            // A form sends its empty inputs too: as good as left out where that is allowed
            // in every request. In a required field it is a mistake, even in a partial one.
            Given::Text("") if !self.required => return Ok(None),
            Given::Json(Value::Null) => return wrong(NULL),
            Given::Json(Value::Number(number)) => written(number),
            Given::Json(Value::String(text)) => self.short(text)?.to_owned(),
            Given::Text(text) => self.short(text)?.to_owned(),
            Given::Json(_) | Given::File => return wrong(NOT_AN_INTEGER),
        };
        match python::int(without_fraction(&text)) {
            None => wrong(NOT_AN_INTEGER),
            Some(number) if number < 0 => wrong("Ensure this value is greater than or equal to 0."),
            Some(number) if number > Self::MOST => Err(vec![format!(
                "Ensure this value is less than or equal to {}.",
                Self::MOST
            )]),
            Some(number) => Ok(Some(number)),
        }
    }

    fn short<'a>(&self, text: &'a str) -> Result<&'a str, Wrong> {
        if text.chars().count() > Self::MOST_CHARACTERS {
            return Err(vec!["String value too large.".to_owned()]);
        }
        Ok(text)
    }
}

fn wrong<T>(why: &str) -> Result<T, Wrong> {
    Err(vec![why.to_owned()])
}

/// A JSON number as Python's `str()` writes what it has read.
fn written(number: &serde_json::Number) -> String {
    let literal = number.as_str();
    if !is_float(number) {
        return if literal == "-0" { "0" } else { literal }.to_owned();
    }
    // A literal beyond the range of a double reads as infinity, in Python as here.
    literal
        .parse::<f64>()
        .map_or_else(|_| literal.to_owned(), python::float)
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
    use serde_json::json;

    const STOCK: Whole = Whole { required: false };

    fn stock(value: Value) -> Result<Option<i64>, Wrong> {
        STOCK.validate(Given::Json(&value), false)
    }

    #[test]
    fn the_integers_that_http_md_lists() {
        for nine in [json!(9), json!("9"), json!(9.0), json!(" 9 "), json!("9.")] {
            assert_eq!(stock(nine.clone()), Ok(Some(9)), "{nine}");
        }
        for refused in [
            json!(9.5),
            json!(true),
            json!(""),
            json!([]),
            json!(null),
            json!(-1),
        ] {
            assert!(stock(refused.clone()).is_err(), "{refused}");
        }
        let huge: Value = serde_json::from_str("1e400").unwrap();
        assert_eq!(stock(huge), Err(vec![NOT_AN_INTEGER.to_owned()]));
    }

    #[test]
    fn what_may_be_left_out_and_when() {
        let price = Whole { required: true };
        assert_eq!(price.validate(Given::Absent, false), wrong(REQUIRED));
        assert_eq!(price.validate(Given::Absent, true), Ok(None));
        assert_eq!(STOCK.validate(Given::Absent, false), Ok(None));
        // Empty inputs of a form.
        assert_eq!(STOCK.validate(Given::Text(""), false), Ok(None));
        assert_eq!(price.validate(Given::Text(""), true), wrong(NOT_AN_INTEGER));
    }

    proptest! {
        #[test]
        fn every_number_in_range_is_read_back(number in 0..=Whole::MOST) {
            prop_assert_eq!(stock(json!(number)), Ok(Some(number)));
            prop_assert_eq!(stock(json!(format!(" {number}.00 "))), Ok(Some(number)));
        }

        #[test]
        fn no_text_is_a_panic(text in ".*") {
            let _ = STOCK.validate(Given::Text(&text), false);
            let name = Text { required: true, may_be_blank: false, most_characters: Some(200) };
            if let Ok(Some(kept)) = name.validate(Given::Text(&text), false) {
                prop_assert!(!kept.is_empty() && kept.chars().count() <= 200);
            }
        }
    }
}
