//! How a thread of Python waits for the runtime: on a descriptor, so that a signal interrupts the
//! wait, and so that gevent can run other greenlets meanwhile.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lockstock::blocking::Store;
use pyo3::prelude::*;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::{Errno, write};
use tokio::sync::oneshot;

use crate::error;

/// Runs a future on the runtime of this process and waits for it. If a signal handler raises, the
/// future is dropped, and the exception goes on.
pub(crate) fn wait<T: Send + 'static>(
    py: Python<'_>,
    future: impl Future<Output = lockstock::Result<T>> + Send + 'static,
) -> PyResult<T> {
    let runtime = Store::runtime().map_err(|failure| error::raised(py, &failure))?;
    let signal = Arc::new(Signal::new()?);
    let (sender, mut receiver) = oneshot::channel();
    let task = runtime.spawn({
        let signal = signal.clone();
        async move {
            // The receiver is gone after an interrupt: what the future returned is dropped.
            let _ = sender.send(future.await);
            signal.set();
        }
    });
    if let Err(interrupt) = signal.wait(py) {
        task.abort();
        return Err(interrupt);
    }
    match receiver.try_recv() {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(failure)) => Err(error::raised(py, &failure)),
        Err(_) => Err(error::new(
            py,
            "Unavailable",
            "the runtime is shutting down",
        )),
    }
}

/// A descriptor that becomes readable.
pub(crate) struct Signal {
    descriptor: OwnedFd,
    is_set: AtomicBool,
}

impl Signal {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            descriptor: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            is_set: AtomicBool::new(false),
        })
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.descriptor.as_fd()
    }

    /// Makes it readable. Called on any thread.
    pub(crate) fn set(&self) {
        if !self.is_set.swap(true, Ordering::SeqCst) {
            // Fails only if the counter would overflow: then it is readable.
            let _ = write(&self.descriptor, &1_u64.to_ne_bytes());
        }
    }

    /// Makes it unreadable again.
    pub(crate) fn clear(&self) {
        let _ = rustix::io::read(&self.descriptor, &mut [0; 8]);
        self.is_set.store(false, Ordering::SeqCst);
    }

    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(wait_read) = hub(py)? {
            wait_read.call1((self.descriptor.as_raw_fd(),))?;
            return Ok(());
        }
        loop {
            let polled = py.detach(|| {
                let mut polled = [PollFd::new(&self.descriptor, PollFlags::IN)];
                poll(&mut polled, None)
            });
            match polled {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => py.check_signals()?,
                Err(failure) => return Err(std::io::Error::from(failure).into()),
            }
        }
    }
}

/// Returns how gevent waits for a descriptor, if it has patched the sockets of this process.
fn hub(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    let modules = py.import("sys")?.getattr("modules")?;
    let Ok(monkey) = modules.get_item("gevent.monkey") else {
        return Ok(None);
    };
    let is_patched: bool = monkey
        .call_method1("is_module_patched", ("socket",))?
        .extract()?;
    if !is_patched {
        return Ok(None);
    }
    Ok(Some(py.import("gevent.socket")?.getattr("wait_read")?))
}
