//! A lock that is held.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lockstock::blocking::{self, Guard};
use pyo3::prelude::*;

use crate::bell::{Bell, Outcome};
use crate::error;

/// A lock that is held until it is released, kept or lost. A child of `fork` does not own it: only
/// an explicit `release` has an effect there.
#[pyclass(frozen, module = "lockstock._core")]
pub(crate) struct Held {
    /// `None` once it is released or kept.
    guard: Mutex<Option<Guard>>,
    #[pyo3(get)]
    token: String,
    #[pyo3(get)]
    fence: u64,
}

impl Held {
    pub(crate) fn new(store: &blocking::Store, guard: lockstock::Guard) -> Self {
        let guard = Guard::from_asynchronous(store, guard);
        Self {
            token: guard.id().to_string(),
            fence: guard.fence(),
            guard: Mutex::new(Some(guard)),
        }
    }

    fn with<T>(&self, read: impl FnOnce(Option<&Guard>) -> T) -> T {
        read(
            self.guard
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_ref(),
        )
    }

    fn take(&self) -> Option<Guard> {
        self.guard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

#[pymethods]
impl Held {
    /// When the lease ends, as `time.monotonic()` counts.
    #[getter]
    fn deadline(&self) -> f64 {
        now() + self.remaining()
    }

    /// Whether another client may hold the lock now.
    #[getter]
    fn lost(&self) -> bool {
        self.with(|guard| guard.is_none_or(Guard::is_lost))
    }

    /// Returns the seconds until the lease ends.
    fn remaining(&self) -> f64 {
        self.with(|guard| guard.map_or(Duration::ZERO, Guard::remaining))
            .as_secs_f64()
    }

    /// Releases the lock. Returns whether it was still held.
    fn release(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(guard) = self.take() else {
            return Ok(false);
        };
        is_held(py, py.detach(|| guard.release()))
    }

    /// Leaves the lock held to the end of its lease. Returns whether it was still held.
    fn keep(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(guard) = self.take() else {
            return Ok(false);
        };
        is_held(py, py.detach(|| guard.keep()))
    }

    /// Adds to the lease. Returns whether the lock was still held.
    fn extend(&self, py: Python<'_>, by_ms: u64) -> PyResult<bool> {
        let extended = py.detach(|| {
            self.with(|guard| guard.map(|guard| guard.extend(Duration::from_millis(by_ms))))
        });
        extended.map_or(Ok(false), |extended| is_held(py, extended))
    }

    /// Starts the lease again. Returns whether the lock was still held.
    fn renew(&self, py: Python<'_>) -> PyResult<bool> {
        let renewed = py.detach(|| self.with(|guard| guard.map(Guard::renew)));
        renewed.map_or(Ok(false), |renewed| is_held(py, renewed))
    }

    /// Begins to release the lock. The bell delivers whether it was still held.
    fn begin_release(&self, py: Python<'_>, bell: &Bell, number: u64) -> PyResult<()> {
        let guard = self.take();
        let asynchronous = guard.and_then(Guard::into_asynchronous);
        bell.spawn(py, number, async move {
            Outcome::Held(match asynchronous {
                Some(guard) => held(guard.release().await),
                None => Ok(false),
            })
        })
    }

    /// Begins to keep the lock. The bell delivers whether it was still held.
    fn begin_keep(&self, py: Python<'_>, bell: &Bell, number: u64) -> PyResult<()> {
        let guard = self.take();
        let asynchronous = guard.and_then(Guard::into_asynchronous);
        bell.spawn(py, number, async move {
            Outcome::Held(match asynchronous {
                Some(guard) => held(guard.keep().await),
                None => Ok(false),
            })
        })
    }
}

fn held(result: lockstock::Result<()>) -> lockstock::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(failure) if failure.is_lost() => Ok(false),
        Err(failure) => Err(failure),
    }
}

fn is_held(py: Python<'_>, result: lockstock::Result<()>) -> PyResult<bool> {
    held(result).map_err(|failure| error::raised(py, &failure))
}

/// Returns what `time.monotonic()` does.
fn now() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}
