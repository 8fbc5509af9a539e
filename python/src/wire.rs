//! The connection of an event loop to a server: the loop waits for its descriptor.
//!
//! No other thread takes part. Commands are sent at once if no other waits for a reply, otherwise
//! together with those of the same iteration of the loop.
//!
//! Tasks are resumed by a function of Python, which iterates over the functions to be called. None
//! of them runs within a function of this module: a thread that the interpreter ends at its exit could
//! not be unwound through one.
//!
//! No method calls Python while the state is locked: a signal handler may run there, and call the
//! cache.

use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lockstock::Command;
use lockstock::blocking::{PolledConnection, Settled};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::pending::Pending;

/// What a command belongs to: a call, and its position among the commands of the call.
pub(crate) type Part = (Py<Pending>, usize);

/// A connection of an event loop.
#[pyclass(frozen, module = "lockstock._core")]
pub(crate) struct Wire {
    event_loop: Py<PyAny>,
    callbacks: Callbacks,
    descriptor: i32,
    state: Mutex<State>,
}

/// What the loop calls: functions of `lockstock.aio`.
pub(crate) struct Callbacks {
    /// When the descriptor is readable, or calls have ended.
    pub(crate) readable: Py<PyAny>,
    /// At the end of a time limit, with its number.
    pub(crate) check: Py<PyAny>,
}

struct State {
    /// `None` once it is closed.
    connection: Option<PolledConnection<Part>>,
    /// When the last timer is over. Not the timer itself, which refers to the connection: a closed loop
    /// would keep both until the next garbage collection.
    checked_at: Option<Instant>,
    /// The number of the last timer: earlier ones have no effect.
    timer: u64,
    /// Whether the loop will send what was pushed: at the end of the present callback, in its next
    /// iteration, or when the descriptor is writable.
    will_flush: bool,
    /// A call that has ended, and of which some callbacks may be left.
    ended: Option<Py<Pending>>,
    waits_to_write: bool,
}

impl Wire {
    /// Lets the running loop wait for a connection.
    pub(crate) fn open<'py>(
        py: Python<'py>,
        connection: PolledConnection<Part>,
        callbacks: Callbacks,
    ) -> PyResult<Bound<'py, Self>> {
        let event_loop = py.import("asyncio")?.call_method0("get_running_loop")?;
        let descriptor = connection.descriptor().as_raw_fd();
        let wire = Self {
            event_loop: event_loop.clone().unbind(),
            callbacks,
            descriptor,
            state: Mutex::new(State {
                connection: Some(connection),
                checked_at: None,
                timer: 0,
                will_flush: false,
                ended: None,
                waits_to_write: false,
            }),
        };
        let wire = Bound::new(py, wire)?;
        let readable = wire.get().callbacks.readable.clone_ref(py);
        event_loop.call_method1("add_reader", (descriptor, readable, &wire))?;
        Ok(wire)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state().connection.is_some()
    }

    /// Sends the commands of one call, a single one if `is_one`. `None`: they have to take another
    /// way.
    pub(crate) fn send(
        slf: &Bound<'_, Self>,
        commands: Vec<Command>,
        is_one: bool,
    ) -> PyResult<Option<Py<Pending>>> {
        let (py, wire) = (slf.py(), slf.get());
        let count = (!is_one).then_some(commands.len());
        let pending = Py::new(py, Pending::new(wire.event_loop.clone_ref(py), count))?;
        let mut state = wire.state();
        let Some(connection) = &mut state.connection else {
            return Ok(None);
        };
        if !connection.accepts(&commands) {
            drop(state);
            if wire.is_closing() {
                Self::close(slf)?;
            }
            return Ok(None);
        }
        let is_alone = connection.is_idle();
        let mut deadline = None;
        for (position, command) in commands.into_iter().enumerate() {
            let part = (pending.clone_ref(py), position);
            deadline.get_or_insert(connection.push(command, part));
        }
        let is_late = |deadline: &Instant| state.checked_at.is_none_or(|at| at > *deadline);
        let deadline = deadline.filter(is_late);
        let will_flush = std::mem::replace(&mut state.will_flush, true);
        drop(state);
        if !will_flush && is_alone {
            Self::flush_now(slf)?;
        } else if !will_flush {
            let scheduled = wire.call(py, "call_soon", (slf.getattr("flush")?,));
            if let Err(failure) = scheduled {
                // A signal handler has raised. The next command lets this one be sent.
                wire.state().will_flush = false;
                return Err(failure);
            }
        }
        if let Some(deadline) = deadline {
            Self::set_timer(slf, deadline)?;
        }
        Ok(Some(pending))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<'py>(
        &self,
        py: Python<'py>,
        method: &str,
        arguments: impl pyo3::call::PyCallArgs<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.event_loop.bind(py).call_method1(method, arguments)
    }

    fn flush_now(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, wire) = (slf.py(), slf.get());
        let (is_sent, is_closing, waits) = {
            let mut state = wire.state();
            let Some(connection) = &mut state.connection else {
                return Ok(());
            };
            let is_sent = connection.flush();
            let is_closing = connection.is_closed();
            state.will_flush = !is_sent;
            let waits = std::mem::replace(&mut state.waits_to_write, !is_sent);
            (is_sent, is_closing, waits)
        };
        if !is_sent && !waits {
            let writable = slf.getattr("flush")?;
            wire.call(py, "add_writer", (wire.descriptor, writable))?;
        } else if is_sent && waits {
            wire.call(py, "remove_writer", (wire.descriptor,))?;
        }
        if is_closing {
            // The calls have ended. Not resumed here: a task may be running.
            let readable = wire.callbacks.readable.clone_ref(py);
            wire.call(py, "call_soon", (readable, slf))?;
        }
        Ok(())
    }

    fn settled(&self) -> Option<(Part, Settled)> {
        self.state().connection.as_mut()?.settled()
    }

    fn is_closing(&self) -> bool {
        let state = self.state();
        let connection = state.connection.as_ref();
        // What has ended and was not returned yet comes first.
        connection.is_some_and(|connection| {
            connection.is_closed() && connection.tags().next().is_none() && state.ended.is_none()
        })
    }

    fn set_timer(slf: &Bound<'_, Self>, at: Instant) -> PyResult<()> {
        let (py, wire) = (slf.py(), slf.get());
        let delay = at.saturating_duration_since(Instant::now()).as_secs_f64();
        let check = wire.callbacks.check.clone_ref(py);
        let number = {
            let mut state = wire.state();
            state.timer += 1;
            state.timer
        };
        wire.call(py, "call_later", (delay, check, slf, number))?;
        wire.state().checked_at = Some(at);
        Ok(())
    }

    /// Lets the loop wait for it no longer, and closes the descriptor.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, wire) = (slf.py(), slf.get());
        let waits = wire.state().waits_to_write;
        wire.call(py, "remove_reader", (wire.descriptor,))?;
        if waits {
            wire.call(py, "remove_writer", (wire.descriptor,))?;
        }
        let connection = wire.state().connection.take();
        drop(connection);
        Ok(())
    }
}

