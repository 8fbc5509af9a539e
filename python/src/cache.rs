//! The calls of a cache in one step each: the key, the command, and the value of its reply.
//!
//! A call that returns `NotImplemented` has sent nothing: Python makes the key, or carries the call
//! out by a command. So the rules of Django and of django-redis that are rarely needed are written
//! once, in Python.

use bytes::Bytes;
use futures_util::future::try_join_all;
use lockstock::{Command, Reply};
use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFloat, PyInt, PyList, PyNotImplemented, PyType};

use crate::bell::{Bell, Outcome};
use crate::key::KeyMaker;
use crate::near::NearCache;
use crate::store::{Store, sum};
use crate::value::Codec;
use crate::wire::Wire;
use crate::wires::Wires;
use crate::{error, waiting};

/// The values of a cache of Django.
#[pyclass(frozen, module = "lockstock._core")]
pub(crate) struct Cache {
    store: Py<Store>,
    near: Option<Py<NearCache>>,
    keys: KeyMaker,
    codec: Codec,
}

/// When a value expires.
enum Expiry {
    Never,
    AfterMillis(i64),
}

#[pymethods]
impl Cache {
    #[new]
    #[pyo3(signature = (store, *, loads, pickle_loads, dumps, made_key, makes_keys, warns, near=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        store: Py<Store>,
        loads: Py<PyAny>,
        pickle_loads: Option<Py<PyAny>>,
        dumps: Py<PyAny>,
        made_key: Py<PyType>,
        makes_keys: bool,
        warns: bool,
        near: Option<Py<NearCache>>,
    ) -> Self {
        Self {
            store,
            near,
            keys: KeyMaker {
                made: made_key,
                is_default: makes_keys,
                warns,
            },
            codec: Codec {
                dumps,
                loads,
                pickle_loads,
            },
        }
    }

    /// The tracer of the store, if there is one.
    #[getter]
    fn tracer(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.store.get().tracer(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.codec.loads)?;
        visit.call(&self.codec.pickle_loads)?;
        visit.call(&self.codec.dumps)
    }

    /// Returns the value under a key.
    #[pyo3(signature = (key, version, prefix, default, /))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        version: &Bound<'py, PyAny>,
        prefix: &Bound<'py, PyAny>,
        default: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Some(key) = self.keys.make(key, version, prefix)? else {
            return not_implemented(py);
        };
        let Some(value) = self.read(py, key)? else {
            return Ok(default);
        };
        Ok(self.codec.decode(py, &value)?.unwrap_or(default))
    }

    /// Writes a value. Returns whether the condition was met.
    #[pyo3(signature = (key, version, prefix, value, timeout, nx, xx, /))]
    #[expect(clippy::too_many_arguments, reason = "called from one place in Python")]
    fn set<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        version: &Bound<'py, PyAny>,
        prefix: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
        timeout: &Bound<'py, PyAny>,
        nx: bool,
        xx: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (Some(key), Some(expiry)) = (
            self.keys.make(key, version, prefix)?,
            Expiry::of_new_value(timeout)?,
        ) else {
            return not_implemented(py);
        };
        let Some(mut set) = self.set_command(key, value, &expiry)? else {
            return not_implemented(py);
        };
        for (is_set, word) in [(nx, "NX"), (xx, "XX")] {
            if is_set {
                set = set.arg(word);
            }
        }
        // Repeated, a command with NX would find its own value.
        let set = if nx { set } else { set.repeatable() };
        let reply = self.store.get().run(py, set)?;
        boolean(py, reply != Reply::Nil)
    }

    /// Removes a value. Returns the number of values removed.
    #[pyo3(signature = (key, version, prefix, /))]
    fn delete<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        version: &Bound<'py, PyAny>,
        prefix: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Some(key) = self.keys.make(key, version, prefix)? else {
            return not_implemented(py);
        };
        let delete = Command::new("DEL").arg(key).repeatable();
        let deleted = sum(&[self.store.get().run(py, delete)?]);
        Ok(deleted.into_pyobject(py)?.into_any())
    }

    /// Sets when a value expires. Returns whether it was changed.
    #[pyo3(signature = (key, version, prefix, timeout, /))]
    fn touch<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        version: &Bound<'py, PyAny>,
        prefix: &Bound<'py, PyAny>,
        timeout: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (Some(key), Some(expiry)) =
            (self.keys.make(key, version, prefix)?, Expiry::of(timeout)?)
        else {
            return not_implemented(py);
        };
        let touch = match expiry {
            // Repeated, it would find that the value never expires.
            Expiry::Never => Command::new("PERSIST").arg(key),
            Expiry::AfterMillis(millis) => Command::new("PEXPIRE")
                .arg(key)
                .arg(millis.to_string())
                .repeatable(),
        };
        let touched = sum(&[self.store.get().run(py, touch)?]);
        boolean(py, touched != 0)
    }

    /// Adds to an integer and returns the sum: by a script on the key, or without one by `INCRBY`.
    /// `None`: the script has found no value.
    #[pyo3(signature = (key, version, prefix, delta, script, /))]
    fn incr<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        version: &Bound<'py, PyAny>,
        prefix: &Bound<'py, PyAny>,
        delta: &Bound<'py, PyAny>,
        script: Option<&str>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (Some(key), Ok(delta), true) = (
            self.keys.make(key, version, prefix)?,
            delta.extract::<i64>(),
            delta.is_exact_instance_of::<PyInt>(),
        ) else {
            return not_implemented(py);
        };
        let command = match script {
            Some(script) => Command::new("EVAL").arg(script).arg("1"),
            None => Command::new("INCRBY"),
        };
        let command = command.arg(key).arg(delta.to_string());
        match self.store.get().run(py, command)? {
            Reply::Integer(total) => Ok(total.into_pyobject(py)?.into_any()),
            _ => Ok(py.None().into_bound(py)),
        }
    }

    /// Returns the values that exist, by key.
    #[pyo3(signature = (keys, version, prefix, /))]
    fn get_many<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyList>,
        version: &Bound<'py, PyAny>,
        prefix: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut made = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(key) = self.keys.make(&key, version, prefix)? else {
                return not_implemented(py);
            };
            made.push(key);
        }
        let found = PyDict::new(py);
        for (key, value) in keys.iter().zip(self.read_all(py, made)?) {
            if let Some(value) = value
                && let Some(value) = self.codec.decode(py, &value)?
            {
                found.set_item(key, value)?;
            }
        }
        Ok(found.into_any())
    }

    /// Writes several values.
    #[pyo3(signature = (data, version, prefix, timeout, /))]
    fn set_many<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyDict>,
        version: &Bound<'py, PyAny>,
        prefix: &Bound<'py, PyAny>,
        timeout: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Some(expiry) = Expiry::of_new_value(timeout)? else {
            return not_implemented(py);
        };
        let mut sets = Vec::with_capacity(data.len());
        for (key, value) in data {
            let Some(key) = self.keys.make(&key, version, prefix)? else {
                return not_implemented(py);
            };
            let Some(set) = self.set_command(key, &value, &expiry)? else {
                return not_implemented(py);
            };
            sets.push(set.repeatable());
        }
        self.store.get().run_all(py, sets)?;
        Ok(py.None().into_bound(py))
    }

    /// Returns the key in the store.
    #[pyo3(signature = (key, version, prefix, /))]
    fn key<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        version: &Bound<'py, PyAny>,
        prefix: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.keys.make(key, version, prefix)? {
            Some(key) => Ok(PyBytes::new(py, &key).into_any()),
            None => not_implemented(py),
        }
    }

    /// Returns the bytes of a copy of the value under a key in the store, `None` if there is no
    /// value. `NotImplemented`: it has to be read.
    #[pyo3(signature = (key, /))]
    fn copy<'py>(&self, py: Python<'py>, key: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        match self.near().and_then(|near| near.copies.get(key)) {
            Some(Some(value)) => Ok(PyBytes::new(py, &value).into_any()),
            Some(None) => Ok(py.None().into_bound(py)),
            None => not_implemented(py),
        }
    }

    /// Sends the read of a value over the connection of an event loop. `None`: it has to be read on
    /// the runtime. `NotImplemented`: Python has to make the key.
    #[pyo3(signature = (key, version, prefix, wires, /))]
    fn send_get<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        version: &Bound<'py, PyAny>,
        prefix: &Bound<'py, PyAny>,
        wires: &Bound<'py, Wires>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Some(wire) = Store::wire(self.store.bind(py), wires) else {
            return Ok(py.None().into_bound(py));
        };
        let Some(key) = self.keys.make(key, version, prefix)? else {
            return not_implemented(py);
        };
        let get = Command::new("GET").arg(key).repeatable();
        let pending = Wire::send(&wire, vec![get], true)?;
        Ok(pending.into_pyobject(py)?)
    }

    /// Begins to read the value under a key in the store. The bell delivers its bytes.
    fn begin_get(&self, py: Python<'_>, bell: &Bell, number: u64, key: &[u8]) -> PyResult<()> {
        let delivered = |value: lockstock::Result<Option<Bytes>>| {
            Outcome::Reply(value.map(|value| value.map_or(Reply::Nil, Reply::Bytes)))
        };
        if let Some(near) = self.near() {
            let read = read_near(py, near, key.to_vec())?;
            return bell.spawn(py, number, async move { delivered(read.await) });
        }
        let store = self.store.get().asynchronous(py)?;
        let get = Command::new("GET").arg(key).repeatable();
        bell.spawn(py, number, async move {
            Outcome::Reply(store.execute(&get).await)
        })
    }

    /// Returns the value of the bytes in the store, `default` if they count as none.
    #[pyo3(signature = (value, default, /))]
    fn decode<'py>(
        &self,
        py: Python<'py>,
        value: &[u8],
        default: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.codec.decode(py, value)?.unwrap_or(default))
    }
}

