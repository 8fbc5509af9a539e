//! A child process that does not outlive the test.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// How long a signal may take to show its effect. Far beyond what a loaded
/// machine needs; reaching it is a failure.
const EFFECT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(2);

/// A child process and all that it starts.
///
/// Killed on drop, and killed by the kernel if the test process dies first.
/// [`kill`](Process::kill), [`pause`](Process::pause) and
/// [`resume`](Process::resume) reach the child's own children too, in whatever
/// process group or session they are.
///
/// ```
/// use lockstock_testkit::Process;
/// use std::process::Command;
/// use std::time::Duration;
///
/// let mut command = Command::new("sleep");
/// command.arg("600");
/// let sleeper = Process::spawn(command).unwrap();
/// sleeper.pause();
/// assert!(sleeper.exited().is_none());
/// sleeper.resume();
/// sleeper.terminate();
/// let status = sleeper.wait(Duration::from_secs(10)).expect("SIGTERM ends sleep");
/// assert!(!status.success());
/// ```
#[derive(Debug)]
pub struct Process {
    id: u32,
    child: Mutex<Child>,
}

impl Process {
    /// Starts `command` in a process group of its own.
    ///
    /// The error is the operating system's; `NotFound` when there is no such
    /// program.
    pub fn spawn(command: Command) -> io::Result<Process> {
        let child = spawner(command)?;
        live().insert(child.id());
        Ok(Process {
            id: child.id(),
            child: Mutex::new(child),
        })
    }

    /// The child's process id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The child's standard input, if it was piped and not yet taken.
    pub fn take_stdin(&self) -> Option<ChildStdin> {
        self.child().stdin.take()
    }

    /// The child's standard output, if it was piped and not yet taken.
    pub fn take_stdout(&self) -> Option<ChildStdout> {
        self.child().stdout.take()
    }

    /// The child's standard error, if it was piped and not yet taken.
    pub fn take_stderr(&self) -> Option<ChildStderr> {
        self.child().stderr.take()
    }

    /// How the child ended, or `None` while it runs (or stands still).
    pub fn exited(&self) -> Option<ExitStatus> {
        let mut child = self.child();
        let status = child
            .try_wait()
            .unwrap_or_else(|error| panic!("cannot wait for process {}: {error}", self.id));
        if status.is_some() {
            live().remove(&self.id);
        }
        status
    }

    /// Waits for the child to end by itself, for `limit` at most.
    pub fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        poll(limit, || self.exited())
    }

    /// SIGKILL: the child and all its descendants are gone when this returns.
    ///
    /// Without effect on a child that has already ended.
    pub fn kill(&self) -> ExitStatus {
        if let Some(status) = self.exited() {
            return status;
        }
        kill_tree(self.id);
        let status = self
            .child()
            .wait()
            .unwrap_or_else(|error| panic!("cannot wait for process {}: {error}", self.id));
        live().remove(&self.id);
        status
    }

    /// SIGTERM to the child alone: a polite request to stop. Does not wait.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Any signal (a `libc` number) to the child alone. Does not wait.
    ///
    /// Without effect on a child that has already ended.
    pub fn signal(&self, signal: i32) {
        // Asked first: the id of a child that was waited for may be another's.
        if self.exited().is_none() {
            send(self.id, signal);
        }
    }

    /// SIGSTOP: the child and all its descendants stand still when this
    /// returns, in the middle of whatever they were doing.
    ///
    /// Its connections stay open, and the kernel still accepts new ones on its
    /// behalf: to a client it is there, and silent.
    pub fn pause(&self) {
        assert!(self.exited().is_none(), "process {} has ended", self.id);
        stop_tree(self.id);
    }

    /// SIGCONT, after [`pause`](Process::pause).
    pub fn resume(&self) {
        assert!(self.exited().is_none(), "process {} has ended", self.id);
        for id in descendants(self.id) {
            send(id, libc::SIGCONT);
        }
        send(self.id, libc::SIGCONT);
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks `condition` until it gives something, for `limit` at most.
pub(crate) fn poll<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(POLL);
    }
}

