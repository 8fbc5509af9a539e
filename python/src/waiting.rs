//! How a thread of Python waits for the runtime: on a descriptor, so that a signal interrupts the
//! wait, and so that gevent or eventlet can run other greenlets meanwhile.

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lockstock::blocking::Store;
use lockstock_fork::generation;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, write};
use tokio::sync::oneshot;

use crate::error;

/// How long the main thread polls at most before it looks for signals: one that arrives between the
/// last look and the poll does not interrupt the poll.
const MAX_POLL: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Runs a future on the runtime of this process and waits for it. If a signal handler raises, the
/// future is dropped, and the exception goes on.
pub(crate) fn wait<T: Send + 'static>(
    py: Python<'_>,
    future: impl Future<Output = lockstock::Result<T>> + Send + 'static,
) -> PyResult<T> {
    let runtime = Store::runtime().map_err(|failure| error::raised(py, &failure))?;
    let signal = Signal::of_thread()?;
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
        // The task may still set the signal, which is not used again.
        Store::abort(task);
        return Err(interrupt);
    }
    signal.keep();
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
    /// The other end of a pipe, where there is no eventfd.
    #[cfg(not(target_os = "linux"))]
    sender: OwnedFd,
    is_set: AtomicBool,
}

thread_local! {
    /// The signal of the last wait of this thread, so that a wait does not open a descriptor, and the
    /// generation of processes in which it was opened: a child shares it with its parent.
    static KEPT: Cell<Option<(u64, Arc<Signal>)>> = const { Cell::new(None) };
}

impl Signal {
    /// Returns a signal that is not set, and that no other wait uses: another greenlet of the thread
    /// may be waiting.
    fn of_thread() -> std::io::Result<Arc<Self>> {
        match KEPT.take() {
            Some((opened_in, signal)) if opened_in == generation() => Ok(signal),
            _ => Ok(Arc::new(Self::new()?)),
        }
    }

    /// Keeps a signal for the next wait of this thread. It was set, and is not set any more.
    fn keep(self: Arc<Self>) {
        self.clear();
        KEPT.set(Some((generation(), self)));
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn new() -> std::io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};

        Ok(Self {
            descriptor: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            is_set: AtomicBool::new(false),
        })
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new() -> std::io::Result<Self> {
        // Closed by exec, as all descriptors of the standard library.
        let (receiver, sender) = std::io::pipe()?;
        let (descriptor, sender) = (OwnedFd::from(receiver), OwnedFd::from(sender));
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        rustix::io::ioctl_fionbio(&sender, true)?;
        Ok(Self {
            descriptor,
            sender,
            is_set: AtomicBool::new(false),
        })
    }

    #[cfg(target_os = "linux")]
    fn sender(&self) -> &OwnedFd {
        &self.descriptor
    }

    #[cfg(not(target_os = "linux"))]
    fn sender(&self) -> &OwnedFd {
        &self.sender
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Makes it readable. Called on any thread.
    pub(crate) fn set(&self) {
        if !self.is_set.swap(true, Ordering::SeqCst) {
            // Fails only if the counter would overflow, or the pipe is full: then it is readable.
            let _ = write(self.sender(), &1_u64.to_ne_bytes());
        }
    }

    /// Makes it unreadable again.
    pub(crate) fn clear(&self) {
        let _ = rustix::io::read(&self.descriptor, &mut [0; 8]);
        self.is_set.store(false, Ordering::SeqCst);
    }

    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(hub) = hub(py)? {
            return hub.wait_read(self.descriptor.as_raw_fd());
        }
        let is_main = is_main_thread(py)?;
        while !self.poll(py, is_main)? {
            // Only the main thread runs signal handlers.
            py.check_signals()?;
        }
        Ok(())
    }

    /// Returns whether it is readable now. In the main thread, a signal and the time limit end
    /// the poll. Other threads stay without the interpreter, which may end meanwhile.
    fn poll(&self, py: Python<'_>, is_main: bool) -> std::io::Result<bool> {
        let limit = is_main.then_some(&MAX_POLL);
        py.detach(|| {
            loop {
                let mut polled = [PollFd::new(&self.descriptor, PollFlags::IN)];
                match poll(&mut polled, limit) {
                    Err(Errno::INTR) if !is_main => {}
                    Err(Errno::INTR) => return Ok(false),
                    Ok(ready) => return Ok(ready > 0),
                    Err(failure) => return Err(failure.into()),
                }
            }
        })
    }
}

/// Returns whether this may be the thread that runs signal handlers. Other threads need not attach to the
/// interpreter, which may be ending.
pub(crate) fn may_run_handlers() -> bool {
    #[cfg(target_os = "linux")]
    return rustix::thread::gettid() == rustix::process::getpid();
    // Only the interpreter knows.
    #[cfg(not(target_os = "linux"))]
    true
}

/// Returns whether this is the thread that runs signal handlers.
#[cfg(target_os = "linux")]
#[expect(
    clippy::unnecessary_wraps,
    reason = "elsewhere it asks the interpreter"
)]
fn is_main_thread(_: Python<'_>) -> PyResult<bool> {
    Ok(may_run_handlers())
}

/// Returns whether this is the thread that runs signal handlers.
#[cfg(not(target_os = "linux"))]
fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    let threading = py.import("threading")?;
    let main = threading.call_method0("main_thread")?.getattr("ident")?;
    threading.call_method0("get_ident")?.eq(main)
}

/// The scheduler of greenlets: a thread that blocks in a system call would block them all.
pub(crate) enum Hub<'py> {
    Gevent(Bound<'py, PyAny>),
    Eventlet(Bound<'py, PyAny>),
}

impl Hub<'_> {
    fn wait_read(&self, descriptor: i32) -> PyResult<()> {
        match self {
            Self::Gevent(wait_read) => wait_read.call1((descriptor,))?,
            Self::Eventlet(trampoline) => trampoline.call1((descriptor, true))?,
        };
        Ok(())
    }
}

/// Returns the hub of gevent or eventlet, if it has patched the sockets of this process.
///
/// The first call is that of the import of this module. It makes the dictionary and the names that
/// later calls share; other threads may run meanwhile, and a child that one of them forks would wait
/// without end for what is half made.
pub(crate) fn hub(py: Python<'_>) -> PyResult<Option<Hub<'_>>> {
    static MODULES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let modules = MODULES.get_or_try_init(py, || {
        let modules = py.import("sys")?.getattr("modules")?;
        Ok::<_, PyErr>(modules.cast_into::<PyDict>()?.unbind())
    })?;
    let modules = modules.bind(py);
    let (gevent, eventlet) = (
        intern!(py, "gevent.monkey"),
        intern!(py, "eventlet.patcher"),
    );
    let is_patched = |module: &Bound<'_, PyString>, predicate: &str| {
        let Some(module) = modules.get_item(module)? else {
            return Ok(false);
        };
        module
            .call_method1(predicate, ("socket",))?
            .extract::<bool>()
    };
    if is_patched(gevent, "is_module_patched")? {
        let wait_read = py.import("gevent.socket")?.getattr("wait_read")?;
        return Ok(Some(Hub::Gevent(wait_read)));
    }
    if is_patched(eventlet, "is_monkey_patched")? {
        let trampoline = py.import("eventlet.hubs")?.getattr("trampoline")?;
        return Ok(Some(Hub::Eventlet(trampoline)));
    }
    Ok(None)
}
