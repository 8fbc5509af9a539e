//! A store, for all threads and event loops of a process and of its children.

use std::time::Duration;

use lockstock::{Command, Reply, blocking};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::bell::{Bell, Outcome};
use crate::computing::{Computation, Policy};
use crate::held::Held;
use crate::pending::Pending;
use crate::wire::Wire;
use crate::wires::Wires;
use crate::{error, reply, waiting};

/// A store at a URL.
#[pyclass(frozen, module = "lockstock._core")]
pub(crate) struct Store {
    pub(crate) inner: blocking::Store,
    /// Set at most once.
    tracer: PyOnceLock<Py<PyAny>>,
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
            .on_interrupt(|| {
                if !waiting::may_run_handlers() {
                    return Ok(());
                }
                // While the interpreter ends, no handler runs.
                let checked = Python::try_attach(|py| py.check_signals());
                checked.unwrap_or(Ok(())).map_err(Into::into)
            });
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
        Ok(Self {
            inner,
            tracer: PyOnceLock::new(),
        })
    }

    /// Reports each command to a tracer from now on: `begin(name, count)` returns an object whose
    /// `end(exception or None)` is called.
    fn trace(&self, py: Python<'_>, tracer: Py<PyAny>) {
        // The first one stays.
        let _ = self.tracer.set(py, tracer);
    }

    /// The tracer, if there is one.
    #[getter]
    pub(crate) fn tracer(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.tracer.get(py).map(|tracer| tracer.clone_ref(py))
    }

    /// Executes a command and returns its reply.
    #[pyo3(signature = (*words))]
    fn execute<'py>(
        &self,
        py: Python<'py>,
        words: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let command = reply::command(words)?;
        reply::object(py, &self.run(py, command)?)
    }

    /// Returns the values under several keys, in order.
    fn get_many<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let commands = each(keys, |key| Ok(Command::new("GET").arg(&*key).repeatable()))?;
        let replies = self.run_all(py, commands)?;
        objects(py, &replies)
    }

    /// Removes the values under several keys. Returns their number.
    fn delete_many(&self, py: Python<'_>, keys: &Bound<'_, PyAny>) -> PyResult<i64> {
        let commands = each(keys, |key| {
            Ok(Command::new("UNLINK").arg(&*key).repeatable())
        })?;
        let replies = self.run_all(py, commands)?;
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
        let replies = self.run_all(py, commands)?;
        objects(py, &replies)
    }

    /// Returns the keys that match a pattern, of all servers.
    fn scan<'py>(&self, py: Python<'py>, pattern: &str) -> PyResult<Bound<'py, PyList>> {
        let (store, pattern) = (self.asynchronous(py)?, pattern.to_owned());
        let scan = || waiting::wait(py, async move { store.scan_keys(pattern.as_bytes()).await });
        let keys = match self.tracer.get(py) {
            Some(tracer) => traced(tracer.bind(py), "SCAN", 1, scan)?,
            None => scan()?,
        };
        PyList::new(py, keys.iter().map(|key| PyBytes::new(py, key)))
    }

    /// Returns what `INFO` reports, by name.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let command = Command::new("INFO").repeatable();
        let info = PyDict::new(py);
        if let Reply::Text(text) = self.run(py, command)? {
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
    #[expect(clippy::too_many_arguments, reason = "called from one place in Python")]
    fn acquire(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        lease_ms: u64,
        wait_ms: Option<u64>,
        renew_ms: Option<u64>,
        kind: &str,
        permits: u32,
        token: Option<&str>,
    ) -> PyResult<Option<Held>> {
        let is_plain = kind != "all" && renew_ms.is_none() && token.is_none();
        if is_plain && waiting::hub(py)?.is_none() {
            return self.acquire_by_caller(py, name, lease_ms, wait_ms, kind, permits);
        }
        let acquired =
            self.acquisition(py, name, lease_ms, wait_ms, renew_ms, kind, permits, token)?;
        waiting::wait(py, acquired)
    }

    /// Sends a command over the connection of an event loop. `None`: it has to be executed on the
    /// runtime.
    #[pyo3(signature = (wires, *words))]
    fn send_execute(
        slf: &Bound<'_, Self>,
        wires: &Bound<'_, Wires>,
        words: &Bound<'_, PyTuple>,
    ) -> PyResult<Option<Py<Pending>>> {
        match Self::wire(slf, wires) {
            Some(wire) => Wire::send(&wire, vec![reply::command(words)?], true),
            None => Ok(None),
        }
    }

    /// Sends several repeatable commands over the connection of an event loop.
    fn send_pipeline(
        slf: &Bound<'_, Self>,
        wires: &Bound<'_, Wires>,
        commands: Vec<Bound<'_, PyTuple>>,
    ) -> PyResult<Option<Py<Pending>>> {
        let Some(wire) = Self::wire(slf, wires) else {
            return Ok(None);
        };
        let commands = commands.iter().map(reply::command);
        let commands = commands.collect::<PyResult<Vec<_>>>()?;
        // Those on the runtime report one that is not repeatable.
        match commands.iter().all(Command::is_repeatable) && !commands.is_empty() {
            true => Wire::send(&wire, commands, false),
            false => Ok(None),
        }
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
        token: Option<&str>,
    ) -> PyResult<()> {
        let acquired =
            self.acquisition(py, name, lease_ms, wait_ms, renew_ms, kind, permits, token)?;
        bell.spawn(py, number, async { Outcome::made(acquired.await) })
    }

    /// Returns the tokens of the holders of a lock.
    fn holders(
        &self,
        py: Python<'_>,
        kind: &str,
        name: &Bound<'_, PyAny>,
    ) -> PyResult<Vec<String>> {
        waiting::wait(py, self.holding(py, kind, name)?)
    }

    /// Begins to read the holders of a lock.
    fn begin_holders(
        &self,
        py: Python<'_>,
        bell: &Bell,
        number: u64,
        kind: &str,
        name: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let holders = self.holding(py, kind, name)?;
        bell.spawn(py, number, async { Outcome::Holders(holders.await) })
    }

    /// Releases a lock whose holder has a token. Returns whether that holder held it.
    fn release(
        &self,
        py: Python<'_>,
        kind: &str,
        name: &Bound<'_, PyAny>,
        token: &str,
    ) -> PyResult<bool> {
        waiting::wait(py, self.releasing(py, kind, name, token)?)
    }

    /// Begins to release a lock whose holder has a token.
    fn begin_release(
        &self,
        py: Python<'_>,
        bell: &Bell,
        number: u64,
        kind: &str,
        name: &Bound<'_, PyAny>,
        token: &str,
    ) -> PyResult<()> {
        let released = self.releasing(py, kind, name, token)?;
        bell.spawn(py, number, async { Outcome::Held(released.await) })
    }

    /// Begins a call for a value that may have to be computed.
    fn compute(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        ttl_ms: Option<u64>,
        stale_ms: u64,
        lease_ms: Option<u64>,
        max_wait_ms: u64,
    ) -> PyResult<Computation> {
        let policy = Policy {
            ttl_ms,
            stale_ms,
            lease_ms,
            max_wait_ms,
        };
        let key = reply::bytes(key)?.into_owned();
        Computation::begin(py, &self.asynchronous(py)?, key, &policy)
    }

    /// Begins to scan for the keys that match a pattern.
    fn begin_scan(
        &self,
        py: Python<'_>,
        bell: &Bell,
        number: u64,
        pattern: String,
    ) -> PyResult<()> {
        let store = self.asynchronous(py)?;
        bell.spawn(py, number, async move {
            Outcome::Keys(store.scan_keys(pattern.as_bytes()).await)
        })
    }
}

