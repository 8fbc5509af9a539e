//! A value that the code of an application computes, once for all callers that miss it.
//!
//! The protocol is that of `lockstock::Cache::get_or_try_set`, which runs on the runtime, so that
//! processes of Python and of Rust elect one caller among them all. The computation itself runs on
//! the thread of its caller: the runtime asks for it, and waits for the value.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lockstock::blocking;
use lockstock::{Cache, ComputeError, ComputePolicy, Raw, Ttl};
use lockstock_fork::generation;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::bell::{Bell, Outcome};
use crate::{error, waiting};

/// The largest value that is shared and written: that of a string in Redis.
const MAX_VALUE_BYTES: usize = 512 * 1024 * 1024;

/// One call that found no value.
#[pyclass(frozen, module = "lockstock._core")]
pub(crate) struct Computation {
    generation: u64,
    task: AbortHandle,
    result: Arc<tokio::sync::Mutex<Option<oneshot::Receiver<Found>>>>,
    /// Locked only for moments with the interpreter, so no other thread has it at a fork.
    steps: Mutex<Steps>,
}

/// What the call has not used yet.
struct Steps {
    /// Ready if this caller has to compute. Fails if there is a value.
    turn: Option<oneshot::Receiver<()>>,
    value: Option<oneshot::Sender<Bytes>>,
}

/// The task's side of the steps.
struct Duty {
    turn: oneshot::Sender<()>,
    value: oneshot::Receiver<Bytes>,
}

/// The value, `None` if the computation of this caller has failed and there is no stale value.
type Found = lockstock::Result<Option<Bytes>>;

/// The computation has failed. The exception stays in Python.
#[derive(Debug)]
struct Failed;

/// How a value is computed and kept.
pub(crate) struct Policy {
    /// `None` never expires.
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) stale_ms: u64,
    /// `None`: once for each process.
    pub(crate) lease_ms: Option<u64>,
    pub(crate) max_wait_ms: u64,
}

impl Computation {
    /// Begins a call for the value under a key of the store.
    pub(crate) fn begin(
        py: Python<'_>,
        store: &lockstock::Store,
        key: Vec<u8>,
        policy: &Policy,
    ) -> PyResult<Self> {
        let ttl = match policy.ttl_ms {
            Some(ttl_ms) => Ttl::After(Duration::from_millis(ttl_ms)),
            None => Ttl::Never,
        };
        let stale_for = Duration::from_millis(policy.stale_ms);
        let max_wait = Duration::from_millis(policy.max_wait_ms);
        let given = ComputePolicy::new(ttl).stale_for(stale_for);
        let given = given.max_wait(max_wait).if_missing();
        let given = match policy.lease_ms {
            Some(lease_ms) => given.once_per_store(Duration::from_millis(lease_ms)),
            None => given,
        };
        let cache = store.cache::<Bytes>("").codec(Raw).bare_keys();
        let cache = cache.max_value_bytes(MAX_VALUE_BYTES);
        let (turn_sender, turn) = oneshot::channel();
        let (value, value_receiver) = oneshot::channel();
        let (sender, result) = oneshot::channel();
        let duty = Duty {
            turn: turn_sender,
            value: value_receiver,
        };
        let runtime = blocking::Store::runtime().map_err(|failure| error::raised(py, &failure))?;
        let task = runtime.spawn(async move {
            // The receiver is gone after an interrupt.
            let _ = sender.send(find(&cache, &key, given, duty).await);
        });
        Ok(Self {
            generation: generation(),
            task: task.abort_handle(),
            result: Arc::new(tokio::sync::Mutex::new(Some(result))),
            steps: Mutex::new(Steps {
                turn: Some(turn),
                value: Some(value),
            }),
        })
    }

    fn is_own(&self) -> bool {
        self.generation == generation()
    }

