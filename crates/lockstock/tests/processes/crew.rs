//! The processes of one test, and what they contend for.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use lockstock_testkit::{Postgres, Process, Proxy, Redis};

use crate::register::Judge;
use crate::worker::{Faults, Job, ORDERS};

/// Beyond what anything here takes on a loaded machine, and no measure of speed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How often to look: each time costs a `psql`, which would take the processor from the others.
const LOOK: Duration = Duration::from_millis(200);

/// One for all tests: starting one takes longer than most of them. What it forgets in a power
/// failure is no concern of a judge who is asked right afterwards.
static POSTGRES: LazyLock<Postgres> =
    LazyLock::new(|| Postgres::start_with(&["-c", "fsync=off", "-c", "synchronous_commit=off"]));

pub(crate) struct Crew {
    pub(crate) redis: Redis,
    pub(crate) judge: Judge,
    pub(crate) members: Vec<Member>,
    job: Job,
    hired: u64,
}

/// One process, and the network between it and Redis.
pub(crate) struct Member {
    pub(crate) number: u64,
    pub(crate) process: Process,
    pub(crate) proxy: Proxy,
    said: Receiver<String>,
    told: Option<ChildStdin>,
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

    /// Starts another process with so many tasks.
    pub(crate) fn hire(&mut self, tasks: u64) {
        self.hired += 1;
        let proxy = Proxy::start(self.redis.address());
        let mut job = self.job.clone();
        (job.number, job.tasks) = (self.hired, tasks);
        // Without faults the way is straight, so that it is the lock that is slow or fast.
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
        let (say, said) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(words) = line.strip_prefix("> ") {
                    let _ = say.send(words.to_owned());
                }
            }
        });
        let told = process.take_stdin();
        self.members.push(Member {
            number: self.hired,
            process,
            proxy,
            said,
            told,
        });
    }

    /// SIGKILL, and another one in its place.
    pub(crate) fn replace(&mut self, index: usize, tasks: u64) {
        let gone = self.members.remove(index);
        self.still_there(&gone);
        gone.process.kill();
        self.hire(tasks);
    }

    /// Panics if one has ended by itself, which it does only when something is wrong.
    pub(crate) fn all_still_there(&self) {
        self.members
            .iter()
            .for_each(|member| self.still_there(member));
    }

    fn still_there(&self, member: &Member) {
        if let Some(status) = member.process.exited() {
            panic!("process {} has ended: {status}", member.number);
        }
    }

    /// Waits until `done`, as long as everybody is there and it goes on.
    pub(crate) fn go_on_until(
        &self,
        what: &str,
        within: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) {
        let begun = Instant::now();
        while !done(self) {
            self.all_still_there();
            assert!(begun.elapsed() < within, "{what}: not within {within:?}");
            std::thread::sleep(LOOK);
        }
    }

    /// Panics unless each of them still gets the lock, and writes.
    pub(crate) fn everybody_goes_on(&self, within: Duration) {
        let before: Vec<_> = self
            .members
            .iter()
            .map(|member| self.judge.written_by(member.number))
            .collect();
        self.go_on_until("everybody goes on", within, |crew| {
            crew.members
                .iter()
                .zip(&before)
                .all(|(member, before)| crew.judge.written_by(member.number) >= before + 3)
        });
    }

    /// Which of them is the first to say so.
    pub(crate) fn somebody_says(&self, words: &str) -> usize {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            for (index, member) in self.members.iter().enumerate() {
                if let Ok(said) = member.said.recv_timeout(Duration::from_millis(5)) {
                    assert_eq!(said, words, "process {}", member.number);
                    return index;
                }
            }
        }
        panic!("nobody says {words}");
    }

    /// How many processes wait for `name`.
    pub(crate) fn queued(&self, name: &str) -> u64 {
        let queue = format!("lockstock:{{{name}}}:queue");
        let count = self.redis.command(&["ZCARD", &queue]);
        count.unwrap().parse().unwrap()
    }

    /// Lets everybody finish and leave, and looks at what they leave behind.
    pub(crate) fn dismiss(&mut self) {
        for member in &mut self.members {
            member.told = None;
        }
        for member in self.members.drain(..) {
            let status = member.process.wait(PATIENCE);
            let status = status.unwrap_or_else(|| panic!("process {} stays", member.number));
            assert!(status.success(), "process {}: {status}", member.number);
            for words in member.said.iter() {
                println!("process {}: {words}", member.number);
            }
        }
        self.judge.check();
        let left = || {
            let keys = self.redis.command(&["KEYS", "*"]).unwrap();
            keys.lines().filter(|&key| key != "lockstock:clock").count()
        };
        // What was kept, or held by one that was killed, stays until its lease has ended. A
        // lease that nobody means to run out is longer than this.
        self.go_on_until("no key is left", PATIENCE, |_| left() == 0);
    }
}

impl Member {
    pub(crate) fn tell(&mut self, words: &str) {
        let told = self.told.as_mut().unwrap();
        writeln!(told, "{words}").unwrap();
    }

    /// Panics unless this is the next it says.
    #[track_caller]
    pub(crate) fn says(&self, words: &str) {
        assert_eq!(self.next(), words, "process {}", self.number);
    }

    #[track_caller]
    pub(crate) fn next(&self) -> String {
        let said = self.said.recv_timeout(PATIENCE);
        said.unwrap_or_else(|error| panic!("process {} says nothing: {error}", self.number))
    }
}