/// SIGKILL to every child that is still there; for the end of the process.
pub(crate) fn kill_all() {
    for id in std::mem::take(&mut *live()) {
        // Nobody may have waited for it, so its id is still its own.
        kill_tree(id);
    }
}

/// Children that were started and not yet waited for.
fn live() -> MutexGuard<'static, BTreeSet<u32>> {
    static LIVE: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts every child from one thread that lives as long as the process.
///
/// `PR_SET_PDEATHSIG` fires when the *thread* that forked ends, not the
/// process. A server kept in a `static` would die with the test that happened
/// to start it.
fn spawner(mut command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::SyncSender<io::Result<Child>>);
    static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::Builder::new()
            .name("testkit-spawner".into())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("a thread to start processes from");
        orders
    });

    let parent = std::process::id();
    command.process_group(0);
    // SAFETY: between fork and exec the closure makes system calls only; it
    // neither allocates nor locks.
    unsafe {
        command.pre_exec(move || {
            // Runs after the change of user that a Command may ask for, which
            // would clear it again.
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before that took hold.
            if libc::getppid() as u32 != parent {
                libc::_exit(1);
            }
            Ok(())
        });
    }
    let (answer, result) = mpsc::sync_channel(1);
    SPAWNER
        .send((command, answer))
        .expect("the spawner never ends");
    result.recv().expect("the spawner always answers")
}

fn send(id: u32, signal: i32) {
    // SAFETY: kill(2) takes plain numbers. A process that is gone is ESRCH,
    // and that is as good as delivered.
    unsafe {
        libc::kill(id as libc::pid_t, signal);
    }
}

/// Stops the root before looking for its children: a stopped process starts no
/// more of them and reaps none, so their ids stay theirs.
fn stop_tree(id: u32) -> Vec<u32> {
    send(id, libc::SIGSTOP);
    let stopped = poll(EFFECT, || at_rest(id).then_some(()));
    assert!(stopped.is_some(), "process {id} did not stop on SIGSTOP");
    let mut tree = Vec::new();
    for child in children(id) {
        tree.extend(stop_tree(child));
    }
    tree.push(id);
    tree
}

fn kill_tree(id: u32) {
    let tree = stop_tree(id);
    for id in &tree {
        send(*id, libc::SIGKILL);
    }
    for id in tree {
        let gone = poll(EFFECT, || {
            matches!(state(id), None | Some('Z' | 'X')).then_some(())
        });
        assert!(gone.is_some(), "process {id} did not end on SIGKILL");
    }
}

/// Every descendant, the furthest first.
fn descendants(id: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for child in children(id) {
        all.extend(descendants(child));
        all.push(child);
    }
    all
}

fn children(id: u32) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|process| {
            stat(&format!("/proc/{process}/stat")).is_some_and(|(_, ppid)| ppid == id)
        })
        .collect()
}

/// Whether all threads of a process are stopped, or it has ended.
fn at_rest(id: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{id}/task")) else {
        return true;
    };
    threads.flatten().all(|thread| {
        let path = thread.path().join("stat");
        match stat(path.to_str().unwrap_or_default()) {
            Some((state, _)) => matches!(state, 'T' | 't' | 'Z' | 'X'),
            None => true,
        }
    })
}

fn state(id: u32) -> Option<char> {
    stat(&format!("/proc/{id}/stat")).map(|(state, _)| state)
}

/// State and parent of a process: the two fields after the name, which is in
/// parentheses and may itself hold spaces and parentheses.
fn stat(path: &str) -> Option<(char, u32)> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut fields = text[text.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

/// What a child ended with, for messages.
pub(crate) fn describe(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("killed by signal {signal}"),
        None => format!("ended with {status}"),
    }
}
