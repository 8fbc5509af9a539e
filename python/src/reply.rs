//! Arguments of commands from Python objects, and Python objects from replies.

use std::borrow::Cow;

use lockstock::{Command, Reply};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple,
};

use crate::error;

/// Commands whose second execution has the same effect and reply as the first.
const REPEATABLE: &[&str] = &[
    "DEL",
    "EXISTS",
    "EXPIRE",
    "EXPIREAT",
    "GET",
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HKEYS",
    "HLEN",
    "HMGET",
    "MGET",
    "PEXPIRE",
    "PEXPIREAT",
    "PTTL",
    "SCARD",
    "SDIFF",
    "SINTER",
    "SISMEMBER",
    "SMEMBERS",
    "SMISMEMBER",
    "SRANDMEMBER",
    "SSCAN",
    "SUNION",
    "TTL",
    "UNLINK",
    "ZCARD",
    "ZCOUNT",
    "ZRANGE",
    "ZRANGEBYSCORE",
    "ZRANK",
    "ZREVRANGE",
    "ZREVRANGEBYSCORE",
    "ZSCORE",
];

/// Builds a command from a name and arguments.
pub(crate) fn command(words: &Bound<'_, PyTuple>) -> PyResult<Command> {
    let name: String = words.get_item(0)?.extract()?;
    let mut command = Command::new(&name);
    let mut is_repeatable = REPEATABLE.contains(&&*name);
    if name == "SET" {
        let is_conditional =
            |word: Bound<'_, PyAny>| word.extract::<&str>().is_ok_and(|w| w == "NX");
        is_repeatable = !words.iter().skip(3).any(is_conditional);
    }
    for word in words.iter().skip(1) {
        command = command.arg(&*bytes(&word)?);
    }
    Ok(if is_repeatable {
        command.repeatable()
    } else {
        command
    })
}

/// Returns the bytes of an argument: of a `str`, as UTF-8; of a number, as digits.
pub(crate) fn bytes<'a>(word: &'a Bound<'_, PyAny>) -> PyResult<Cow<'a, [u8]>> {
    if let Ok(text) = word.cast::<PyString>() {
        return Ok(match text.to_cow()? {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        });
    }
    if let Ok(bytes) = word.cast::<PyBytes>() {
        return Ok(Cow::Borrowed(bytes.as_bytes()));
    }
    if word.is_instance_of::<PyBool>() {
        let message = "an argument must be bytes, str, int or float, not bool: encode it first";
        return Err(PyTypeError::new_err(message));
    }
    if word.is_instance_of::<PyInt>() {
        return Ok(Cow::Owned(word.str()?.to_cow()?.into_owned().into_bytes()));
    }
    if word.is_instance_of::<PyFloat>() {
        return Ok(Cow::Owned(word.repr()?.to_cow()?.into_owned().into_bytes()));
    }
    if let Ok(bytes) = word.cast::<PyByteArray>() {
        return Ok(Cow::Owned(bytes.to_vec()));
    }
    let kind = word.get_type().name()?.to_string();
    let message =
        format!("an argument must be bytes, str, int or float, not {kind}: encode it first");
    Err(PyTypeError::new_err(message))
}

/// Returns the Python object of a reply: `None`, `int`, `float`, `bool`, `bytes`, `str`, `list`, `dict`.
pub(crate) fn object<'py>(py: Python<'py>, reply: &Reply) -> PyResult<Bound<'py, PyAny>> {
    Ok(match reply {
        Reply::Nil => py.None().into_bound(py),
        Reply::Integer(number) => number.into_pyobject(py)?.into_any(),
        Reply::Double(number) => number.into_pyobject(py)?.into_any(),
        Reply::Boolean(value) => value.into_pyobject(py)?.to_owned().into_any(),
        Reply::Bytes(bytes) => PyBytes::new(py, bytes).into_any(),
        Reply::Text(text) => text.into_pyobject(py)?.into_any(),
        Reply::Array(items) => {
            let items = items.iter().map(|item| object(py, item));
            PyList::new(py, items.collect::<PyResult<Vec<_>>>()?)?.into_any()
        }
        Reply::Map(pairs) => {
            let dict = PyDict::new(py);
            for (key, value) in pairs {
                dict.set_item(object(py, key)?, object(py, value)?)?;
            }
            dict.into_any()
        }
        Reply::Error(text) => return Err(error::rejected(py, text)),
        _ => return Err(PyValueError::new_err("an unknown kind of reply")),
    })
}
