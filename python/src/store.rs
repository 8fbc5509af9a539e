//! A store, for all threads and event loops of a process and of its children.

use std::time::Duration;

use lockstock::blocking;
use lockstock::{Acquired, Command, Reply};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use tokio::time::Instant;

use crate::bell::{Bell, Outcome};
use crate::held::Held;
use crate::{error, reply, waiting};

/// A store at a URL.
#[pyclass(frozen, module = "lockstock._core")]
pub(crate) struct Store {
    inner: blocking::Store,
}

#[pymethods]
impl Store {
    #[new]
    #[pyo3(signature = (url, *, timeout=1.0, username=None, password=None, connect_timeout=None, max_connections=None, ca_certs=None, certfile=None, keyfile=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        py: Python<'_>,
        url: &str,
        timeout: f64,
        username: Option<String>,
        password: Option<String>,
        connect_timeout: Option<f64>,
        max_connections: Option<u32>,
        ca_certs: Option<&str>,
        certfile: Option<&str>,
        keyfile: Option<&str>,
    ) -> PyResult<Self> {
        // The time limit of a command includes the time to connect, and a pool has as many
        // connections as there are calls at the same time.
        let _ = (connect_timeout, max_connections);
        let timeout = Duration::try_from_secs_f64(timeout)
            .map_err(|_| PyValueError::new_err("the timeout must be a number of seconds"))?;
        let mut builder = blocking::Store::builder(url)
            .timeout(timeout)
            .on_interrupt(|| Python::attach(|py| py.check_signals()).map_err(Into::into));
        if let Some(password) = password {
            builder =
                builder.credentials(username.unwrap_or_else(|| "default".to_owned()), password);
        }
        if let Some(file) = ca_certs {
            builder = builder.ca_certificates(std::fs::read(file)?);
        }
        if let (Some(chain), Some(key)) = (certfile, keyfile) {
            builder = builder.client_certificate(std::fs::read(chain)?, std::fs::read(key)?);
        }
        let inner = builder
            .open()
            .map_err(|failure| error::raised(py, &failure))?;
        Ok(Self { inner })
    }

    /// Executes a command and returns its reply.
    #[pyo3(signature = (*words))]
    fn execute<'py>(
        &self,
        py: Python<'py>,
        words: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let command = reply::command(words)?;
        let executed = self.run(py, |store| store.execute(&command))?;
        reply::object(py, &executed)
    }

    /// Returns the value under a key: `bytes`, or `None`.
    fn get<'py>(&self, py: Python<'py>, key: &str) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let command = Command::new("GET").arg(key).repeatable();
        Ok(match self.run(py, |store| store.execute(&command))? {
            Reply::Bytes(value) => Some(PyBytes::new(py, &value)),
            _ => None,
        })
    }

    /// Returns the values under several keys, in order.
    fn get_many<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let commands = each(keys, |key| Ok(Command::new("GET").arg(&*key).repeatable()))?;
        let replies = self.run(py, |store| store.execute_all(&commands))?;
        objects(py, &replies)
    }

    /// Removes the values under several keys. Returns their number.
    fn delete_many(&self, py: Python<'_>, keys: &Bound<'_, PyAny>) -> PyResult<i64> {
        let commands = each(keys, |key| {
            Ok(Command::new("UNLINK").arg(&*key).repeatable())
        })?;
        let replies = self.run(py, |store| store.execute_all(&commands))?;
        Ok(sum(&replies))
    }

    /// Executes several repeatable commands, without a round trip for each.
    fn pipeline<'py>(
        &self,
        py: Python<'py>,
        commands: Vec<Bound<'py, PyTuple>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let commands = commands
            .iter()
            .map(reply::command)
            .collect::<PyResult<Vec<_>>>()?;
        let replies = self.run(py, |store| store.execute_all(&commands))?;
        objects(py, &replies)
    }

    /// Returns the keys that match a pattern, of all servers.
    #[pyo3(signature = (pattern, count=None))]
    fn scan<'py>(
        &self,
        py: Python<'py>,
        pattern: &str,
        count: Option<usize>,
    ) -> PyResult<Bound<'py, PyList>> {
        let _ = count;
        let (store, pattern) = (self.asynchronous(py)?, pattern.to_owned());
        let keys = waiting::wait(py, async move { store.scan_keys(pattern.as_bytes()).await })?;
        PyList::new(py, keys.iter().map(|key| PyBytes::new(py, key)))
    }

    /// Returns what `INFO` reports, by name.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let command = Command::new("INFO").repeatable();
        let info = PyDict::new(py);
        if let Reply::Text(text) = self.run(py, |store| store.execute(&command))? {
            for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
                info.set_item(name, value.trim_end())?;
            }
        }
        Ok(info)
    }

    /// Closes connections that are not in use.
    fn close_idle(&self) {
        self.inner.close_idle();
    }

    /// Acquires a lock. Returns `None` if it was not acquired within the wait.
    fn acquire(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        lease_ms: u64,
        wait_ms: Option<u64>,
        renew_ms: Option<u64>,
        kind: &str,
        permits: u32,
    ) -> PyResult<Option<Held>> {
        let acquired = self.acquisition(py, name, lease_ms, wait_ms, renew_ms, kind, permits)?;
        let acquired = waiting::wait(py, acquired)?;
        Ok(acquired.held().map(|guard| Held::new(&self.inner, guard)))
    }

    /// Begins to execute a command. The bell delivers the reply.
    #[pyo3(signature = (bell, number, *words))]
    fn begin_execute(
        &self,
        py: Python<'_>,
        bell: &Bell,
        number: u64,
        words: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        let (store, command) = (self.asynchronous(py)?, reply::command(words)?);
        bell.spawn(py, number, async move {
            Outcome::Reply(store.execute(&command).await)
        })
    }

    /// Begins to execute several repeatable commands.
    fn begin_pipeline(
        &self,
        py: Python<'_>,
        bell: &Bell,
        number: u64,
        commands: Vec<Bound<'_, PyTuple>>,
    ) -> PyResult<()> {
        let store = self.asynchronous(py)?;
        let commands = commands
            .iter()
            .map(reply::command)
            .collect::<PyResult<Vec<_>>>()?;
        bell.spawn(py, number, async move {
            Outcome::Replies(store.execute_all(&commands).await)
        })
    }

    /// Begins to acquire a lock.
    #[expect(clippy::too_many_arguments, reason = "called from one place in Python")]
    fn begin_acquire(
        &self,
        py: Python<'_>,
        bell: &Bell,
        number: u64,
        name: &Bound<'_, PyAny>,
        lease_ms: u64,
        wait_ms: Option<u64>,
        renew_ms: Option<u64>,
        kind: &str,
        permits: u32,
    ) -> PyResult<()> {
        let acquired = self.acquisition(py, name, lease_ms, wait_ms, renew_ms, kind, permits)?;
        let store = self.inner.clone();
        bell.spawn(py, number, async move {
            Outcome::Acquired(
                acquired
                    .await
                    .map(|acquired| acquired.held().map(|guard| Held::new(&store, guard))),
            )
        })
    }
}

