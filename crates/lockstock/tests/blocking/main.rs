//! The cache and the locks for synchronous callers, on every kind of store.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

#[path = "../harness/mod.rs"]
mod harness;

mod hostile;
mod lock_outages;
mod lock_waits;
mod locks;
mod many;
mod near;
mod outages;
mod topologies;
mod values;

use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;

use lockstock::blocking::Store;
use lockstock_testkit::{Cluster, Redis, Sentinel};

use harness::TIMEOUT;

/// Opens a store with a timeout that a busy machine does not reach.
fn open(url: &str) -> Store {
    Store::builder(url).timeout(TIMEOUT).open().unwrap()
}

/// Runs `test` against a new store of each kind.
fn on_each_store(test: impl Fn(Store) + Sync) {
    // Six servers, and five: one of each for all tests, emptied for each test in turn.
    static SERVERS: LazyLock<Mutex<(Cluster, Sentinel)>> = LazyLock::new(|| {
        thread::scope(|scope| {
            let sentinel = scope.spawn(Sentinel::start);
            Mutex::new((Cluster::start(), sentinel.join().unwrap()))
        })
    });
    test(Store::memory());
    test(open(&Redis::start().url()));
    let servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
    let (cluster, sentinel) = &*servers;
    sentinel.command(&["FLUSHALL"]).unwrap();
    test(open(&sentinel.url()));
    for master in cluster.masters() {
        cluster.node(master).command(&["FLUSHALL"]).unwrap();
    }
    test(open(&cluster.url()));
}