impl Store {
    /// Returns the connection of an event loop to this store.
    pub(crate) fn wire<'py>(
        slf: &Bound<'py, Self>,
        wires: &Bound<'py, Wires>,
    ) -> Option<Bound<'py, Wire>> {
        Wires::to(wires, slf.as_any(), &slf.get().inner)
    }

    /// Executes a command without the interpreter: on a socket of this thread, or if the thread
    /// runs greenlets, on the runtime.
    pub(crate) fn run(&self, py: Python<'_>, command: Command) -> PyResult<Reply> {
        let Some(tracer) = self.tracer.get(py) else {
            return self.run_untraced(py, command);
        };
        let name = command.name().into_owned();
        traced(tracer.bind(py), &name, 1, || self.run_untraced(py, command))
    }

    fn run_untraced(&self, py: Python<'_>, command: Command) -> PyResult<Reply> {
        if waiting::hub(py)?.is_some() {
            let store = self.asynchronous(py)?;
            return waiting::wait(py, async move { store.execute(&command).await });
        }
        let reply = py.detach(|| self.inner.execute(&command));
        reply.map_err(|failure| error::raised(py, &failure))
    }

    /// Executes several commands as `run` does.
    pub(crate) fn run_all(&self, py: Python<'_>, commands: Vec<Command>) -> PyResult<Vec<Reply>> {
        let Some(tracer) = self.tracer.get(py) else {
            return self.run_all_untraced(py, commands);
        };
        let (name, count) = (name_of_all(&commands), commands.len());
        traced(tracer.bind(py), &name, count, || {
            self.run_all_untraced(py, commands)
        })
    }

    fn run_all_untraced(&self, py: Python<'_>, commands: Vec<Command>) -> PyResult<Vec<Reply>> {
        if waiting::hub(py)?.is_some() {
            let store = self.asynchronous(py)?;
            return waiting::wait(py, async move { store.execute_all(&commands).await });
        }
        let replies = py.detach(|| self.inner.execute_all(&commands));
        replies.map_err(|failure| error::raised(py, &failure))
    }

    pub(crate) fn asynchronous(&self, py: Python<'_>) -> PyResult<lockstock::Store> {
        let store = py.detach(|| self.inner.asynchronous());
        store.map_err(|failure| error::raised(py, &failure))
    }
}

/// Makes a call within a span of a tracer.
fn traced<T>(
    tracer: &Bound<'_, PyAny>,
    name: &str,
    count: usize,
    call: impl FnOnce() -> PyResult<T>,
) -> PyResult<T> {
    let span = tracer.call_method1("begin", (name, count))?;
    let result = call();
    let failure = result.as_ref().err();
    span.call_method1("end", (failure.map(|error| error.value(tracer.py())),))?;
    result
}

/// Returns the name of commands that are sent together, as OpenTelemetry wants it.
fn name_of_all(commands: &[Command]) -> String {
    let first = commands.first().map(Command::name).unwrap_or_default();
    match commands.iter().all(|command| command.name() == first) {
        true => format!("PIPELINE {first}"),
        false => "PIPELINE".to_owned(),
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
