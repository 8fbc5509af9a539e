//! The guarantees of values that are computed when they are missing: one computation for all
//! callers, stale values, tags; in one task, in one process, over several processes.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod entries;
mod flights;
#[path = "../harness/mod.rs"]
mod harness;
mod outages;
mod processes;
mod stale;
mod steps;
mod tags;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstock::{Cache, Store};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use harness::TIMEOUT;

/// A time to live that does not end within a test.
const LONG: Duration = Duration::from_secs(3600);
/// A time to live that has ended when it is looked at again.
const SHORTEST: Duration = Duration::from_millis(1);

fn pages(store: &Store) -> Cache<String> {
    store.cache("pages")
}

/// A computation that begins, and waits until it is let through.
#[derive(Clone)]
struct Gate(Arc<Inner>);

struct Inner {
    begun: Semaphore,
    open: Semaphore,
    calls: AtomicU64,
}

impl Gate {
    fn new() -> Self {
        Self(Arc::new(Inner {
            begun: Semaphore::new(0),
            open: Semaphore::new(0),
            calls: AtomicU64::new(0),
        }))
    }

    async fn pass<T>(&self, value: T) -> T {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        self.0.begun.add_permits(1);
        self.0.open.acquire().await.unwrap().forget();
        value
    }

    /// Waits until one more computation has begun.
    async fn begun(&self) {
        let begun = timeout(TIMEOUT, self.0.begun.acquire()).await;
        begun.expect("a computation begins").unwrap().forget();
    }

    /// Lets one computation through.
    fn open(&self) {
        self.0.open.add_permits(1);
    }

    fn calls(&self) -> u64 {
        self.0.calls.load(Ordering::SeqCst)
    }
}

/// A computation that must not be called.
async fn not_called<T>() -> T {
    panic!("computed")
}

/// The same for a computation that may fail.
async fn not_called_either<T>() -> Result<T, Infallible> {
    panic!("computed")
}

/// Waits until the value under `key` is stale or gone.
async fn is_past(pages: &Cache<String>, key: &str) {
    let past = async {
        while pages.get(key).await.unwrap().is_some() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(TIMEOUT, past).await.expect("it expires");
}
