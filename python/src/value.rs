//! The bytes of values: an integer as its digits, so that Redis can increment it, and any other
//! value as its serializer writes it.

use std::borrow::Cow;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyInt, PyNotImplemented};

use crate::reply;

/// The first byte of a pickle since protocol 2.
const PICKLE_PROTO: u8 = 0x80;
/// The digits of an integer that surely fits 64 bits.
const MAX_DIGITS: usize = 18;

/// How values are encoded and decoded.
pub(crate) struct Codec {
    pub(crate) dumps: Py<PyAny>,
    pub(crate) loads: Py<PyAny>,
    /// For values that begin as a pickle, if their serializer writes pickles.
    pub(crate) pickle_loads: Option<Py<PyAny>>,
}

/// A value as it is sent.
pub(crate) enum Encoded<'py> {
    Digits(String),
    Object(Bound<'py, PyAny>),
}

impl Encoded<'_> {
    pub(crate) fn bytes(&self) -> PyResult<Cow<'_, [u8]>> {
        match self {
            Self::Digits(digits) => Ok(Cow::Borrowed(digits.as_bytes())),
            Self::Object(object) => reply::bytes(object),
        }
    }
}

impl Codec {
    /// Returns the bytes of a value. `None`: Python has to encode it, an integer of another class.
    pub(crate) fn encode<'py>(&self, value: &Bound<'py, PyAny>) -> PyResult<Option<Encoded<'py>>> {
        if let Ok(integer) = value.cast_exact::<PyInt>() {
            return Ok(Some(match integer.extract::<i64>() {
                Ok(integer) => Encoded::Digits(integer.to_string()),
                Err(_) => Encoded::Object(value.clone()),
            }));
        }
        if value.is_instance_of::<PyInt>() && !value.is_exact_instance_of::<PyBool>() {
            return Ok(None);
        }
        let encoded = self.dumps.bind(value.py()).call1((value,))?;
        Ok(Some(Encoded::Object(encoded)))
    }

    /// Returns the value of the bytes in the store: an integer if Python's `int` reads one. `None`:
    /// they count as no value.
    pub(crate) fn decode<'py>(
        &self,
        py: Python<'py>,
        value: &[u8],
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let decoded = self.decoded(py, value)?;
        Ok((!decoded.is(&*PyNotImplemented::get(py))).then_some(decoded))
    }

    fn decoded<'py>(&self, py: Python<'py>, value: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let may_be_integer = matches!(
            value.first(),
            Some(b'0'..=b'9' | b'+' | b'-' | b' ' | b'\t'..=b'\r')
        );
        if !may_be_integer {
            return self.load(py, PyBytes::new(py, value));
        }
        if let Some(integer) = short_integer(value) {
            return Ok(integer.into_pyobject(py)?.into_any());
        }
        let value = PyBytes::new(py, value);
        match py.get_type::<PyInt>().call1((&value,)) {
            Err(error)
                if error.is_instance_of::<PyValueError>(py)
                    || error.is_instance_of::<PyTypeError>(py) =>
            {
                self.load(py, value)
            }
            integer => integer,
        }
    }

    fn load<'py>(
        &self,
        py: Python<'py>,
        value: Bound<'py, PyBytes>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let loads = match &self.pickle_loads {
            Some(loads) if value.as_bytes().first() == Some(&PICKLE_PROTO) => loads,
            _ => &self.loads,
        };
        loads.bind(py).call1((value,))
    }
}

fn short_integer(value: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match value {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits
        .iter()
        .fold(0_i64, |number, digit| number * 10 + i64::from(digit - b'0'));
    Some(if is_negative { -number } else { number })
}
