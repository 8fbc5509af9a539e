//! Keys in the store, as Django's default key function makes them: `prefix:version:key`.

use std::io::Write;

use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString, PyType};

/// The maximum length of a key that Django does not warn of.
const MAX_PORTABLE_CHARS: usize = 250;

/// How keys are made.
pub(crate) struct KeyMaker {
    /// The class of a key that is made already.
    pub(crate) made: Py<PyType>,
    /// Whether the key function is Django's default.
    pub(crate) is_default: bool,
    /// Whether Django warns of some keys.
    pub(crate) warns: bool,
}

impl KeyMaker {
    /// Returns the key in the store. `None`: Python has to make it.
    pub(crate) fn make(
        &self,
        key: &Bound<'_, PyAny>,
        version: &Bound<'_, PyAny>,
        prefix: &Bound<'_, PyAny>,
    ) -> PyResult<Option<Vec<u8>>> {
        let Ok(text) = key.cast_exact::<PyString>() else {
            return self.made(key);
        };
        if !self.is_default {
            return Ok(None);
        }
        let (Ok(prefix), Ok(version)) = (
            prefix.cast_exact::<PyString>(),
            version.cast_exact::<PyInt>(),
        ) else {
            return Ok(None);
        };
        let Ok(version) = version.extract::<i64>() else {
            return Ok(None);
        };
        let (prefix, text) = (prefix.to_cow()?, text.to_cow()?);
        let mut made = Vec::with_capacity(prefix.len() + text.len() + 8);
        made.extend_from_slice(prefix.as_bytes());
        write!(made, ":{version}:")?;
        made.extend_from_slice(text.as_bytes());
        Ok((!self.warns || is_portable(&made)).then_some(made))
    }

    fn made(&self, key: &Bound<'_, PyAny>) -> PyResult<Option<Vec<u8>>> {
        if !key.is_instance(self.made.bind(key.py()))? {
            return Ok(None);
        }
        let text = key.cast::<PyString>()?.to_cow()?;
        Ok(Some(text.as_bytes().to_vec()))
    }
}

/// Returns whether Django does not warn of a key: neither control characters nor blanks, and not
/// too long for memcached.
fn is_portable(key: &[u8]) -> bool {
    let is_short = || {
        let is_start = |byte: &&u8| (**byte as i8) >= -0x40;
        key.len() <= MAX_PORTABLE_CHARS || key.iter().filter(is_start).count() <= MAX_PORTABLE_CHARS
    };
    key.iter().all(|&byte| byte > b' ' && byte != 0x7f) && is_short()
}
