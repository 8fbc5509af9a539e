//! The processes of one test, and what they contend for.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use lockstock_testkit::{Postgres, Process, Proxy, Redis};

use crate::register::Judge;
use crate::worker::{Faults, Job, ORDERS};

/// Longer than anything takes on a busy machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// How often a condition is checked. Each check runs `psql`, which takes CPU time from the
/// processes under test.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// One for all tests: it takes longer to start than most of them. The judge needs no durability.
static POSTGRES: LazyLock<Postgres> =
    LazyLock::new(|| Postgres::start_with(&["-c", "fsync=off", "-c", "synchronous_commit=off"]));

pub(crate) struct Crew {
    pub(crate) redis: Redis,
    pub(crate) judge: Judge,
    pub(crate) members: Vec<Member>,
    job: Job,
    hired: u64,
}

/// One process and the network between it and Redis.
pub(crate) struct Member {
    pub(crate) number: u64,
    pub(crate) process: Process,
    pub(crate) proxy: Proxy,
    messages: Receiver<String>,
    stdin: Option<ChildStdin>,
}

impl Crew {
    pub(crate) fn new(
        test: &'static str,
        redis: Redis,
        names: &[&str],
        lease: Duration,
        faults: Faults,
    ) -> Self {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let judge = Judge::of(&POSTGRES, test, &names);
        let job = Job {
            number: 0,
            redis: String::new(),
            register: judge.url.clone(),
            tasks: 1,
            lease,
            faults,
            names,
        };
        Self {
            redis,
            judge,
            members: Vec::new(),
            job,
            hired: 0,
        }
    }

    /// Starts another process with that many tasks.
    pub(crate) fn hire(&mut self, tasks: u64) {
        self.hired += 1;
        let proxy = Proxy::start(self.redis.address());
        let mut job = self.job.clone();
        (job.number, job.tasks) = (self.hired, tasks);
        // Without faults there is no proxy, so that only the lock determines the speed.
        job.redis = match job.faults {
            Faults::None => self.redis.url(),
            _ => format!("redis://{}/0", proxy.address()),
        };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "one_process", "--ignored", "--nocapture"])
            .env(ORDERS, job.to_line())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let process = Process::spawn(command).unwrap();
        let stdout = process.take_stdout().unwrap();
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(words) = line.strip_prefix("> ") {
                    let _ = sender.send(words.to_owned());
                }
            }
        });
        let stdin = process.take_stdin();
        self.members.push(Member {
            number: self.hired,
            process,
            proxy,
            messages,
            stdin,
        });
    }

    /// Kills a process with SIGKILL and starts another in its place.
    pub(crate) fn replace(&mut self, index: usize, tasks: u64) {
        let gone = self.members.remove(index);
        self.assert_running(&gone);
        gone.process.kill();
        self.hire(tasks);
    }

    /// Panics if a process has ended by itself, as it does only after a failure.
    pub(crate) fn assert_all_running(&self) {
        self.members
            .iter()
            .for_each(|member| self.assert_running(member));
    }

    fn assert_running(&self, member: &Member) {
        if let Some(status) = member.process.exited() {
            panic!("process {} has ended: {status}", member.number);
        }
    }

    /// Waits until `done`. Panics if a process ends or the time is up.
    pub(crate) fn progress_until(
        &self,
        what: &str,
        within: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) {
        let begun = Instant::now();
        while !done(self) {
            self.assert_all_running();
            assert!(begun.elapsed() < within, "{what}: not within {within:?}");
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Panics unless each process still acquires locks and writes.
    pub(crate) fn all_progress(&self, within: Duration) {
        let before: Vec<_> = self
            .members
            .iter()
            .map(|member| self.judge.written_by(member.number))
            .collect();
        self.progress_until("progress of all", within, |crew| {
            crew.members
                .iter()
                .zip(&before)
                .all(|(member, before)| crew.judge.written_by(member.number) >= before + 3)
        });
    }

    /// Returns the first process to print `words`.
    pub(crate) fn first_to_say(&self, words: &str) -> usize {
        let begun = Instant::now();
        while begun.elapsed() < TIMEOUT {
            for (index, member) in self.members.iter().enumerate() {
                if let Ok(message) = member.messages.recv_timeout(Duration::from_millis(5)) {
                    assert_eq!(message, words, "process {}", member.number);
                    return index;
                }
            }
        }
        panic!("no process printed {words}");
    }

    /// Returns how many processes wait for `name`.
    pub(crate) fn queued(&self, name: &str) -> u64 {
        let queue = format!("lockstock:{{{name}}}:queue");
        let count = self.redis.command(&["ZCARD", &queue]);
        count.unwrap().parse().unwrap()
    }

    /// Ends all processes, and panics if they leave anything behind.
    pub(crate) fn dismiss(&mut self) {
        for member in &mut self.members {
            member.stdin = None;
        }
        for member in self.members.drain(..) {
            let status = member.process.wait(TIMEOUT);
            let status = status.unwrap_or_else(|| panic!("process {} does not end", member.number));
            assert!(status.success(), "process {}: {status}", member.number);
            for words in member.messages.iter() {
                println!("process {}: {words}", member.number);
            }
        }
        self.judge.check();
        let keys = || {
            let keys = self.redis.command(&["KEYS", "*"]).unwrap();
            keys.lines().filter(|&key| key != "lockstock:clock").count()
        };
        // A lock that was kept, or held by a killed process, remains until its lease ends. A
        // lease that is not meant to end is longer than this timeout.
        self.progress_until("no key is left", TIMEOUT, |_| keys() == 0);
    }
}

impl Member {
    pub(crate) fn tell(&mut self, words: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{words}").unwrap();
    }

    /// Panics unless the next message is `words`.
    #[track_caller]
    pub(crate) fn expect(&self, words: &str) {
        assert_eq!(self.next(), words, "process {}", self.number);
    }

    #[track_caller]
    pub(crate) fn next(&self) -> String {
        let message = self.messages.recv_timeout(TIMEOUT);
        message.unwrap_or_else(|error| panic!("process {} is silent: {error}", self.number))
    }
}
