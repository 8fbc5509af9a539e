//! A call over a connection of its event loop, as the loop's tasks await it.
//!
//! It is what asyncio calls a future-like object. Its reply arrives in a callback of the loop, which
//! resumes the waiting task at once, where a future of asyncio would do so in the next iteration.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use lockstock::Reply;
use lockstock::blocking::{LeftCommand, Settled};
use pyo3::exceptions::PyStopIteration;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyNotImplemented};

use crate::bell::{Bell, Outcome};
use crate::{error, reply};

/// A call that was sent. Its value is the reply, those to several commands as a list, or
/// `NotImplemented` if it has to be continued on the runtime.
#[pyclass(frozen, module = "lockstock._core")]
pub(crate) struct Pending {
    event_loop: Py<PyAny>,
    /// Whether a task has begun to wait: by the protocol of asyncio.
    is_blocking: AtomicBool,
    /// Locked for moments with the interpreter.
    state: Mutex<State>,
}

struct State {
    settled: Vec<Option<Settled>>,
    /// How many are `None`.
    missing: usize,
    /// Whether the reply is to one command.
    is_one: bool,
    cancelled: Option<Cancelled>,
    callbacks: Vec<Callback>,
}

/// The message of a cancellation.
struct Cancelled(Option<Py<PyAny>>);

struct Callback {
    function: Py<PyAny>,
    context: Py<PyAny>,
}

impl Pending {
    /// `None`: a reply to one command.
    pub(crate) fn new(event_loop: Py<PyAny>, count: Option<usize>) -> Self {
        let missing = count.unwrap_or(1);
        Self {
            event_loop,
            is_blocking: AtomicBool::new(false),
            state: Mutex::new(State {
                settled: (0..missing).map(|_| None).collect(),
                missing,
                is_one: count.is_none(),
                cancelled: None,
                callbacks: Vec::new(),
            }),
        }
    }

    /// Sets what came of a command. Returns whether the call has ended by that.
    pub(crate) fn settle(&self, position: usize, settled: Settled) -> bool {
        let mut state = self.state();
        state.settled[position] = Some(settled);
        state.missing -= 1;
        state.missing == 0 && state.cancelled.is_none()
    }

    /// Takes the next function that has to be called at the end of the call, with the context in which
    /// it runs.
    pub(crate) fn take_callback(&self) -> Option<(Py<PyAny>, Py<PyAny>)> {
        let mut state = self.state();
        match state.callbacks.is_empty() {
            true => None,
            false => {
                let Callback { context, function } = state.callbacks.remove(0);
                Some((context, function))
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn value<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let mut state = self.state();
        let is_left = |settled: &Option<Settled>| matches!(settled, Some(Settled::Left(_)));
        if state.settled.iter().any(is_left) {
            return Ok(PyNotImplemented::get(py).to_owned().into_any());
        }
        let (is_one, settled) = (state.is_one, std::mem::take(&mut state.settled));
        drop(state);
        let replies = settled.into_iter().flatten().map(|settled| match settled {
            Settled::Reply(reply) => reply,
            // Looked for above.
            Settled::Left(_) => Ok(Reply::Nil),
        });
        let replies = replies.collect::<lockstock::Result<Vec<_>>>();
        let mut replies = replies.map_err(|failure| error::raised(py, &failure))?;
        match replies.pop() {
            Some(only) if is_one => reply::object(py, &only),
            last => {
                replies.extend(last);
                reply::object(py, &Reply::Array(replies))
            }
        }
    }

    fn raise_if_cancelled(&self, py: Python<'_>) -> PyResult<()> {
        let state = self.state();
        let Some(Cancelled(message)) = &state.cancelled else {
            return Ok(());
        };
        let message = message.as_ref().map(|message| message.clone_ref(py));
        drop(state);
        let class = py.import("asyncio")?.getattr("CancelledError")?;
        let exception = match message {
            Some(message) => class.call1((message,))?,
            None => class.call0()?,
        };
        Err(PyErr::from_value(exception))
    }
}

#[pymethods]
impl Pending {
    #[getter(_asyncio_future_blocking)]
    fn is_blocking(&self) -> bool {
        self.is_blocking.load(Ordering::Relaxed)
    }

    #[setter(_asyncio_future_blocking)]
    fn set_blocking(&self, is_blocking: bool) {
        self.is_blocking.store(is_blocking, Ordering::Relaxed);
    }

    /// Returns the event loop.
    fn get_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.event_loop.clone_ref(py)
    }

    /// Returns whether the call has ended.
    fn done(&self) -> bool {
        let state = self.state();
        state.missing == 0 || state.cancelled.is_some()
    }

    /// Returns whether the call was cancelled.
    fn cancelled(&self) -> bool {
        self.state().cancelled.is_some()
    }

    /// Lets a function be called at the end of the call.
    #[pyo3(signature = (function, *, context=None))]
    fn add_done_callback(
        slf: &Bound<'_, Self>,
        function: Py<PyAny>,
        context: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let (py, pending) = (slf.py(), slf.get());
        let context = match context {
            Some(context) => context,
            None => py
                .import("contextvars")?
                .call_method0("copy_context")?
                .unbind(),
        };
        let callback = Callback { function, context };
        if pending.done() {
            return pending.call_soon(slf, callback);
        }
        pending.state().callbacks.push(callback);
        Ok(())
    }

    /// Gives the reply up. It is read nevertheless: others follow it.
    #[pyo3(signature = (msg=None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        let pending = slf.get();
        if pending.done() {
            return Ok(false);
        }
        let callbacks = {
            let mut state = pending.state();
            state.cancelled = Some(Cancelled(msg));
            std::mem::take(&mut state.callbacks)
        };
        for callback in callbacks {
            pending.call_soon(slf, callback)?;
        }
        Ok(true)
    }

