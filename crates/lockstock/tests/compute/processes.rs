//! One computation at a time over all processes. To Redis a store is a process; the process that is
//! killed is one.

use std::io::{BufRead, BufReader, Lines, Write, stdin};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use lockstock::{ComputePolicy, Store};
use lockstock_testkit::{Process, Redis};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::harness::{LEASE, TIMEOUT, connect, on_each_store, queued};
use crate::{Gate, LONG, not_called, pages};

/// The URL of the store, for the process that other tests start.
const STORE: &str = "LOCKSTOCK_TEST_COMPUTING";
/// The lease of that process. It is renewed until the process is killed or paused.
const CHILD_LEASE: Duration = Duration::from_secs(2);

fn once(lease: Duration) -> ComputePolicy {
    ComputePolicy::new(LONG)
        .once_per_store(lease)
        .max_wait(TIMEOUT)
}

async fn stores(redis: &Redis, count: usize) -> Vec<Store> {
    let mut stores = Vec::new();
    for _ in 0..count {
        stores.push(connect(&redis.url()).await);
    }
    stores
}

#[tokio::test]
async fn all_stores_compute_once() {
    let (redis, gate) = (Redis::start(), Gate::new());
    let stores = stores(&redis, 4).await;
    let mut callers = JoinSet::new();
    for store in &stores {
        for _ in 0..5 {
            let (pages, gate) = (pages(store), gate.clone());
            callers.spawn(async move {
                let compute = async || gate.pass("mug".to_owned()).await;
                pages
                    .get_or_set("/mugs", once(LEASE), compute)
                    .await
                    .unwrap()
            });
        }
    }
    gate.begun().await;
    // One caller of each other store waits in Redis, the others for it.
    queued(&stores[0], 3).await;
    gate.open();
    let all = timeout(TIMEOUT, callers.join_all()).await;
    for page in all.expect("all are notified") {
        assert_eq!(page, "mug");
    }
    assert_eq!(gate.calls(), 1);
    for store in &stores {
        store.drain().await;
    }
    assert_eq!(stores[0].locks().await.unwrap().len(), 0);
}

#[tokio::test]
async fn the_lock_works_on_each_store() {
    on_each_store(async |store| {
        let pages = pages(&store);
        let compute = async || {
            let locks = store.locks().await.unwrap();
            format!("{} lock", locks.len())
        };
        for key in ["/mugs".to_owned(), "{mugs}}".to_owned(), "x".repeat(5000)] {
            let page = pages.get_or_set(&key, once(LEASE), compute).await.unwrap();
            assert_eq!(page, "1 lock");
            assert_eq!(pages.get(&key).await.unwrap().as_deref(), Some("1 lock"));
            store.drain().await;
        }
        assert_eq!(store.locks().await.unwrap().len(), 0);
    })
    .await;
}

#[tokio::test]
async fn after_a_failure_another_store_computes() {
    let (redis, gate) = (Redis::start(), Gate::new());
    let stores = stores(&redis, 3).await;
    let first = tokio::spawn({
        let (pages, gate) = (pages(&stores[0]), gate.clone());
        async move {
            let compute = async || gate.pass(Err("no database")).await;
            pages.get_or_try_set("/mugs", once(LEASE), compute).await
        }
    });
    gate.begun().await;
    let others = stores[1..].iter().map(|store| {
        let (pages, gate) = (pages(store), gate.clone());
        tokio::spawn(async move {
            let compute = async || gate.pass("mug".to_owned()).await;
            pages.get_or_set("/mugs", once(LEASE), compute).await
        })
    });
    let others: Vec<_> = others.collect();
    queued(&stores[0], 2).await;
    gate.open();
    gate.open();
    assert!(first.await.unwrap().unwrap_err().failed().is_some());
    for other in others {
        let page = timeout(TIMEOUT, other).await.expect("notified");
        assert_eq!(page.unwrap().unwrap(), "mug");
    }
    assert_eq!(gate.calls(), 2);
}

