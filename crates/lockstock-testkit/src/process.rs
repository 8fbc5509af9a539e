//! A child process that does not outlive the test.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

/// Timeout for the effect of a signal, far longer than a loaded machine needs.
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

    /// Returns how the child ended, or `None` while it runs or is paused.
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

    /// Waits up to `limit` for the child to end by itself.
    pub fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        poll(limit, || self.exited())
    }

    /// Sends SIGKILL: the child and all its descendants are gone on return.
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

    /// Sends SIGTERM to the child alone. Does not wait.
    pub fn terminate(&self) {
        self.send(Signal::TERM);
    }

    /// Sends the signal with the number `signal` to the child alone. Does not wait.
    ///
    /// Without effect on a child that has already ended.
    pub fn signal(&self, signal: i32) {
        let named = Signal::from_named_raw(signal);
        self.send(named.unwrap_or_else(|| panic!("{signal} is no signal")));
    }

    fn send(&self, signal: Signal) {
        // Checked first: the id of a child that was waited for may be in use again.
        if self.exited().is_none() {
            send(self.id, signal);
        }
    }

    /// Sends SIGSTOP: the child and all its descendants are stopped on return,
    /// in the middle of any operation.
    ///
    /// Its connections stay open, and the kernel still accepts new ones on its
    /// behalf: to a client it is reachable and silent.
    pub fn pause(&self) {
        assert!(self.exited().is_none(), "process {} has ended", self.id);
        stop_tree(self.id);
    }

    /// Sends SIGCONT, after [`pause`](Process::pause).
    pub fn resume(&self) {
        assert!(self.exited().is_none(), "process {} has ended", self.id);
        for id in descendants(self.id) {
            send(id, Signal::CONT);
        }
        send(self.id, Signal::CONT);
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

/// Polls `condition` until it returns a value, for up to `limit`.
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

/// Kills every remaining child at the end of the test process.
pub(crate) fn kill_all() {
    for id in std::mem::take(&mut *live()) {
        // It has not been waited for, so its id is not in use again.
        kill_tree(id);
    }
}

/// Returns the children that have not been waited for.
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

    let parent = pid(std::process::id());
    command.process_group(0);
    // SAFETY: between fork and exec the closure makes system calls only; it
    // neither allocates nor locks.
    unsafe {
        command.pre_exec(move || {
            // Runs after the change of user that a Command may ask for, which
            // would clear it again.
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before that took effect.
            match getppid() == Some(parent) {
                true => Ok(()),
                false => Err(io::ErrorKind::NotFound.into()),
            }
        });
    }
    let (answer, result) = mpsc::sync_channel(1);
    SPAWNER
        .send((command, answer))
        .expect("the spawner never ends");
    result.recv().expect("the spawner always answers")
}

fn send(id: u32, signal: Signal) {
    // Fails if the process is gone, which is as good as delivered.
    let _ = kill_process(pid(id), signal);
}

fn pid(id: u32) -> Pid {
    i32::try_from(id)
        .ok()
        .and_then(Pid::from_raw)
        .unwrap_or_else(|| panic!("{id} is no process id"))
}

/// Stops the root before it lists the children: a stopped process starts no
/// more of them and reaps none, so their ids stay valid.
fn stop_tree(id: u32) -> Vec<u32> {
    send(id, Signal::STOP);
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
        send(*id, Signal::KILL);
    }
    for id in tree {
        let gone = poll(EFFECT, || {
            matches!(state(id), None | Some('Z' | 'X')).then_some(())
        });
        assert!(gone.is_some(), "process {id} did not end on SIGKILL");
    }
}

/// Returns every descendant, the furthest first.
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

/// Returns whether all threads of a process are stopped, or it has ended.
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

/// Returns state and parent of a process: the two fields after the name, which
/// is in parentheses and may contain spaces and parentheses.
fn stat(path: &str) -> Option<(char, u32)> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut fields = text[text.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

/// Describes how a child ended, for messages.
pub(crate) fn describe(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("killed by signal {signal}"),
        None => format!("ended with {status}"),
    }
}
