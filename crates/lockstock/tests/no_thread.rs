//! Locks of synchronous callers that need no thread. A process of its own, because other tests start
//! the runtime of theirs.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::fs;
use std::time::Duration;

use lockstock::Acquired;
use lockstock::blocking::Store;
use lockstock_testkit::Redis;

const LEASE: Duration = Duration::from_secs(60);

/// Returns the threads of the library in this process.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")));
    // A thread may have ended meanwhile.
    let ours = names.flatten().filter(|name| name.starts_with("lockstock"));
    ours.collect()
}

#[test]
fn locks_that_are_free_and_answers_that_need_no_wait_start_no_thread() {
    let redis = Redis::start();
    let store = Store::builder(redis.url())
        .timeout(Duration::from_secs(30))
        .open()
        .unwrap();
    let lock = store.lock("free").lease(LEASE).unwrap();
    let mut last = 0;
    for round in 0..100 {
        if round % 10 == 0 {
            redis.command(&["SCRIPT", "FLUSH"]).unwrap();
        }
        let guard = lock.acquire().unwrap();
        assert!(guard.fence() > last && guard.remaining() <= LEASE);
        last = guard.fence();
        assert_eq!(redis.command(&["EXISTS", "free"]).unwrap(), "1");
        assert!(lock.try_acquire().unwrap().held().is_none());
        guard.release().unwrap();
        assert_eq!(redis.command(&["EXISTS", "free"]).unwrap(), "0");
        assert!(lock.with(LEASE, |_| ()).unwrap().held().is_some());
    }
    let uploads = store.semaphore("uploads", 2).take(2).lease(LEASE).unwrap();
    let two = uploads.acquire().unwrap();
    assert!(uploads.try_acquire().unwrap().held().is_none());
    two.release().unwrap();
    let reader = store.read_lock("catalog").lease(LEASE).unwrap();
    let (one, other) = (reader.acquire().unwrap(), reader.acquire().unwrap());
    one.release().unwrap();
    other.release().unwrap();
    // Kept for longer than the wait.
    let fence = i64::try_from(last + 1).unwrap();
    let kept = format!("lockstock:kept:00000000000000000000000000000000:{fence}");
    redis
        .command(&["SET", "kept", &kept, "PX", "60000"])
        .unwrap();
    let outcome = store.lock("kept").lease(LEASE).unwrap();
    let outcome = outcome.acquire_within(LEASE / 2).unwrap();
    assert!(matches!(outcome, Acquired::Busy(busy) if busy.is_kept()));
    assert_eq!(threads(), [""; 0]);

    // A wait needs one, and what was acquired without one is handed over.
    let guard = lock.acquire().unwrap();
    let waiter = std::thread::spawn({
        let lock = lock.clone();
        move || lock.acquire().unwrap().fence()
    });
    while redis
        .command(&["EXISTS", "lockstock:{free}:queue"])
        .unwrap()
        == "0"
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    let fence = guard.fence();
    guard.release().unwrap();
    assert!(waiter.join().unwrap() > fence);
    assert_eq!(threads().len(), 1);
}
