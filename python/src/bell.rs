//! How an event loop of Python is notified of replies: by a descriptor that becomes readable, and a
//! list of outcomes.
//!
//! The threads of the runtime never touch Python: they put an outcome into the list. The event loop
//! takes all of them at once, and sets the results of its futures.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lockstock::Reply;
use lockstock::blocking::Store;
use lockstock_fork::generation;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyList, PyTuple};
use tokio::task::JoinHandle;

use crate::waiting::Signal;
use crate::{error, reply};

/// What a task has done.
pub(crate) enum Outcome {
    Reply(lockstock::Result<Reply>),
    Replies(lockstock::Result<Vec<Reply>>),
    /// A value of a cache, if there is one.
    Value(lockstock::Result<Option<Bytes>>),
    /// What becomes an object of a class of this module.
    Made(lockstock::Result<Make>),
    Held(lockstock::Result<bool>),
    Keys(lockstock::Result<Vec<Vec<u8>>>),
    Holders(lockstock::Result<Vec<String>>),
}

/// Makes an object. Dropped if the outcome is not wanted any more.
type Make = Box<dyn for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send>;

impl Outcome {
    /// Returns the outcome of a task that has returned what becomes an object.
    pub(crate) fn made<T>(returned: lockstock::Result<T>) -> Self
    where
        T: for<'py> IntoPyObject<'py> + Send + 'static,
    {
        Self::Made(returned.map(|value| -> Make { Box::new(|py| value.into_bound_py_any(py)) }))
    }
}

/// The tasks of one event loop.
#[pyclass(frozen, module = "lockstock._core")]
pub(crate) struct Bell {
    shared: Arc<Shared>,
    generation: u64,
}

/// Lets other threads call Python on the thread of an event loop.
pub(crate) struct LoopThread(Arc<Shared>);

type Work = Box<dyn FnOnce(Python<'_>) -> PyResult<()> + Send>;

struct Shared {
    signal: Signal,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    done: Vec<(u64, Outcome)>,
    work: Vec<Work>,
    tasks: HashMap<u64, JoinHandle<()>>,
}

#[pymethods]
impl Bell {
    #[new]
    fn new() -> PyResult<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                signal: Signal::new()?,
                state: Mutex::default(),
            }),
            generation: generation(),
        })
    }

    /// Returns the descriptor, which is readable if there are outcomes.
    fn fileno(&self) -> i32 {
        self.shared.signal.descriptor().as_raw_fd()
    }

    /// Appends what has been done to a list: `(number, whether it failed, value or exception)`.
    /// Not returned, because a signal handler may raise before the caller has it.
    fn take(&self, py: Python<'_>, taken: &Bound<'_, PyList>) -> PyResult<()> {
        self.shared.signal.clear();
        let (done, work) = {
            let mut state = self.shared.state();
            (
                std::mem::take(&mut state.done),
                std::mem::take(&mut state.work),
            )
        };
        for (number, outcome) in done {
            let (has_failed, value) = match object(py, outcome) {
                Ok(value) => (false, value),
                Err(failure) => (true, failure.into_value(py).into_bound(py).into_any()),
            };
            let has_failed = PyBool::new(py, has_failed).to_owned().into_any();
            let number = number.into_pyobject(py)?.into_any();
            taken.append(PyTuple::new(py, [number, has_failed, value])?)?;
        }
        for work in work {
            work(py)?;
        }
        Ok(())
    }

    /// Drops a task whose outcome is not wanted any more, or the outcome.
    fn cancel(&self, number: u64) {
        let mut state = self.shared.state();
        if let Some(task) = state.tasks.remove(&number) {
            drop(state);
            Store::abort(task);
        } else if let Some(index) = state.done.iter().position(|(done, _)| *done == number) {
            let outcome = state.done.swap_remove(index);
            drop(state);
            drop(outcome);
        }
    }
}

/// The loop is gone: its tasks must not wait any longer, and its locks must not stay held.
impl Drop for Bell {
    fn drop(&mut self) {
        if self.generation != generation() {
            // A child has none of the tasks, and the mutex may be locked.
            return;
        }
        let state = std::mem::take(&mut *self.shared.state());
        state.tasks.into_values().for_each(Store::abort);
    }
}

impl Bell {
    /// Returns what calls Python on the thread of the loop.
    pub(crate) fn loop_thread(&self) -> LoopThread {
        LoopThread(self.shared.clone())
    }

    /// Runs a task whose outcome is delivered under `number`.
    pub(crate) fn spawn(
        &self,
        py: Python<'_>,
        number: u64,
        task: impl Future<Output = Outcome> + Send + 'static,
    ) -> PyResult<()> {
        let runtime = Store::runtime().map_err(|failure| error::raised(py, &failure))?;
        let shared = self.shared.clone();
        // Under the mutex: the task may end before it is registered.
        let mut state = self.shared.state();
        let task = runtime.spawn(async move {
            let outcome = task.await;
            let mut state = shared.state();
            if state.tasks.remove(&number).is_some() {
                state.done.push((number, outcome));
                drop(state);
                shared.signal.set();
            }
        });
        state.tasks.insert(number, task);
        Ok(())
    }
}

impl LoopThread {
    /// Calls when the loop takes outcomes the next time. Never, if the loop has ended.
    pub(crate) fn call(&self, work: impl FnOnce(Python<'_>) -> PyResult<()> + Send + 'static) {
        self.0.state().work.push(Box::new(work));
        self.0.signal.set();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn object(py: Python<'_>, outcome: Outcome) -> PyResult<Bound<'_, PyAny>> {
    let raised = |failure| error::raised(py, &failure);
    match outcome {
        Outcome::Reply(reply) => reply::object(py, &reply.map_err(raised)?),
        Outcome::Replies(replies) => {
            let replies = Reply::Array(replies.map_err(raised)?);
            reply::object(py, &replies)
        }
        Outcome::Value(value) => Ok(match value.map_err(raised)? {
            Some(value) => PyBytes::new(py, &value).into_any(),
            None => py.None().into_bound(py),
        }),
        Outcome::Made(made) => made.map_err(raised)?(py),
        Outcome::Keys(keys) => {
            let keys = keys.map_err(raised)?;
            let keys = PyList::new(py, keys.iter().map(|key| PyBytes::new(py, key)))?;
            Ok(keys.into_any())
        }
        Outcome::Holders(holders) => Ok(PyList::new(py, holders.map_err(raised)?)?.into_any()),
        Outcome::Held(held) => Ok(PyBool::new(py, held.map_err(raised)?).to_owned().into_any()),
    }
}
