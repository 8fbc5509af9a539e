//! The runtime of a process for callers that have none: one worker thread, started at the first
//! need.
//!
//! Every wait of a blocking caller for the asynchronous store is a [`wait`].

use lockstock_fork::PerProcess;
use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};

use crate::error::{Error, Result};

/// Never dropped: guards release in the background to the end of the process. A child of `fork`
/// has none of the threads, and starts its own.
static RUNTIME: PerProcess<Runtime> = PerProcess::new();

/// Waits for a future.
///
/// # Panics
///
/// In an asynchronous task, which would block its runtime.
pub(crate) fn wait<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    runtime()?.block_on(future)
}

/// Makes the runtime that of the present thread, until the guard is dropped: for what is created
/// on a runtime.
pub(crate) fn enter() -> Result<EnterGuard<'static>> {
    Ok(runtime()?.enter())
}

/// Panics in an asynchronous task, whatever the call would need: otherwise it would depend on the
/// state of a server.
pub(crate) fn assert_may_block() -> Result<()> {
    // On a thread for blocking work of a runtime, as of `spawn_blocking`, there is a runtime, and
    // only its own `block_on` knows that it may be blocked.
    match Handle::try_current() {
        Err(_) => Ok(()),
        Ok(_) => wait(async { Ok(()) }),
    }
}

fn runtime() -> Result<&'static Runtime> {
    RUNTIME.get_or_try_init(|| {
        Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("lockstock")
            .enable_all()
            .build()
            .map_err(|error| Error::unavailable(format!("cannot start a runtime: {error}")))
    })
}