    fn with_steps<T>(&self, change: impl FnOnce(&mut Steps) -> T) -> T {
        change(&mut self.steps.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for the value of another caller. `None` if this caller has to compute.
    fn waited(&self) -> impl Future<Output = Found> + Send + use<> {
        let turn = self.with_steps(|steps| steps.turn.take());
        let ended = self.ended();
        async move {
            let has_value = match turn {
                Some(turn) => turn.await.is_err(),
                None => false,
            };
            if has_value { ended.await } else { Ok(None) }
        }
    }

    /// Gives the value to the task, and waits for the value to return.
    fn finished(&self, value: Bytes) -> impl Future<Output = Found> + Send + use<> {
        let sender = self.with_steps(|steps| steps.value.take());
        let ended = self.ended();
        async move {
            let is_wanted = sender.is_some_and(|sender| sender.send(value.clone()).is_ok());
            let found = if is_wanted { ended.await? } else { None };
            Ok(Some(found.unwrap_or(value)))
        }
    }

    /// Reports a failure to the task, and waits for the stale value, if there is one.
    fn failed(&self) -> impl Future<Output = Found> + Send + use<> {
        drop(self.with_steps(|steps| steps.value.take()));
        self.ended()
    }

    fn ended(&self) -> impl Future<Output = Found> + Send + use<> {
        let result = self.is_own().then(|| self.result.clone());
        async move {
            let Some(result) = result else {
                return Ok(None);
            };
            let Some(receiver) = result.lock().await.take() else {
                return Ok(None);
            };
            // Without a result, the task was aborted.
            receiver.await.unwrap_or(Ok(None))
        }
    }
}

#[pymethods]
impl Computation {
    /// Waits until there is a value, which it returns, or until this caller has to compute it.
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        if !self.is_own() {
            return Ok(None);
        }
        let found = waiting::wait(py, self.waited())?;
        Ok(found.map(|value| PyBytes::new(py, &value)))
    }

    /// Gives the computed value to all callers, and writes it. Returns the value that is there now.
    fn finish<'py>(&self, py: Python<'py>, value: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let value = Bytes::copy_from_slice(value);
        if !self.is_own() {
            // The call is that of the parent, which may return its value too.
            return Ok(PyBytes::new(py, &value));
        }
        let found = waiting::wait(py, self.finished(value.clone()))?;
        Ok(PyBytes::new(py, &found.unwrap_or(value)))
    }

    /// Lets another caller compute. Returns the stale value, if there is one.
    fn fail<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        if !self.is_own() {
            return Ok(None);
        }
        let found = waiting::wait(py, self.failed())?;
        Ok(found.map(|value| PyBytes::new(py, &value)))
    }

    /// Lets another caller compute, unless the call has ended. Does not wait.
    fn abandon(&self) {
        // A child has none of the tasks.
        if self.is_own() {
            self.task.abort();
        }
    }

    /// Begins `wait`.
    fn begin_wait(&self, py: Python<'_>, bell: &Bell, number: u64) -> PyResult<()> {
        let waited = self.waited();
        bell.spawn(py, number, async { Outcome::Value(waited.await) })
    }

    /// Begins `finish`.
    fn begin_finish(&self, py: Python<'_>, bell: &Bell, number: u64, value: &[u8]) -> PyResult<()> {
        let finished = self.finished(Bytes::copy_from_slice(value));
        bell.spawn(py, number, async { Outcome::Value(finished.await) })
    }

    /// Begins `fail`.
    fn begin_fail(&self, py: Python<'_>, bell: &Bell, number: u64) -> PyResult<()> {
        let failed = self.failed();
        bell.spawn(py, number, async { Outcome::Value(failed.await) })
    }
}

impl Drop for Computation {
    fn drop(&mut self) {
        if self.is_own() {
            self.task.abort();
        } else {
            // The parent's task may hold the locks inside.
            std::mem::forget(self.result.clone());
            let steps = self.steps.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::mem::forget((steps.turn.take(), steps.value.take()));
        }
    }
}

/// Returns the value under a key. If there is none, asks for it once.
async fn find(cache: &Cache<Bytes, Raw>, key: &[u8], policy: ComputePolicy, duty: Duty) -> Found {
    let duty = Mutex::new(Some(duty));
    let take = || duty.lock().unwrap_or_else(PoisonError::into_inner).take();
    loop {
        let compute = async || {
            let Duty { turn, value } = take().ok_or(Failed)?;
            // The caller is gone if this fails, and the value is not wanted any more.
            turn.send(()).map_err(|()| Failed)?;
            value.await.map_err(|_| Failed)
        };
        match cache.get_or_try_set(key, policy.clone(), compute).await {
            Ok(value) => return Ok(Some(value)),
            Err(ComputeError::Invalid(error)) => return Err(error),
            Err(ComputeError::Failed(_)) => {
                let has_computed = duty
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .is_none();
                if has_computed {
                    return Ok(None);
                }
                // Another caller has failed: this one computes, or waits for the next one.
            }
        }
    }
}
