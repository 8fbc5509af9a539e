//! Errors as those of `lockstock.errors`, which decides the class to raise.

use std::error::Error;

use pyo3::prelude::*;

/// Returns the exception for an error of the library: if a signal handler has raised one, that one.
pub(crate) fn raised(py: Python<'_>, error: &lockstock::Error) -> PyErr {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(exception) = cause.downcast_ref::<PyErr>() {
            return exception.clone_ref(py);
        }
        source = cause.source();
    }
    let text = error.to_string();
    let class = if error.is_invalid() {
        "Invalid"
    } else if error.is_malformed() {
        "Malformed"
    } else if error.is_timed_out() {
        "TimedOut"
    } else if error.is_rejected() {
        "ResponseError"
    } else {
        "Unavailable"
    };
    new(py, class, &text)
}

/// Returns the exception for an error reply among others.
pub(crate) fn rejected(py: Python<'_>, text: &str) -> PyErr {
    new(py, "ResponseError", text)
}

/// Returns an exception of a class of `lockstock.errors`.
pub(crate) fn new(py: Python<'_>, class: &str, text: &str) -> PyErr {
    // Not kept in a `PyOnceLock`: another thread may run during the import, and a child that it forks
    // would wait without end.
    let made = py
        .import("lockstock.errors")
        .and_then(|module| module.call_method1("error", (module.getattr(class)?, text)));
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}