impl Store {
    /// Runs a call without the interpreter.
    fn run<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&blocking::Store) -> lockstock::Result<T> + Send,
    ) -> PyResult<T> {
        let done = py.detach(|| call(&self.inner));
        done.map_err(|failure| error::raised(py, &failure))
    }

    fn asynchronous(&self, py: Python<'_>) -> PyResult<lockstock::Store> {
        let store = py.detach(|| self.inner.asynchronous());
        store.map_err(|failure| error::raised(py, &failure))
    }

    #[expect(clippy::too_many_arguments, reason = "the settings of a lock")]
    fn acquisition(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        lease_ms: u64,
        wait_ms: Option<u64>,
        renew_ms: Option<u64>,
        kind: &str,
        permits: u32,
    ) -> PyResult<impl Future<Output = lockstock::Result<Acquired>> + Send + use<>> {
        let store = self.asynchronous(py)?;
        let name = reply::bytes(name)?;
        let builder = match kind {
            "lock" => store.lock(&*name),
            "semaphore" => store.semaphore(&*name, permits),
            "read" => store.read_lock(&*name),
            "write" => store.write_lock(&*name),
            _ => return Err(PyValueError::new_err(format!("{kind} is no kind of lock"))),
        };
        let lock = builder.lease(Duration::from_millis(lease_ms));
        let mut lock = lock.map_err(|failure| error::raised(py, &failure))?;
        if let Some(renew_ms) = renew_ms {
            lock = lock.auto_renew(Duration::from_millis(renew_ms));
        }
        let asked_at = Instant::now();
        Ok(async move {
            match wait_ms {
                Some(wait_ms) => {
                    let wait = Duration::from_millis(wait_ms).saturating_sub(asked_at.elapsed());
                    lock.acquire_within(wait).await
                }
                None => lock.acquire().await.map(Acquired::Held),
            }
        })
    }
}

fn each(
    keys: &Bound<'_, PyAny>,
    build: impl Fn(std::borrow::Cow<'_, [u8]>) -> PyResult<Command>,
) -> PyResult<Vec<Command>> {
    keys.try_iter()?
        .map(|key| build(reply::bytes(&key?)?))
        .collect()
}

fn objects<'py>(py: Python<'py>, replies: &[Reply]) -> PyResult<Bound<'py, PyList>> {
    let objects = replies.iter().map(|each| reply::object(py, each));
    PyList::new(py, objects.collect::<PyResult<Vec<_>>>()?)
}

pub(crate) fn sum(replies: &[Reply]) -> i64 {
    let numbers = replies.iter().map(|reply| match reply {
        Reply::Integer(number) => *number,
        _ => 0,
    });
    numbers.sum()
}
