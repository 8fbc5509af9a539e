//! Fields of a request, validated as the serializer fields of Django REST framework validate
//! them, with the same messages.
//!
//! A field is described once. Validation, the response to OPTIONS and the OpenAPI document all
//! read that description.

use crate::drf::body::{FieldValue, Fields, is_float};
use crate::drf::python;
use crate::error::sentences::{self, NOT_A_STRING, NOT_AN_INTEGER, NULL, REQUIRED, Sentence};
use crate::error::{ApiError, FieldErrors};

/// The largest value of Django's `PositiveIntegerField`.
pub(crate) const MAX_POSITIVE_INTEGER: i64 = 2_147_483_647;

/// Longer texts are rejected as numbers without being parsed.
const MAX_INTEGER_LENGTH: usize = 1000;

/// A field of a resource.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Field {
    Char(CharField),
    Integer(IntegerField),
    ReadOnly {
        name: &'static str,
        /// The type, as DRF's metadata names it.
        kind: &'static str,
    },
}

impl Field {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Char(field) => field.name,
            Self::Integer(field) => field.name,
            Self::ReadOnly { name, .. } => name,
        }
    }

    /// Returns whether a new resource needs a value.
    pub(crate) fn is_required(&self) -> bool {
        match self {
            Self::Char(field) => field.required,
            Self::Integer(field) => field.required,
            Self::ReadOnly { .. } => false,
        }
    }
}

/// Whether required fields may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Completeness {
    /// Required fields must be present: POST and PUT.
    Full,
    /// Any field may be missing: PATCH.
    Partial,
}

/// A text, as DRF's `CharField`: trimmed, a number is accepted, NUL is not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CharField {
    pub(crate) name: &'static str,
    pub(crate) required: bool,
    pub(crate) allow_blank: bool,
    pub(crate) max_length: Option<usize>,
    pub(crate) example: Option<&'static str>,
}

/// An integer between two bounds, as DRF's `IntegerField`: `9`, `"9"`, `9.0` and `" 9 "` are
/// all 9.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IntegerField {
    pub(crate) name: &'static str,
    pub(crate) required: bool,
    pub(crate) min_value: i64,
    pub(crate) max_value: i64,
    pub(crate) description: Option<&'static str>,
    pub(crate) example: Option<i64>,
}

/// The messages about one invalid field.
type Messages = Vec<Sentence>;

impl CharField {
    /// An optional text of any length, which may be blank.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self {
            name,
            required: false,
            allow_blank: true,
            max_length: None,
            example: None,
        }
    }

    /// Returns the text, or `None` if it is missing and may be.
    fn validate(
        &self,
        value: Option<&FieldValue>,
        completeness: Completeness,
    ) -> Result<Option<String>, Messages> {
        let text = match value {
            None if self.required && completeness == Completeness::Full => return error(REQUIRED),
            None => return Ok(None),
            Some(FieldValue::Null) => return error(NULL),
            Some(FieldValue::Other) => return error(NOT_A_STRING),
            Some(FieldValue::Number(number)) => python_str(number),
            Some(FieldValue::Text(text) | FieldValue::Input(text)) => text.clone(),
        };
        let text = python::strip(&text);
        if text.is_empty() && !self.allow_blank {
            return error(sentences::BLANK);
        }
        let mut errors = Vec::new();
        if let Some(max_length) = self.max_length
            && text.chars().count() > max_length
        {
            errors.push(sentences::too_long(max_length));
        }
        if text.contains('\0') {
            errors.push(sentences::NULL_CHARACTERS);
        }
        if errors.is_empty() {
            Ok(Some(text.to_owned()))
        } else {
            Err(errors)
        }
    }
}

impl IntegerField {
    /// An optional integer from 0 to [`MAX_POSITIVE_INTEGER`].
    pub(crate) const fn positive(name: &'static str) -> Self {
        Self {
            name,
            required: false,
            min_value: 0,
            max_value: MAX_POSITIVE_INTEGER,
            description: None,
            example: None,
        }
    }

    /// An optional integer from 1 to `max_value`.
    pub(crate) const fn up_to(name: &'static str, max_value: i64) -> Self {
        Self {
            min_value: 1,
            max_value,
            ..Self::positive(name)
        }
    }

    pub(crate) const fn required(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }

    /// Returns the number, or `None` if it is missing and may be.
    fn validate(
        &self,
        value: Option<&FieldValue>,
        completeness: Completeness,
    ) -> Result<Option<i64>, Messages> {
        let text = match value {
            None if self.required && completeness == Completeness::Full => return error(REQUIRED),
            None => return Ok(None),
            // A form also sends its empty inputs. In an optional field that means missing; in a
            // required field it is an error, even if the request is partial.
            Some(FieldValue::Input(text)) if text.is_empty() && !self.required => return Ok(None),
            Some(FieldValue::Null) => return error(NULL),
            Some(FieldValue::Other) => return error(NOT_AN_INTEGER),
            Some(FieldValue::Number(number)) => python_str(number),
            Some(FieldValue::Text(text) | FieldValue::Input(text)) => {
                if text.chars().count() > MAX_INTEGER_LENGTH {
                    return error(sentences::TEXT_TOO_LARGE);
                }
                text.clone()
            }
        };
        match python::int(without_fraction(&text)) {
            None => error(NOT_AN_INTEGER),
            Some(number) if number < self.min_value => error(sentences::too_small(self.min_value)),
            Some(number) if number > self.max_value => error(sentences::too_great(self.max_value)),
            Some(number) => Ok(Some(number)),
        }
    }
}

