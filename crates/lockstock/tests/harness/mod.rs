//! Stores, locks and waits that the test suites share.
//!
//! No test depends on being scheduled in time. A lease that must not end is [`LEASE`]; the end
//! of a [`SHORT`] or [`BRIEF`] lease is awaited.

#![allow(dead_code, reason = "not every suite uses all of it")]

use std::sync::LazyLock;
use std::time::Duration;

use lockstock::{Acquired, Busy, Guard, Lock, LockInfo, Store};
use lockstock_testkit::{Cluster, Redis};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{self, Instant, sleep, timeout};

/// A lease that does not end within a test.
pub(crate) const LEASE: Duration = Duration::from_secs(60);
/// A lease whose end a test awaits, with no call that must complete before that end.
pub(crate) const SHORT: Duration = Duration::from_millis(200);
/// A lease whose end a test awaits, after calls that must complete before that end. Many
/// times as long as these take on a busy machine.
pub(crate) const BRIEF: Duration = Duration::from_secs(1);
/// Longer than anything takes on a busy machine, and shorter than [`LEASE`]: a waiter that is
/// not notified fails its test.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// Runs `test` against a new store of each kind.
///
/// On a current-thread runtime the clock of the memory store is paused: it advances only when
/// no task can run. Redis and the Cluster run at the same time, so that their waits overlap.
pub(crate) async fn on_each_store(test: impl AsyncFn(Store)) {
    on_memory(&test).await;
    on_servers(&test).await;
}

/// Runs `test` against a new memory store.
pub(crate) async fn on_memory(test: impl AsyncFn(Store)) {
    let can_pause = Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread;
    if can_pause {
        time::pause();
    }
    on("memory", test(Store::memory())).await;
    if can_pause {
        time::resume();
    }
}

/// Runs `test` against a new Redis and an empty Cluster.
pub(crate) async fn on_servers(test: impl AsyncFn(Store)) {
    // Six servers: one Cluster for all tests, emptied for each test in turn.
    static CLUSTER: LazyLock<Mutex<Cluster>> = LazyLock::new(|| Mutex::new(Cluster::start()));
    let cluster = CLUSTER.lock().await;
    for master in cluster.masters() {
        cluster.node(master).command(&["FLUSHALL"]).unwrap();
    }
    let redis = Redis::start();
    let on_redis = test(connect(&redis.url()).await);
    let on_cluster = test(connect(&cluster.url()).await);
    tokio::join!(on("Redis", on_redis), on("a Cluster", on_cluster));
}

/// Names the kind of store if the test panics on it.
pub(crate) async fn on(kind: &'static str, test: impl Future<Output = ()>) {
    struct Named(&'static str);
    impl Drop for Named {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("not completed on {}", self.0);
            }
        }
    }
    let named = Named(kind);
    test.await;
    std::mem::forget(named);
}

/// Opens a store with a timeout that a busy machine does not reach.
pub(crate) async fn connect(url: &str) -> Store {
    Store::connect_within(url, TIMEOUT).await.unwrap()
}

pub(crate) fn lock(store: &Store, name: &str, lease: Duration) -> Lock {
    store.lock(name).lease(lease).unwrap()
}

pub(crate) async fn held(lock: &Lock) -> Guard {
    match lock.try_acquire().await.unwrap() {
        Acquired::Held(guard) => guard,
        Acquired::Busy(busy) => panic!("{busy:?}"),
    }
}

pub(crate) async fn busy(lock: &Lock) -> Busy {
    match lock.try_acquire().await.unwrap() {
        Acquired::Held(guard) => panic!("{guard:?}"),
        Acquired::Busy(busy) => busy,
    }
}

/// Spawns a waiter without a timeout.
pub(crate) fn waiting(lock: &Lock) -> JoinHandle<Guard> {
    let lock = lock.clone();
    tokio::spawn(async move { lock.acquire().await.unwrap() })
}

pub(crate) async fn got(waiter: JoinHandle<Guard>) -> Guard {
    timeout(TIMEOUT, waiter).await.expect("notified").unwrap()
}

/// Lets spawned waiters join the local queue and send their requests, and the store reply.
pub(crate) async fn settle(store: &Store) {
    for _ in 0..20 {
        yield_now().await;
    }
    store.ping().await.unwrap();
}

/// Waits until the queues of the store hold `count` waiters, and returns its locks.
///
/// Redis knows only the queue heads of the processes, and not those of the process that holds
/// the lock.
pub(crate) async fn queued(store: &Store, count: usize) -> Vec<LockInfo> {
    let begun = Instant::now();
    loop {
        let locks = store.locks().await.unwrap();
        let waiters = locks.iter().map(|lock| lock.waiters.len());
        if waiters.sum::<usize>() == count {
            return locks;
        }
        assert!(begun.elapsed() < TIMEOUT, "not {count} in {locks:?}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < TIMEOUT, "{what}: not within {TIMEOUT:?}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until the queue of `name` in Redis holds `count` queue heads.
pub(crate) async fn queue_heads(redis: &Redis, name: &str, count: usize) {
    let queue = format!("lockstock:{{{name}}}:queue");
    let count = count.to_string();
    until("the queue", || {
        redis.command(&["ZCARD", &queue]).unwrap() == count
    })
    .await;
}
