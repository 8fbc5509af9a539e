//! Locks of Lockstock beside those of other libraries on the same name, as during a migration:
//! redis-py (which django-redis uses, too) and rslock.
//!
//! A counter in Redis, apart from all locks, judges exclusion: each holder raises it from 0 to 1
//! and lowers it again, and any other number is a violation.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use lockstock::{Acquired, Lock, Store};
use lockstock_testkit::{Process, Redis, python};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, AsyncTypedCommands};
use rslock::LockManager;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};

const NAME: &str = "shared";
const LEASE: Duration = Duration::from_secs(600);
/// Longer than anything takes on a busy machine, and shorter than the lease.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How often each contender has to acquire the lock.
const ROUNDS: u64 = 40;
/// How many others may acquire the lock during one wait. The other libraries notify no waiter,
/// so that all contenders poll, and a poll fails if another one was quicker. Far more than
/// happens by chance.
const MAX_OVERTAKEN: u64 = 600;

const CONTENDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/contender.py");

fn redis_py(redis: &Redis, words: &[&str]) -> Command {
    let mut command = Command::new(python());
    command.args([CONTENDER, &redis.url(), NAME]).args(words);
    command
}

/// Returns the outcome of one attempt with redis-py.
fn attempt(redis: &Redis, what: &str) -> String {
    let output = redis_py(redis, &[what]).output().unwrap();
    let outcome = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    outcome.trim().to_owned()
}

async fn lockstock(redis: &Redis) -> Lock {
    let store = Store::connect_within(&redis.url(), TIMEOUT).await.unwrap();
    store.lock(NAME).lease(LEASE).unwrap()
}

fn rslock(redis: &Redis) -> LockManager {
    let mut manager = LockManager::new(vec![redis.url()]);
    manager.set_retry(1, Duration::from_millis(20));
    manager
}

async fn rslock_is_busy(redis: &Redis) -> bool {
    rslock(redis).lock(NAME, LEASE).await.is_err()
}

