//! The native module of the Python package: stores, locks, and replies as Python objects.
//!
//! Synchronous calls run on the thread of the caller, over blocking sockets. A process has no
//! thread and no runtime until a lock or an event loop needs one.

mod acquisition;
mod bell;
mod cache;
mod compression;
mod computing;
mod error;
mod held;
mod key;
mod near;
mod pending;
mod reply;
mod store;
mod value;
mod waiting;
mod wire;
mod wires;

use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

/// The native module.
#[pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::bell::Bell;
    #[pymodule_export]
    use crate::cache::Cache;
    #[pymodule_export]
    use crate::compression::{lz4_compress, lz4_decompress, zstd_compress, zstd_decompress};
    #[pymodule_export]
    use crate::computing::Computation;
    #[pymodule_export]
    use crate::held::Held;
    #[pymodule_export]
    use crate::near::NearCache;
    #[pymodule_export]
    use crate::pending::Pending;
    #[pymodule_export]
    use crate::store::Store;
    #[pymodule_export]
    use crate::wire::Wire;
    #[pymodule_export]
    use crate::wires::Wires;

    /// Waits until what is given up has reached its store, for a second at most. Called before the
    /// interpreter exits, after which no waiter could be withdrawn.
    #[pyfunction]
    fn drain(py: Python<'_>) {
        py.detach(|| lockstock::blocking::Store::drain_process(std::time::Duration::from_secs(1)));
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::accept_one_interpreter(module.py())?;
        // Registers the handlers of forks. One that begins before that would not run them.
        lockstock_fork::generation();
        let at_exit = module.py().import("atexit")?;
        at_exit.call_method1("register", (wrap_pyfunction!(drain, module)?,))?;
        crate::waiting::hub(module.py()).map(drop)
    }
}

/// Fails in all interpreters of a process but the first that imports the module: objects of that
/// one are kept in statics.
fn accept_one_interpreter(py: Python<'_>) -> PyResult<()> {
    // The address of its `sys`: every interpreter has one, which lives as long.
    static FIRST: AtomicUsize = AtomicUsize::new(0);
    let this = py.import("sys")?.as_ptr() as usize;
    let first = FIRST.compare_exchange(0, this, Ordering::AcqRel, Ordering::Acquire);
    match first {
        Ok(_) => Ok(()),
        Err(first) if first == this => Ok(()),
        Err(_) => Err(PyImportError::new_err(
            "lockstock cannot be used in several interpreters of one process. \
             With mod_wsgi, write: WSGIApplicationGroup %{GLOBAL}",
        )),
    }
}
