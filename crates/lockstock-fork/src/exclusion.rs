//! Work and forks that exclude each other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use crate::generation;

/// Threads that are in work, and threads that fork. Of this process: a child sets both to 0.
static WORKING: AtomicUsize = AtomicUsize::new(0);
static FORKING: AtomicUsize = AtomicUsize::new(0);

const PAUSE: Duration = Duration::from_micros(50);
/// How many pauses a fork or work waits: about a second. Never without end: a signal handler may fork
/// on the thread that works.
const MAX_PAUSES: u32 = 10_000;

/// Runs `work` while no other thread forks.
///
/// A fork waits until `work` is done, at most for about a second, so `work` must be short. It must
/// not fork, or wait for a thread that does.
pub fn without_fork<T>(work: impl FnOnce() -> T) -> T {
    // Also on a panic.
    struct Working;
    impl Drop for Working {
        fn drop(&mut self) {
            WORKING.fetch_sub(1, Ordering::SeqCst);
        }
    }

    // Registers the handlers.
    generation();
    for _ in 0..MAX_PAUSES {
        WORKING.fetch_add(1, Ordering::SeqCst);
        let working = Working;
        if FORKING.load(Ordering::SeqCst) == 0 {
            let done = work();
            drop(working);
            return done;
        }
        drop(working);
        sleep(PAUSE);
    }
    work()
}

/// Runs in the parent, before the fork.
pub(crate) extern "C" fn begin_fork() {
    FORKING.fetch_add(1, Ordering::SeqCst);
    for _ in 0..MAX_PAUSES {
        if WORKING.load(Ordering::SeqCst) == 0 {
            return;
        }
        sleep(PAUSE);
    }
}

/// Runs in the parent, after the fork.
pub(crate) extern "C" fn end_fork() {
    FORKING.fetch_sub(1, Ordering::SeqCst);
}

/// Runs in the child, which has no other thread.
pub(crate) fn begin_child() {
    WORKING.store(0, Ordering::SeqCst);
    FORKING.store(0, Ordering::SeqCst);
}
