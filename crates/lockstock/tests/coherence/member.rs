//! A process with a near cache: reads all keys in turn, and increments some.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use lockstock::{Cache, Integer, NearCache, Store};
use lockstock_testkit::{Process, Proxy};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::harness::TIMEOUT;
use crate::judge::Judge;

/// So many that most keys are written less often than the bound: an invalidation that is lost is
/// not made up for by the next one.
pub(crate) const KEYS: usize = 300;
/// The first keys together receive as many writes as the rest.
const HOT_KEYS: usize = 3;
const READERS: u64 = 2;
const TTL: Duration = Duration::from_secs(3600);

/// The environment variable with the number of a process and the URL of its store.
const ORDERS: &str = "LOCKSTOCK_TEST_PROCESS";

pub(crate) fn key_in_store(key: usize) -> String {
    format!("lockstock:cache:numbers:1:{key}")
}

/// The monotonic clock, which all processes share.
pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

// --- in the test ----------------------------------------------------------------------------

pub(crate) struct Member {
    number: u64,
    pub(crate) process: Process,
    pub(crate) proxy: Proxy,
    stdin: Option<ChildStdin>,
    /// By key: the last number that the process has read.
    newest: Arc<[AtomicI64]>,
    events: Arc<Mutex<Vec<Event>>>,
    listener: JoinHandle<()>,
}

impl Member {
    pub(crate) fn start(number: u64, redis: SocketAddr) -> Self {
        let proxy = Proxy::start(redis);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "one_process", "--ignored", "--nocapture"])
            .env(ORDERS, format!("{number} redis://{}/0", proxy.address()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let process = Process::spawn(command).unwrap();
        let stdout = process.take_stdout().unwrap();
        let newest: Arc<[AtomicI64]> = (0..KEYS).map(|_| AtomicI64::new(0)).collect();
        let events = Arc::<Mutex<Vec<Event>>>::default();
        let listener = std::thread::spawn({
            let (newest, events) = (newest.clone(), Arc::clone(&events));
            move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let Some(event) = line.strip_prefix("> ") else {
                        continue;
                    };
                    match Event::parse(event) {
                        Event::Seen { key, number } => {
                            newest[key].fetch_max(number, Ordering::Relaxed);
                        }
                        event => Mutex::lock(&events).unwrap().push(event),
                    }
                }
            }
        });
        Self {
            number,
            stdin: process.take_stdin(),
            process,
            proxy,
            newest,
            events,
            listener,
        }
    }

    /// Stops the writes of the process, or lets them continue. The reads continue.
    pub(crate) fn set_writing(&mut self, is_writing: bool) {
        let order = if is_writing { "write" } else { "read" };
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{order}").unwrap();
    }

    pub(crate) fn assert_running(&self) {
        if let Some(status) = self.process.exited() {
            panic!("process {} has ended: {status}", self.number);
        }
    }

    pub(crate) fn has_read_everywhere(&self, number: i64) -> bool {
        let mut newest = self.newest.iter();
        newest.all(|newest| newest.load(Ordering::Relaxed) >= number)
    }

    /// Ends the process, and reports all that it has read and written. Returns the number of
    /// reads.
    pub(crate) fn dismiss(mut self, judge: &mut Judge) -> u64 {
        self.stdin = None;
        let status = self.process.wait(TIMEOUT).expect("the process ends");
        assert!(status.success(), "process {}: {status}", self.number);
        self.listener.join().unwrap();
        let mut reads = 0;
        for event in Mutex::lock(&self.events).unwrap().iter() {
            match *event {
                Event::Read { key, number, at_ns } => judge.read(key, number, at_ns),
                Event::Written { key, number, at_ns } => judge.written(key, number, at_ns),
                Event::Reads(count) => reads += count,
                Event::Seen { .. } => {}
            }
        }
        reads
    }
}

/// What a process reports.
enum Event {
    /// The number was read for the first time.
    Seen { key: usize, number: i64 },
    /// When the last read of the number began.
    Read { key: usize, number: i64, at_ns: u64 },
    /// When a write returned.
    Written { key: usize, number: i64, at_ns: u64 },
    /// The count of all reads.
    Reads(u64),
}

impl Event {
    fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let word = |index: usize| words[index].parse::<u64>().unwrap();
        let (key, number) = (|| word(1) as usize, || word(2) as i64);
        match words[0] {
            "seen" => Self::Seen {
                key: key(),
                number: number(),
            },
            "read" => Self::Read {
                key: key(),
                number: number(),
                at_ns: word(3),
            },
            "written" => Self::Written {
                key: key(),
                number: number(),
                at_ns: word(3),
            },
            "reads" => Self::Reads(word(1)),
            other => panic!("{other}"),
        }
    }
}

// --- in the process -------------------------------------------------------------------------

/// Prints an event to the test. The mark distinguishes it from the output of libtest.
macro_rules! say {
    ($($word:tt)*) => { println!("\n> {}", format_args!($($word)*)) };
}

