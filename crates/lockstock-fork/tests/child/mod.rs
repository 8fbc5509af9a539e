//! Children of the test process, made by `fork`.

use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{any, env, io};

/// Longer than a child runs on a busy machine. A child that hangs fails its test.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Set in the process that runs one test.
const ALONE: &str = "LOCKSTOCK_FORK_TEST";

/// Runs a test in a process of its own, and fails unless it passes there. Returns false in that
/// process, where the test goes on.
///
/// Another test may hold a lock of the standard library at the moment of a fork, as when it starts a
/// thread, and the child would wait for that lock without end.
pub(crate) fn ran_alone<T: Fn()>(test: T) -> bool {
    let _ = test;
    let path = any::type_name::<T>();
    let (_, name) = path.split_once("::").expect("a test is in a module");
    if env::var_os(ALONE).is_some_and(|alone| alone == name) {
        return false;
    }
    let mut command = Command::new(env::current_exe().expect("a test has a path"));
    command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(ALONE, name);
    // SAFETY: `signal` is safe after `fork`.
    unsafe {
        command.pre_exec(|| {
            // Then the main function of Rust installs no handler for overflows of the stack, as in a
            // process of another language. That handler has a mutex which every thread that starts
            // locks, and a fork of the test itself may come at that moment.
            for signal in [libc::SIGSEGV, libc::SIGBUS] {
                libc::signal(signal, libc::SIG_IGN);
            }
            Ok(())
        });
    }
    let output = command.output().expect("the test process starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    let failures = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{}\n{printed}\n{failures}",
        output.status
    );
    true
}

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
        // Ends it if its parent is killed, which would otherwise do that.
        // SAFETY: has no preconditions.
        unsafe { libc::alarm(2 * TIMEOUT.as_secs() as libc::c_uint) };
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
