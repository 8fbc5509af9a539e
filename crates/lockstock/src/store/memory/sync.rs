//! The two points at which another task may run: a mutex and a timer.
//!
//! Built with `--cfg shuttle` both are shuttle's, which then explores the orders of events
//! (`shuttle_tests.rs`).

#[cfg(not(shuttle))]
pub(super) use std::sync::{Mutex, MutexGuard};

#[cfg(shuttle)]
pub(super) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(shuttle))]
pub(super) use tokio::time::sleep_until;

/// Yields to the other tasks and then fires too early: under shuttle no time passes.
#[cfg(shuttle)]
pub(super) async fn sleep_until(_: tokio::time::Instant) {
    shuttle::future::yield_now().await;
}