#[tokio::test]
async fn one_store_refreshes_a_stale_value_and_no_other_waits() {
    let (redis, gate) = (Redis::start(), Gate::new());
    let stores = stores(&redis, 2).await;
    let soon_stale = ComputePolicy::new(crate::SHORTEST).stale_for(LONG);
    let old = async || "old".to_owned();
    pages(&stores[0])
        .get_or_set("/mugs", soon_stale, old)
        .await
        .unwrap();
    crate::is_past(&pages(&stores[0]), "/mugs").await;
    let policy = once(LEASE).stale_for(LONG);
    let refresh = tokio::spawn({
        let (pages, gate, policy) = (pages(&stores[0]), gate.clone(), policy.clone());
        async move {
            let compute = async || gate.pass("new".to_owned()).await;
            pages.get_or_set("/mugs", policy, compute).await.unwrap()
        }
    });
    gate.begun().await;
    let other = pages(&stores[1])
        .get_or_set("/mugs", policy, async || not_called().await)
        .await;
    assert_eq!(other.unwrap(), "old");
    gate.open();
    assert_eq!(refresh.await.unwrap(), "new");
    assert_eq!(
        pages(&stores[1]).get("/mugs").await.unwrap().as_deref(),
        Some("new")
    );
}

#[tokio::test]
async fn after_its_process_was_killed_another_one_computes() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let child = Child::start(&redis);
    let waiter = waiter(&store).await;
    child.process.kill();
    let page = timeout(TIMEOUT, waiter).await.expect("the lease ends");
    assert_eq!(page.unwrap(), "mug");
}

#[tokio::test]
async fn the_value_of_a_process_that_was_paused_does_not_replace_a_later_one() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let mut child = Child::start(&redis);
    let waiter = waiter(&store).await;
    child.process.pause();
    let page = timeout(TIMEOUT, waiter).await.expect("the lease ends");
    assert_eq!(page.unwrap(), "mug");
    child.process.resume();
    child.compute("late");
    child.expect("> returned late");
    assert_eq!(
        pages(&store).get("/mugs").await.unwrap().as_deref(),
        Some("mug")
    );
}

/// Begins to wait for the value of another process.
async fn waiter(store: &Store) -> JoinHandle<String> {
    let pages = pages(store);
    let waiter = tokio::spawn(async move {
        let compute = async || "mug".to_owned();
        let page = pages.get_or_set("/mugs", once(CHILD_LEASE), compute);
        page.await.unwrap()
    });
    queued(store, 1).await;
    waiter
}

/// A process that computes a value, and waits for a line of input before it has it.
struct Child {
    process: Process,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts one. It holds the lock.
    fn start(redis: &Redis) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "processes::a_process_that_computes",
                "--ignored",
                "--nocapture",
            ])
            .env(STORE, redis.url())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let process = Process::spawn(command).unwrap();
        let input = process.take_stdin().unwrap();
        let output = BufReader::new(process.take_stdout().unwrap()).lines();
        let mut child = Self {
            process,
            input,
            output,
        };
        child.expect("> computing");
        child
    }

    fn compute(&mut self, value: &str) {
        writeln!(self.input, "{value}").unwrap();
    }

    fn expect(&mut self, words: &str) {
        let mut lines = self.output.by_ref().map_while(Result::ok);
        assert!(lines.any(|line| line == words), "the process has ended");
    }
}

/// Not a test: the process that other tests start.
#[tokio::test]
#[ignore = "started by other tests"]
async fn a_process_that_computes() {
    let Ok(url) = std::env::var(STORE) else {
        return;
    };
    let pages = pages(&connect(&url).await);
    let compute = async || {
        println!("\n> computing");
        let line = tokio::task::spawn_blocking(|| stdin().lines().next());
        line.await.unwrap().unwrap().unwrap()
    };
    let page = pages.get_or_set("/mugs", once(CHILD_LEASE), compute).await;
    println!("\n> returned {}", page.unwrap());
}
