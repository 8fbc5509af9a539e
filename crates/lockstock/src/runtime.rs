//! The runtime of a process for callers that have none, and how they wait: one worker thread,
//! started at the first need.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use lockstock_fork::{PerProcess, without_fork};
use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::error::{Error, Result};

/// Never dropped: guards release in the background to the end of the process. A child of `fork`
/// has none of the threads, and starts its own.
static RUNTIME: PerProcess<Runtime> = PerProcess::new();

/// What is sent to stores in the background, after its caller is gone.
static BACKGROUND: PerProcess<TaskTracker> = PerProcess::new();

/// Runs a future to its end on this thread, with the runtime for its timers and tasks.
///
/// # Panics
///
/// In an asynchronous task, which would block its runtime.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> Result<T> {
    assert_may_block()?;
    let _entered = enter()?;
    Ok(drive(future))
}

/// Runs a future to its end on this thread, without the runtime: for what is complete at once unless
/// it waits for a task that it has [spawned](spawn).
///
/// # Panics
///
/// In an asynchronous task, which would block its runtime.
pub(crate) fn complete<T>(future: impl Future<Output = T>) -> Result<T> {
    assert_may_block()?;
    Ok(drive(future))
}

/// Runs a future as a task of the runtime, and waits for it.
pub(crate) async fn spawn<T: Send + 'static>(
    future: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let task = runtime()?.spawn(future);
    task.await
        .unwrap_or_else(|error| Err(Error::unavailable(format!("a task ended: {error}"))))
}

/// Makes the runtime that of the present thread, until the guard is dropped: for what is created
/// on a runtime.
pub(crate) fn enter() -> Result<EnterGuard<'static>> {
    Ok(runtime()?.enter())
}

pub(crate) fn handle() -> Result<Handle> {
    Ok(runtime()?.handle().clone())
}

/// Returns the background tasks of this process.
pub(crate) fn background() -> &'static TaskTracker {
    BACKGROUND.get_or_init(|| {
        let tasks = TaskTracker::new();
        // `TaskTracker::wait` returns only once the tracker is closed. A closed tracker still accepts
        // tasks.
        tasks.close();
        tasks
    })
}

/// Waits for the background tasks of this process, at most until `limit` has passed. Starts nothing.
pub(crate) fn drain(limit: Duration) {
    if let (Some(runtime), Some(tasks)) = (RUNTIME.get(), BACKGROUND.get())
        && !tasks.is_empty()
    {
        // What is left after the limit ends with its lease.
        let _ = runtime.block_on(async { timeout(limit, tasks.wait()).await });
    }
}

/// Polls a future on this thread until it is ready. All waits of blocking callers are here.
fn drive<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = pin!(future);
    // Most are ready at once: over a socket of the caller.
    let mut context = Context::from_waker(Waker::noop());
    if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
        return done;
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(done) => return done,
            Poll::Pending => thread::park(),
        }
    }
}

/// Panics in an asynchronous task, whatever the call would need: otherwise a panic would depend on
/// the state of a server.
pub(crate) fn assert_may_block() -> Result<()> {
    // On a thread for blocking work of a runtime, as of `spawn_blocking`, and in work that a blocking
    // call runs, there is a runtime too. Only its `block_on` knows whether it may be blocked.
    if Handle::try_current().is_ok() {
        runtime()?.block_on(async {});
    }
    Ok(())
}

fn runtime() -> Result<&'static Runtime> {
    RUNTIME.get_or_try_init(|| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("lockstock");
        // The first runtime makes what all have in common, as for signals. A child would wait without
        // end for a thread of its parent that was making it at the fork.
        without_fork(|| builder.enable_all().build())
            .map_err(|error| Error::unavailable(format!("cannot start a runtime: {error}")))
    })
}
