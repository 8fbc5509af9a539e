//! Beside locks of others on the same name, as during a migration: redis-py (which is also what
//! django-redis uses) and rslock.
//!
//! Who is inside is judged by a counter in Redis that no lock knows of: it goes from 0 to 1 and
//! back, and whoever finds it at another number counts a violation.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use lockstock::{Acquired, Lock, Store};
use lockstock_testkit::{Process, Redis, python};
use redis::AsyncTypedCommands;
use redis::aio::MultiplexedConnection;
use rslock::LockManager;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};

const NAME: &str = "shared";
const LEASE: Duration = Duration::from_secs(60);
/// Longer than anything here takes, and shorter than the lease.
const PATIENCE: Duration = Duration::from_secs(40);
/// How often each of them has to get the lock, which is most of a second of work and pauses.
const ROUNDS: u64 = 40;
/// Nobody is told by the others, so everybody asks now and then and may find that another was
/// quicker, some times in a row. Far from that, and far from starving.
const STARVING: Duration = Duration::from_secs(15);

const CONTENDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/contender.py");

fn redis_py(redis: &Redis, words: &[&str]) -> Command {
    let mut command = Command::new(python());
    command.args([CONTENDER, &redis.url(), NAME]).args(words);
    command
}

/// What one attempt of redis-py's comes to.
fn attempt(redis: &Redis, what: &str) -> String {
    let output = redis_py(redis, &[what]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said.trim().to_owned()
}

async fn ours(redis: &Redis) -> Lock {
    let store = Store::connect(&redis.url()).await.unwrap();
    store.lock(NAME).lease(LEASE).unwrap()
}

fn rslock(redis: &Redis) -> LockManager {
    let mut manager = LockManager::new(vec![redis.url()]);
    manager.set_retry(1, Duration::from_millis(20));
    manager
}

async fn rslock_is_refused(redis: &Redis) -> bool {
    rslock(redis).lock(NAME, LEASE).await.is_err()
}

#[tokio::test]
async fn locks_exclude_those_of_other_libraries() {
    let redis = Redis::start();
    let lock = ours(&redis).await;

    let guard = lock.acquire().await.unwrap();
    assert_eq!(attempt(&redis, "try"), "busy");
    assert!(rslock_is_refused(&redis).await);
    guard.release().await.unwrap();
    assert_eq!(attempt(&redis, "try"), "held");

    // Kept is taken for them, too.
    lock.acquire().await.unwrap().keep().await.unwrap();
    assert_eq!(attempt(&redis, "try"), "busy");
    assert!(rslock_is_refused(&redis).await);
    redis.command(&["DEL", NAME]).unwrap();

    assert_eq!(attempt(&redis, "take"), "held");
    let Acquired::Busy(busy) = lock.try_acquire().await.unwrap() else {
        panic!("redis-py has it")
    };
    assert!(
        !busy.is_kept() && busy.retry_after().unwrap() <= LEASE,
        "{busy:?}"
    );
    assert!(rslock_is_refused(&redis).await);
    redis.command(&["DEL", NAME]).unwrap();

    let theirs = rslock(&redis).lock(NAME, LEASE).await.unwrap();
    assert!(matches!(
        lock.try_acquire().await.unwrap(),
        Acquired::Busy(_)
    ));
    assert_eq!(attempt(&redis, "try"), "busy");
    // Ours waits for it, and gets it though nobody tells it.
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await.unwrap() }
    });
    theirs.release().await;
    let guard = timeout(PATIENCE, waiting).await.expect("free").unwrap();
    guard.release().await.unwrap();
    assert_eq!(redis.command(&["EXISTS", NAME]), Ok("0".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn libraries_contend_exclusively_and_none_starves() {
    let redis = Redis::start();
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for number in 1..=2 {
        let counter = Counter::connect(&redis, format!("ours {number}")).await;
        let lock = ours(&redis).await;
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
        let who = format!("redis-py {number}");
        let mut command = redis_py(&redis, &["contend", &who]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let process = Process::spawn(command).unwrap();
        let stdin = process.take_stdin().unwrap();
        pythons.push((who, process, stdin));
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
            begun.elapsed() < PATIENCE,
            "one of them starves: {entered:?}"
        );
        sleep(Duration::from_millis(50)).await;
    }
    stop.send_replace(true);
    for (who, longest) in timeout(PATIENCE, tasks.join_all()).await.expect("all stop") {
        println!("{who}: waited {longest:?} at most");
        assert!(longest < STARVING, "{who} waited {longest:?}");
    }
    for (who, process, stdin) in pythons {
        drop(stdin);
        let mut stdout = process.take_stdout().unwrap();
        let said = spawn_blocking(move || std::io::read_to_string(&mut stdout).unwrap());
        let said = timeout(PATIENCE, said).await.expect("it stops").unwrap();
        let longest = said
            .trim()
            .rsplit(' ')
            .next()
            .unwrap()
            .parse::<f64>()
            .unwrap();
        println!("{who}: waited {longest:.3} s at most");
        assert!(longest < STARVING.as_secs_f64(), "{who} waited {longest} s");
        assert!(process.wait(PATIENCE).expect("it ends").success(), "{who}");
    }
    assert_eq!(
        redis.command(&["GET", "violations"]),
        Ok("(nil)".to_owned())
    );
    assert_eq!(redis.command(&["GET", "inside"]), Ok("0".to_owned()));
    let left = redis.command(&["EXISTS", NAME, "lockstock:{shared}:queue"]);
    assert_eq!(left, Ok("0".to_owned()));
}

/// The counter of those inside, which is not the lock's.
struct Counter {
    who: String,
    connection: MultiplexedConnection,
}

impl Counter {
    async fn connect(redis: &Redis, who: String) -> Self {
        let client = redis::Client::open(redis.url()).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        Self { who, connection }
    }

    async fn enter(&mut self) {
        if self.connection.incr("inside", 1).await.unwrap() != 1 {
            self.connection.incr("violations", 1).await.unwrap();
        }
        self.connection
            .hincr("entered", &self.who, 1)
            .await
            .unwrap();
    }

    async fn leave(&mut self) {
        self.connection.decr("inside", 1).await.unwrap();
    }
}

/// Takes a lock again and again until it is told to stop; answers how long it waited at most.
async fn contend<G>(
    mut counter: Counter,
    stopped: watch::Receiver<bool>,
    take: impl AsyncFn() -> G,
    give: impl AsyncFn(G),
) -> (String, Duration) {
    let mut longest = Duration::ZERO;
    while !*stopped.borrow() {
        let begun = Instant::now();
        let guard = take().await;
        longest = longest.max(begun.elapsed());
        counter.enter().await;
        sleep(Duration::from_millis(1)).await;
        counter.leave().await;
        give(guard).await;
        // Without a pause those who hand over to each other would leave the others no moment
        // in which it is free.
        sleep(Duration::from_millis(rand::random_range(5..30))).await;
    }
    (counter.who, longest)
}
