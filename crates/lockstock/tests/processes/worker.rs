//! A process that contends for locks. The tests start several of them, kill and pause them.
//!
//! It is this test binary, started again for one ignored test, so that no other program has to
//! be built or found.

use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstock::{Acquired, Guard, Lock, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::register::Register;

/// The environment variable that holds the [`Job`] of a process.
pub(crate) const ORDERS: &str = "LOCKSTOCK_TEST_PROCESS";

/// The task of one process, encoded as words on one line.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// Identifies the process in the journal, and is never used again.
    pub(crate) number: u64,
    pub(crate) redis: String,
    pub(crate) register: String,
    pub(crate) tasks: u64,
    pub(crate) lease: Duration,
    pub(crate) faults: Faults,
    /// The first name is the most contended.
    pub(crate) names: Vec<String>,
}

/// The faults that the process and its store may suffer, and so the errors it tolerates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Faults {
    /// No fault: every request succeeds, and no lock is lost.
    None,
    /// Any fault but data loss: no holder is overtaken before its deadline.
    Any,
    /// The store may lose its locks: only the register detects a late holder.
    Forgetful,
    /// No fault: obeys one command per line, with the lock of the first name.
    Puppet,
}

impl Job {
    pub(crate) fn to_line(&self) -> String {
        let faults = match self.faults {
            Faults::None => "none",
            Faults::Any => "any",
            Faults::Forgetful => "forgetful",
            Faults::Puppet => "puppet",
        };
        let lease = self.lease.as_millis();
        format!(
            "{} {} {} {} {lease} {faults} {}",
            self.number,
            self.redis,
            self.register,
            self.tasks,
            self.names.join(" ")
        )
    }

    fn from_line(line: &str) -> Self {
        let mut words = line.split(' ');
        let mut next = || words.next().unwrap();
        Self {
            number: next().parse().unwrap(),
            redis: next().to_owned(),
            register: next().to_owned(),
            tasks: next().parse().unwrap(),
            lease: Duration::from_millis(next().parse().unwrap()),
            faults: match next() {
                "none" => Faults::None,
                "any" => Faults::Any,
                "forgetful" => Faults::Forgetful,
                "puppet" => Faults::Puppet,
                other => panic!("{other}"),
            },
            names: words.map(str::to_owned).collect(),
        }
    }
}

/// Prints a message to the test. The mark distinguishes it from the output of libtest.
macro_rules! say {
    ($($word:tt)*) => { println!("\n> {}", format_args!($($word)*)) };
}

/// Runs the job in the environment, if there is one.
pub(crate) fn run_if_ordered() {
    let Ok(orders) = std::env::var(ORDERS) else {
        println!("no job: the other tests of this file start this one");
        return;
    };
    let job = Job::from_line(&orders);
    let mut runtime = match job.tasks {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        match job.faults {
            Faults::Puppet => obey(job).await,
            _ => contend(job).await,
        }
    });
}

