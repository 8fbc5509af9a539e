//! The native module of the Python package: stores, locks, and replies as Python objects.
//!
//! Synchronous calls run on the thread of the caller, over blocking sockets. A process has no
//! thread and no runtime until a lock or an event loop needs one.

mod bell;
mod cache;
mod compression;
mod computing;
mod error;
mod held;
mod key;
mod near;
mod reply;
mod store;
mod value;
mod waiting;

use pyo3::prelude::*;

/// The native module.
#[pymodule]
mod _core {
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
    use crate::store::Store;
}