impl Cache {
    fn read(&self, py: Python<'_>, key: Vec<u8>) -> PyResult<Option<Bytes>> {
        let Some(near) = self.near() else {
            let get = Command::new("GET").arg(key).repeatable();
            return bytes(self.store.get().run(py, get)?);
        };
        match near.copies.get(&key) {
            Some(copy) => Ok(copy),
            None => waiting::wait(py, read_near(py, near, key)?),
        }
    }

    fn read_all(&self, py: Python<'_>, keys: Vec<Vec<u8>>) -> PyResult<Vec<Option<Bytes>>> {
        if let Some(near) = self.near() {
            return read_all_near(py, near, keys);
        }
        let gets = keys
            .iter()
            .map(|key| Command::new("GET").arg(key).repeatable());
        let replies = self.store.get().run_all(py, gets.collect())?;
        replies.into_iter().map(bytes).collect()
    }

    fn near(&self) -> Option<&NearCache> {
        self.near.as_ref().map(Py::get)
    }

    /// `None`: Python has to encode the value.
    fn set_command(
        &self,
        key: Vec<u8>,
        value: &Bound<'_, PyAny>,
        expiry: &Expiry,
    ) -> PyResult<Option<Command>> {
        let Some(encoded) = self.codec.encode(value)? else {
            return Ok(None);
        };
        let set = Command::new("SET").arg(key).arg(encoded.bytes()?);
        Ok(Some(match expiry {
            Expiry::Never => set,
            Expiry::AfterMillis(millis) => set.arg("PX").arg(millis.to_string()),
        }))
    }
}

