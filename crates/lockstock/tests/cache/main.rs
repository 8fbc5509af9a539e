//! The guarantees of a value with a time to live, on every kind of store.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use lockstock::{Cache, Codec, Raw, Store};
use lockstock_testkit::Sentinel;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

mod codecs;
#[path = "../harness/mod.rs"]
mod harness;
mod integers;
mod keys;
mod layout;
mod many;
mod outages;
mod ttl;
mod values;

use harness::{TIMEOUT, connect, on, on_memory, on_servers};

/// A time to live that does not end within a test.
const LONG: Duration = Duration::from_secs(3600);

/// Runs `test` against a new, empty store of each kind and topology.
async fn on_each_store(test: impl AsyncFn(Store)) {
    on_memory(&test).await;
    // Five servers: one for all tests, emptied for each test in turn.
    static SENTINEL: LazyLock<Mutex<Sentinel>> = LazyLock::new(|| Mutex::new(Sentinel::start()));
    let on_sentinel = async {
        let sentinel = SENTINEL.lock().await;
        sentinel.command(&["FLUSHALL"]).unwrap();
        on("a Sentinel", test(connect(&sentinel.url()).await)).await;
    };
    tokio::join!(on_servers(&test), on_sentinel);
}

fn raw(store: &Store, namespace: &str) -> Cache<Bytes, Raw> {
    store.cache(namespace).codec(Raw)
}

/// Waits until the value under `key` has expired.
async fn gone<T, C: Codec<T>>(values: &Cache<T, C>, key: &str) {
    let gone = async {
        while values.contains(key).await.unwrap() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TIMEOUT, gone).await.unwrap();
}