/// Runs the job in the environment, if there is one.
pub(crate) fn run_if_ordered() {
    let Ok(orders) = std::env::var(ORDERS) else {
        println!("no job: the other tests of this file start this one");
        return;
    };
    let (number, url) = orders.split_once(' ').unwrap();
    let number: u64 = number.parse().unwrap();
    // A driver of connections runs between the reads, or beside them.
    let runtime = match number % 2 {
        0 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    }
    .worker_threads(2)
    .enable_all()
    .build()
    .unwrap();
    runtime.block_on(work(number, url));
    std::io::stdout().flush().unwrap();
}

/// What the process does besides reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Write,
    Read,
    End,
}

struct Worker {
    near: Cache<i64, Integer>,
    /// A handle of the same store, without a near cache.
    plain: Cache<i64, Integer>,
    chance: StdRng,
    /// By key: no read that begins now may return less.
    floor: Arc<[AtomicI64]>,
    reads: Arc<AtomicU64>,
    /// By key: the last number that was read, and when the last read of it began.
    last: Vec<(i64, u64)>,
}

async fn work(number: u64, url: &str) {
    let store = Store::open(url).unwrap();
    let plain = store.cache::<i64>("numbers").codec(Integer);
    // The near cache of one process is too small for all keys.
    let bytes = if number == 0 { 32 * 1024 } else { 1024 * 1024 };
    let near = plain.clone().near(NearCache::new(bytes));
    let (orders, mode) = watch::channel(Mode::Write);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            orders.send_replace(match &line[..] {
                "read" => Mode::Read,
                _ => Mode::Write,
            });
        }
        orders.send_replace(Mode::End);
    });
    let floor: Arc<[AtomicI64]> = (0..KEYS).map(|_| AtomicI64::new(0)).collect();
    let reads = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for task in 0..=READERS {
        let worker = Worker {
            near: near.clone(),
            plain: plain.clone(),
            chance: StdRng::seed_from_u64(number * (READERS + 1) + task),
            floor: floor.clone(),
            reads: reads.clone(),
            last: vec![(0, 0); KEYS],
        };
        match task {
            0 => tasks.spawn(worker.write_all(mode.clone())),
            _ => tasks.spawn(worker.read_all(mode.clone())),
        };
    }
    tasks.join_all().await;
    say!("reads {}", reads.load(Ordering::Relaxed));
}

impl Worker {
    async fn read_all(mut self, mode: watch::Receiver<Mode>) {
        while *mode.borrow() != Mode::End {
            for key in 0..KEYS {
                // If Redis does not reply, the copies of the other keys are read meanwhile.
                let _ = timeout(Duration::from_millis(10), self.read(key)).await;
            }
            sleep(Duration::from_millis(self.chance.random_range(1..20))).await;
        }
        for key in 0..KEYS {
            self.report(key);
        }
    }

    async fn write_all(mut self, mode: watch::Receiver<Mode>) {
        loop {
            let mode = *mode.borrow();
            if mode == Mode::End {
                break;
            }
            // A write every few milliseconds, half of them of the hot keys.
            let key = match self.chance.random() {
                true => self.chance.random_range(0..HOT_KEYS),
                false => self.chance.random_range(0..KEYS),
            };
            if mode == Mode::Write {
                self.write(key).await;
            }
            sleep(Duration::from_millis(self.chance.random_range(1..40))).await;
        }
    }

    async fn read(&mut self, key: usize) {
        let floor = self.floor[key].load(Ordering::SeqCst);
        let begun_at_ns = now_ns();
        let number = match self.near.get(key.to_string()).await {
            Ok(number) => number.expect("a flush writes all keys in the same step"),
            Err(error) => return assert!(error.is_unavailable(), "{error}"),
        };
        // Of an earlier read through the same near cache, or of a write of this store.
        assert!(number >= floor, "key {key}: {number} after {floor}");
        self.floor[key].fetch_max(number, Ordering::SeqCst);
        self.reads.fetch_add(1, Ordering::Relaxed);
        if number != self.last[key].0 {
            self.report(key);
            say!("seen {key} {number}");
        }
        // Of the reads of one number, the last one decides.
        self.last[key] = (number, begun_at_ns);
    }

    fn report(&self, key: usize) {
        let (number, begun_at_ns) = self.last[key];
        if number > 0 {
            say!("read {key} {number} {begun_at_ns}");
        }
    }

    async fn write(&mut self, key: usize) {
        let cache = match self.chance.random() {
            true => &self.near,
            false => &self.plain,
        };
        match cache.incr(key.to_string(), 1, TTL).await {
            Ok(sum) => {
                say!("written {key} {sum} {}", now_ns());
                self.floor[key].fetch_max(sum, Ordering::SeqCst);
            }
            Err(error) => assert!(error.is_unavailable(), "{error}"),
        }
    }
}