#[pymethods]
impl Wire {
    /// Reads replies. What the iteration then returns has to be called, and `finish` after that.
    fn receive(&self) {
        let mut state = self.state();
        state.will_flush = true;
        if let Some(connection) = &mut state.connection {
            connection.receive();
        }
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Returns the next function that a call which has ended has to call: its context, itself and its
    /// argument.
    fn __next__(&self, py: Python<'_>) -> Option<(Py<PyAny>, Py<PyAny>, Py<Pending>)> {
        loop {
            let ended = self.state().ended.take();
            if let Some(pending) = ended
                && let Some((context, function)) = pending.get().take_callback()
            {
                self.state().ended = Some(pending.clone_ref(py));
                return Some((context, function, pending));
            }
            let ((pending, position), settled) = self.settled()?;
            if pending.get().settle(position, settled) {
                self.state().ended = Some(pending);
            }
        }
    }

    /// Sends what was pushed meanwhile, or closes the connection if it is broken or done.
    fn finish(slf: &Bound<'_, Self>) -> PyResult<()> {
        match slf.get().is_closing() {
            true => Self::close(slf),
            false => Self::flush_now(slf),
        }
    }

    /// Sends commands.
    fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::flush_now(slf)
    }

    /// Fails the calls whose time limit has passed. Returns whether the timer is the last one.
    fn expire(slf: &Bound<'_, Self>, timer: u64) -> PyResult<bool> {
        let next = {
            let mut state = slf.get().state();
            if state.timer != timer {
                return Ok(false);
            }
            state.checked_at = None;
            state.connection.as_mut().and_then(PolledConnection::expire)
        };
        if let Some(next) = next {
            Self::set_timer(slf, next)?;
        }
        Ok(true)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        visit.call(&self.callbacks.readable)?;
        visit.call(&self.callbacks.check)?;
        let Ok(state) = self.state.try_lock() else {
            return Ok(());
        };
        visit.call(&state.ended)?;
        let connection = state.connection.iter();
        for (pending, _) in connection.flat_map(PolledConnection::tags) {
            visit.call(pending)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let connection = self.state().connection.take();
        drop(connection);
    }
}