/// Validates the fields of a request and collects all errors.
pub(crate) struct Validator<'a> {
    fields: &'a Fields,
    completeness: Completeness,
    errors: FieldErrors,
}

impl<'a> Validator<'a> {
    pub(crate) fn new(fields: &'a Fields, completeness: Completeness) -> Self {
        Self {
            fields,
            completeness,
            errors: FieldErrors::new(),
        }
    }

    /// Returns the text, or `None` if it is missing or invalid.
    pub(crate) fn char(&mut self, field: &CharField) -> Option<String> {
        let value = self.fields.get(field.name);
        self.collect(field.name, field.validate(value, self.completeness))
    }

    /// Returns the number, or `None` if it is missing or invalid.
    pub(crate) fn integer(&mut self, field: &IntegerField) -> Option<i64> {
        let value = self.fields.get(field.name);
        self.collect(field.name, field.validate(value, self.completeness))
    }

    /// Returns `validated` if no field was invalid.
    pub(crate) fn finish<T>(self, validated: T) -> Result<T, ApiError> {
        if self.errors.is_empty() {
            Ok(validated)
        } else {
            Err(ApiError::invalid(self.errors))
        }
    }

    fn collect<T>(&mut self, name: &str, result: Result<Option<T>, Messages>) -> Option<T> {
        result.unwrap_or_else(|messages| {
            self.errors.push((name.to_owned(), messages));
            None
        })
    }
}

fn error<T>(message: Sentence) -> Result<T, Messages> {
    Err(vec![message])
}

/// Formats a JSON number as Python's `str()` formats the number that it parses to.
fn python_str(number: &str) -> String {
    if !is_float(number) {
        return if number == "-0" { "0" } else { number }.to_owned();
    }
    // A number beyond the range of a double parses to infinity, in Python as here.
    number
        .parse::<f64>()
        .map_or_else(|_| number.to_owned(), python::float)
}

/// Removes a trailing `.`, `.0`, `.00`, … and the white space after it.
fn without_fraction(text: &str) -> &str {
    let trimmed = text
        .trim_end_matches(python::is_space)
        .trim_end_matches('0');
    trimmed.strip_suffix('.').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::Completeness::{Full, Partial};
    use super::*;
    use proptest::prelude::*;

    const STOCK: IntegerField = IntegerField::positive("stock");
    const PRICE: IntegerField = IntegerField::positive("price").required();

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
    fn an_integer_is_accepted_in_several_forms() {
        for nine in [
            number("9"),
            number("9.0"),
            number("0.9e1"),
            text("9"),
            text(" 9 "),
            text("9."),
            input("9.00 "),
        ] {
            assert_eq!(STOCK.validate(Some(&nine), Full), Ok(Some(9)), "{nine:?}");
        }
        for invalid in [
            number("9.5"),
            number("1e400"),
            text(""),
            text("nine"),
            input(" "),
            FieldValue::Other,
        ] {
            let result = STOCK.validate(Some(&invalid), Full);
            assert_eq!(result, error(NOT_AN_INTEGER), "{invalid:?}");
        }
        assert_eq!(STOCK.validate(Some(&FieldValue::Null), Full), error(NULL));
        assert!(STOCK.validate(Some(&number("-1")), Full).is_err());
    }

    #[test]
    fn a_required_field_may_be_missing_only_from_a_partial_request() {
        assert_eq!(PRICE.validate(None, Full), error(REQUIRED));
        assert_eq!(PRICE.validate(None, Partial), Ok(None));
        assert_eq!(STOCK.validate(None, Full), Ok(None));
        let empty = input("");
        assert_eq!(STOCK.validate(Some(&empty), Full), Ok(None));
        assert_eq!(PRICE.validate(Some(&empty), Partial), error(NOT_AN_INTEGER));
    }

    proptest! {
        #[test]
        fn every_number_in_range_is_read_back(n in 0..=MAX_POSITIVE_INTEGER) {
            prop_assert_eq!(STOCK.validate(Some(&number(&n.to_string())), Full), Ok(Some(n)));
            prop_assert_eq!(STOCK.validate(Some(&text(&format!(" {n}.00 "))), Full), Ok(Some(n)));
        }

        #[test]
        fn no_text_is_a_panic(any in ".*") {
            let value = input(&any);
            let _ = STOCK.validate(Some(&value), Full);
            let name = CharField {
                required: true,
                allow_blank: false,
                max_length: Some(200),
                ..CharField::new("name")
            };
            if let Ok(Some(valid)) = name.validate(Some(&value), Full) {
                prop_assert!(!valid.is_empty() && valid.chars().count() <= 200);
            }
        }
    }
}
