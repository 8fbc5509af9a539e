//! Children of the test process, made by `fork`.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longer than a child runs on a busy machine. A child that hangs fails its test.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A child that runs. Killed on drop.
pub(crate) struct Child {
    id: libc::pid_t,
    begun: Instant,
}

/// Runs `work` in a child, and fails unless it returns there.
pub(crate) fn succeeds(work: impl FnOnce()) {
    fork(work).succeeds();
}

/// Starts a child that runs `work` and exits, without destructors and exit handlers.
pub(crate) fn fork(work: impl FnOnce()) -> Child {
    let begun = Instant::now();
    // SAFETY: the child runs `work` on its only thread and never returns from here.
    let id = unsafe { libc::fork() };
    assert!(id >= 0, "cannot fork: {}", io::Error::last_os_error());
    if id == 0 {
        let result = catch_unwind(AssertUnwindSafe(work));
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(result.is_err())) }
    }
    Child { id, begun }
}

impl Child {
    /// Waits until the child has exited, and fails unless it succeeded.
    pub(crate) fn succeeds(mut self) {
        while self.begun.elapsed() < TIMEOUT {
            let mut status = 0;
            // SAFETY: `id` is a child that has not been waited for; `status` is valid.
            match unsafe { libc::waitpid(self.id, &raw mut status, libc::WNOHANG) } {
                0 => sleep(Duration::from_millis(1)),
                id if id == self.id => {
                    self.id = 0;
                    assert_eq!(status, 0, "the child failed");
                    return;
                }
                _ => panic!("cannot wait: {}", io::Error::last_os_error()),
            }
        }
        panic!("the child hangs");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.id > 0 {
            // SAFETY: `id` is a child that has not been waited for.
            unsafe {
                libc::kill(self.id, libc::SIGKILL);
                libc::waitpid(self.id, std::ptr::null_mut(), 0);
            }
        }
    }
}
