//! What the contract suites share.

#![allow(dead_code, reason = "not every suite needs all of it")]

use std::sync::LazyLock;
use std::time::Duration;

use lockstock::{Acquired, Busy, Guard, Lock, Store};
use lockstock_testkit::{Cluster, Redis};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(crate) const LEASE: Duration = Duration::from_secs(20);
pub(crate) const SHORT: Duration = Duration::from_millis(200);
/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `test` against each kind of store, each time a new one.
pub(crate) async fn on_each_store(test: impl AsyncFn(Store)) {
    test(Store::memory()).await;
    let redis = Redis::start();
    test(Store::connect(&redis.url()).await.unwrap()).await;
    // Six servers: one Cluster for all tests, one test at a time, each from the beginning.
    static CLUSTER: LazyLock<Mutex<Cluster>> = LazyLock::new(|| Mutex::new(Cluster::start()));
    let cluster = CLUSTER.lock().await;
    for master in cluster.masters() {
        cluster.node(master).command(&["FLUSHALL"]).unwrap();
    }
    test(Store::connect(&cluster.url()).await.unwrap()).await;
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

pub(crate) fn waiting(lock: &Lock) -> JoinHandle<Guard> {
    let lock = lock.clone();
    tokio::spawn(async move { lock.acquire().await.unwrap() })
}

pub(crate) async fn got(waiter: JoinHandle<Guard>) -> Guard {
    timeout(PATIENCE, waiter).await.expect("woken").unwrap()
}