#[tokio::test]
async fn locks_exclude_those_of_other_libraries() {
    let redis = Redis::start();
    let lock = lockstock(&redis).await;

    let guard = lock.acquire().await.unwrap();
    assert_eq!(attempt(&redis, "try"), "busy");
    assert!(rslock_is_busy(&redis).await);
    guard.release().await.unwrap();
    assert_eq!(attempt(&redis, "try"), "held");

    // A kept lock is taken for the other libraries, too.
    lock.acquire().await.unwrap().keep().await.unwrap();
    assert_eq!(attempt(&redis, "try"), "busy");
    assert!(rslock_is_busy(&redis).await);
    redis.command(&["DEL", NAME]).unwrap();

    assert_eq!(attempt(&redis, "take"), "held");
    let Acquired::Busy(busy) = lock.try_acquire().await.unwrap() else {
        panic!("redis-py holds it")
    };
    assert!(
        !busy.is_kept() && busy.retry_after().unwrap() <= LEASE,
        "{busy:?}"
    );
    assert!(rslock_is_busy(&redis).await);
    redis.command(&["DEL", NAME]).unwrap();

    let theirs = rslock(&redis).lock(NAME, LEASE).await.unwrap();
    assert!(matches!(
        lock.try_acquire().await.unwrap(),
        Acquired::Busy(_)
    ));
    assert_eq!(attempt(&redis, "try"), "busy");
    // A waiter of Lockstock acquires it without a notification.
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await.unwrap() }
    });
    theirs.release().await;
    let guard = timeout(TIMEOUT, waiting).await.expect("free").unwrap();
    guard.release().await.unwrap();
    assert_eq!(redis.command(&["EXISTS", NAME]), Ok("0".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn libraries_contend_exclusively_and_none_starves() {
    let redis = Redis::start();
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for number in 1..=2 {
        let counter = Counter::connect(&redis, format!("lockstock {number}")).await;
        let lock = lockstock(&redis).await;
        let take = async move || lock.acquire().await.unwrap();
        let give = async |guard: lockstock::Guard| guard.release().await.unwrap();
        tasks.spawn(contend(counter, stopped.clone(), take, give));
    }
    for number in 1..=2 {
        let counter = Counter::connect(&redis, format!("rslock {number}")).await;
        let manager = rslock(&redis);
        let take = async move || manager.acquire(NAME, LEASE).await.unwrap();
        let give = async |guard: rslock::LockGuard| guard.release().await;
        tasks.spawn(contend(counter, stopped.clone(), take, give));
    }
    let mut pythons: Vec<(String, Process, ChildStdin)> = Vec::new();
    for number in 1..=2 {
        let name = format!("redis-py {number}");
        let mut command = redis_py(&redis, &["contend", &name]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let process = Process::spawn(command).unwrap();
        let stdin = process.take_stdin().unwrap();
        pythons.push((name, process, stdin));
    }

    let begun = Instant::now();
    loop {
        let entered = redis.command(&["HVALS", "entered"]).unwrap();
        let entered: Vec<u64> = entered
            .lines()
            .map(|count| count.parse().unwrap())
            .collect();
        if entered.len() == 6 && entered.iter().all(|count| *count >= ROUNDS) {
            break;
        }
        assert!(
            begun.elapsed() < TIMEOUT,
            "a contender starves: {entered:?}"
        );
        sleep(Duration::from_millis(50)).await;
    }
    stop.send_replace(true);
    let mut overtaken = timeout(TIMEOUT, tasks.join_all()).await.expect("all stop");
    for (name, process, stdin) in pythons {
        drop(stdin);
        let mut stdout = process.take_stdout().unwrap();
        let output = spawn_blocking(move || std::io::read_to_string(&mut stdout).unwrap());
        let output = timeout(TIMEOUT, output).await.expect("it stops").unwrap();
        assert!(process.wait(TIMEOUT).expect("it ends").success(), "{name}");
        overtaken.push((name, output.trim().parse().unwrap()));
    }
    for (name, overtaken) in overtaken {
        println!("{name}: overtaken by {overtaken} at most");
        assert!(overtaken < MAX_OVERTAKEN, "{name}: by {overtaken}");
    }
    assert_eq!(
        redis.command(&["GET", "violations"]),
        Ok("(nil)".to_owned())
    );
    assert_eq!(redis.command(&["GET", "inside"]), Ok("0".to_owned()));
    let remaining = redis.command(&["EXISTS", NAME, "lockstock:{shared}:queue"]);
    assert_eq!(remaining, Ok("0".to_owned()));
}

/// One contender's connection to the counters that judge the locks.
struct Counter {
    name: String,
    connection: MultiplexedConnection,
}

impl Counter {
    async fn connect(redis: &Redis, name: String) -> Self {
        let client = redis::Client::open(redis.url()).unwrap();
        // The default is half a second.
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(TIMEOUT));
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        let connection = connection.await.unwrap();
        Self { name, connection }
    }

    /// Returns how many holders there have been.
    async fn entries(&mut self) -> u64 {
        let entries = self.connection.get_int("entries").await.unwrap();
        entries.map_or(0, |entries| entries as u64)
    }

    async fn enter(&mut self) {
        if self.connection.incr("inside", 1).await.unwrap() != 1 {
            self.connection.incr("violations", 1).await.unwrap();
        }
        self.connection.incr("entries", 1).await.unwrap();
        let entered = self.connection.hincr("entered", &self.name, 1);
        entered.await.unwrap();
    }

    async fn leave(&mut self) {
        self.connection.decr("inside", 1).await.unwrap();
    }
}

/// Acquires a lock again and again until it is stopped. Returns by how many others it was
/// overtaken at most.
async fn contend<G>(
    mut counter: Counter,
    stopped: watch::Receiver<bool>,
    take: impl AsyncFn() -> G,
    give: impl AsyncFn(G),
) -> (String, u64) {
    let mut overtaken = 0;
    while !*stopped.borrow() {
        let before = counter.entries().await;
        let guard = take().await;
        overtaken = overtaken.max(counter.entries().await - before);
        counter.enter().await;
        sleep(Duration::from_millis(1)).await;
        counter.leave().await;
        give(guard).await;
        // Without a pause the clients of Lockstock would hand the lock over to each other, and
        // the others would never find it free.
        sleep(Duration::from_millis(rand::random_range(5..30))).await;
    }
    (counter.name, overtaken)
}