impl Expiry {
    /// Returns the expiry by a timeout in seconds. `None`: Python has to read it.
    fn of(timeout: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        if timeout.is_none() {
            return Ok(Some(Self::Never));
        }
        let millis = if timeout.is_exact_instance_of::<PyInt>() {
            let seconds = timeout.extract::<i64>().ok();
            seconds.and_then(|seconds| seconds.checked_mul(1000))
        } else if timeout.is_exact_instance_of::<PyFloat>() {
            let millis = timeout.extract::<f64>()? * 1000.0;
            // Exact there.
            let is_exact = millis.abs() < (1_u64 << 53) as f64;
            is_exact.then_some(millis as i64)
        } else {
            None
        };
        Ok(millis.map(Self::AfterMillis))
    }

    /// `None` also for one that has passed: nothing is written then.
    fn of_new_value(timeout: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let expiry = Self::of(timeout)?;
        Ok(expiry.filter(|expiry| !matches!(expiry, Self::AfterMillis(..=0))))
    }
}

/// Returns a read of a value that has no copy.
fn read_near(
    py: Python<'_>,
    near: &NearCache,
    key: Vec<u8>,
) -> PyResult<impl Future<Output = lockstock::Result<Option<Bytes>>> + Send + use<>> {
    // The first one starts the runtime.
    let read = py.detach(|| near.copies.read(key));
    read.map_err(|failure| error::raised(py, &failure))
}

/// Reads what has no copy at the same time, so that its commands are sent together.
fn read_all_near(
    py: Python<'_>,
    near: &NearCache,
    keys: Vec<Vec<u8>>,
) -> PyResult<Vec<Option<Bytes>>> {
    let mut values = Vec::with_capacity(keys.len());
    let (mut missing, mut reads) = (Vec::new(), Vec::new());
    for (position, key) in keys.into_iter().enumerate() {
        let copy = near.copies.get(&key);
        if copy.is_none() {
            missing.push(position);
            reads.push(read_near(py, near, key)?);
        }
        values.push(copy.flatten());
    }
    if !reads.is_empty() {
        let read = waiting::wait(py, try_join_all(reads))?;
        for (position, value) in missing.into_iter().zip(read) {
            values[position] = value;
        }
    }
    Ok(values)
}

/// Returns the value in the reply to `GET`.
fn bytes(reply: Reply) -> PyResult<Option<Bytes>> {
    match reply {
        Reply::Nil => Ok(None),
        Reply::Bytes(value) => Ok(Some(value)),
        _ => Err(PyTypeError::new_err("the reply to GET is no value")),
    }
}

fn boolean(py: Python<'_>, value: bool) -> PyResult<Bound<'_, PyAny>> {
    Ok(value.into_pyobject(py)?.to_owned().into_any())
}

fn not_implemented(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    Ok(PyNotImplemented::get(py).to_owned().into_any())
}