    /// Fails if the call was cancelled. Its value is what `await` returns.
    fn result(&self, py: Python<'_>) -> PyResult<()> {
        self.raise_if_cancelled(py)
    }

    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, pending) = (slf.py(), slf.get());
        if !pending.done() {
            pending.set_blocking(true);
            return Ok(slf.clone().into_any());
        }
        pending.raise_if_cancelled(py)?;
        // In a tuple: a value that is one would be taken for the arguments.
        Err(PyStopIteration::new_err((pending.value(py)?.unbind(),)))
    }

    /// Begins to execute what the connection has left, on the runtime.
    fn begin_rest(&self, py: Python<'_>, bell: &Bell, number: u64) -> PyResult<()> {
        let (is_one, settled) = {
            let mut state = self.state();
            (state.is_one, std::mem::take(&mut state.settled))
        };
        bell.spawn(py, number, async move {
            let replies = settled.into_iter().flatten().map(|settled| async {
                match settled {
                    Settled::Reply(reply) => reply,
                    Settled::Left(left) => LeftCommand::execute(left).await,
                }
            });
            // All of them are tried, whether one fails or not.
            let mut replies = join_all(replies).await;
            match replies.pop() {
                Some(only) if is_one => Outcome::Reply(only),
                last => {
                    replies.extend(last);
                    Outcome::Replies(replies.into_iter().collect())
                }
            }
        })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        let Ok(state) = self.state.try_lock() else {
            return Ok(());
        };
        for callback in &state.callbacks {
            visit.call(&callback.function)?;
            visit.call(&callback.context)?;
        }
        if let Some(Cancelled(message)) = &state.cancelled {
            visit.call(message)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let callbacks = std::mem::take(&mut self.state().callbacks);
        drop(callbacks);
    }
}

impl Pending {
    fn call_soon(&self, slf: &Bound<'_, Self>, callback: Callback) -> PyResult<()> {
        let py = slf.py();
        let options = PyDict::new(py);
        options.set_item("context", callback.context)?;
        let arguments = (callback.function, slf);
        let event_loop = self.event_loop.bind(py);
        event_loop.call_method("call_soon", arguments, Some(&options))?;
        Ok(())
    }
}