/// Returns the lines of standard input until it ends.
fn lines() -> mpsc::UnboundedReceiver<String> {
    let (send, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Opens the store, and retries while a fault breaks the network.
async fn connected(job: &Job) -> Store {
    // A busy machine must not look like a broken store.
    let timeout = match job.faults {
        Faults::None | Faults::Puppet => Duration::from_secs(20),
        Faults::Any | Faults::Forgetful => Duration::from_secs(1),
    };
    loop {
        match Store::connect_within(&job.redis, timeout).await {
            Ok(store) => return store,
            Err(error) => {
                assert!(
                    error.is_unavailable() && job.faults != Faults::None,
                    "{error}"
                );
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

// --- contending ---------------------------------------------------------------------------

#[derive(Debug, Default)]
struct Tally {
    accepted: AtomicU64,
    busy: AtomicU64,
    overtaken: AtomicU64,
    lost: AtomicU64,
    unavailable: AtomicU64,
    longest_wait: AtomicU64,
}

fn count(number: &AtomicU64) {
    number.fetch_add(1, Ordering::Relaxed);
}

/// Acquires locks and writes under them until standard input ends.
async fn contend(job: Job) {
    let store = connected(&job).await;
    let (stop, stopped) = watch::channel(false);
    let mut lines = lines();
    tokio::spawn(async move {
        while lines.recv().await.is_some() {}
        stop.send_replace(true);
    });
    let job = Arc::new(job);
    let tally = Arc::new(Tally::default());
    let mut tasks = JoinSet::new();
    for number in 0..job.tasks {
        let contender = Contender {
            store: store.clone(),
            register: Register::open(&job.register).await,
            chance: StdRng::seed_from_u64(job.number * 1000 + number),
            job: job.clone(),
            tally: tally.clone(),
        };
        tasks.spawn(contender.run(stopped.clone()));
    }
    tasks.join_all().await;
    store.drain().await;
    say!("{tally:?}");
}

struct Contender {
    job: Arc<Job>,
    store: Store,
    register: Register,
    chance: StdRng,
    tally: Arc<Tally>,
}

impl Contender {
    async fn run(mut self, stopped: watch::Receiver<bool>) {
        while !*stopped.borrow() {
            // Half of the requests are for the first name.
            let last = self.job.names.len() - 1;
            let pick = self.chance.random_range(0..=last * 2).saturating_sub(last);
            let name = self.job.names[pick].clone();
            let lock = self.store.lock(&name).lease(self.job.lease).unwrap();
            let begun = Instant::now();
            let guard = match self.acquire(&lock).await {
                Ok(Acquired::Held(guard)) => guard,
                Ok(Acquired::Busy(_)) => {
                    count(&self.tally.busy);
                    continue;
                }
                Err(error) => {
                    assert!(error.is_unavailable(), "{error}");
                    assert_ne!(self.job.faults, Faults::None, "{error}");
                    count(&self.tally.unavailable);
                    // As a client does after a 503.
                    sleep(Duration::from_millis(self.chance.random_range(1..20))).await;
                    continue;
                }
            };
            let waited = begun.elapsed().as_millis() as u64;
            self.tally.longest_wait.fetch_max(waited, Ordering::Relaxed);
            self.work(&name, &guard).await;
            self.give_back(guard).await;
        }
    }

    async fn acquire(&mut self, lock: &Lock) -> lockstock::Result<Acquired> {
        match self.chance.random_range(0..20) {
            // With one name every request waits.
            _ if self.job.names.len() == 1 => lock.acquire().await.map(Acquired::Held),
            0 => lock.try_acquire().await,
            1..5 => {
                let wait = Duration::from_micros(self.chance.random_range(0..20_000));
                lock.acquire_within(wait).await
            }
            _ => lock.acquire().await.map(Acquired::Held),
        }
    }

    async fn work(&mut self, name: &str, guard: &Guard) {
        let (fence, number) = (guard.fence(), self.job.number);
        let written = if self.chance.random_range(0..4) > 0 {
            self.register.claim_and_write(name, fence, number).await
        } else {
            match self.register.claim(name, fence).await {
                Some(value) => self.register.write(name, fence, value, number).await,
                None => false,
            }
        };
        if written {
            count(&self.tally.accepted);
            return;
        }
        count(&self.tally.overtaken);
        let remaining = guard.remaining();
        if !remaining.is_zero() && self.job.faults != Faults::Forgetful {
            let history = self.register.history(name).await;
            panic!(
                "process {number} overtaken at {name} {remaining:?} before its deadline, fence {fence}: {history}"
            );
        }
    }

    async fn give_back(&mut self, guard: Guard) {
        let done = match self.chance.random_range(0..100) {
            _ if self.job.names.len() == 1 => guard.release().await,
            0..5 => return drop(guard),
            5..10 => return drop(guard.release()),
            // Only a short lease is kept: the name is taken until its end.
            10 if self.job.lease < Duration::from_secs(1) => guard.keep().await,
            _ => guard.release().await,
        };
        match done {
            Ok(()) => {}
            Err(error) => {
                assert_ne!(self.job.faults, Faults::None, "{error}");
                assert!(error.is_lost() || error.is_unavailable(), "{error}");
                let reason = match error.is_lost() {
                    true => &self.tally.lost,
                    false => &self.tally.unavailable,
                };
                count(reason);
            }
        }
    }
}

// --- a puppet -----------------------------------------------------------------------------

/// Carries out one command per line and prints its outcome: `acquire SECONDS`, `write`,
/// `release`.
async fn obey(job: Job) {
    let store = connected(&job).await;
    let name = &job.names[0];
    let mut register = Register::open(&job.register).await;
    let mut guard: Option<Guard> = None;
    let mut lines = lines();
    say!("ready");
    while let Some(line) = lines.recv().await {
        let (word, seconds) = line.split_once(' ').unwrap_or((&line, ""));
        match word {
            "acquire" => {
                let lease = Duration::from_secs(seconds.parse().unwrap());
                let lock = store.lock(name).lease(lease).unwrap();
                let held = guard.insert(lock.acquire().await.unwrap());
                say!("held");
                let lost = held.lost();
                tokio::spawn(async move {
                    lost.await;
                    say!("lost");
                });
            }
            "write" => {
                let fence = guard.as_ref().unwrap().fence();
                let written = match register.claim(name, fence).await {
                    Some(value) => register.write(name, fence, value, job.number).await,
                    None => false,
                };
                say!("{}", if written { "written" } else { "rejected" });
            }
            "release" => match guard.take().unwrap().release().await {
                Ok(()) => say!("released"),
                Err(error) if error.is_lost() => say!("not held"),
                Err(error) => say!("{error}"),
            },
            other => panic!("{other}"),
        }
    }
    drop(guard);
    store.drain().await;
}
