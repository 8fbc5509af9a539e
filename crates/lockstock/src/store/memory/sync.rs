//! Where another task may come in between: a mutex and a timer. Built with `--cfg shuttle`
//! they are shuttle's, which then tries out who comes first (`interleavings.rs`).

#[cfg(not(shuttle))]
pub(super) use std::sync::{Mutex, MutexGuard};

#[cfg(shuttle)]
pub(super) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(not(shuttle))]
pub(super) use tokio::time::sleep_until;

/// Time does not pass there: a timer is a chance for the others, and then fires too early.
#[cfg(shuttle)]
pub(super) async fn sleep_until(_: tokio::time::Instant) {
    shuttle::future::yield_now().await;
}
