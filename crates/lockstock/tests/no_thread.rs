//! Locks of synchronous callers that need no thread. A process of its own, because other tests start
//! the runtime of theirs.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::fs;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lockstock::Acquired;
use lockstock::blocking::{Guard, Lock, Store};
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

fn waiter_of(lock: &Lock) -> JoinHandle<Guard> {
    let lock = lock.clone();
    thread::spawn(move || lock.acquire().unwrap())
}

/// Waits until there is a waiter in Redis' queue.
fn wait_for_queue(redis: &Redis) {
    while redis
        .command(&["EXISTS", "lockstock:{free}:queue"])
        .unwrap()
        == "0"
    {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn locks_and_waits_on_the_thread_of_their_caller_start_no_thread() {
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

    // A wait on the thread of its caller, which is notified, and one that reaches its deadline.
    let other = Store::open(&redis.url()).unwrap();
    let others = other.lock("free").lease(LEASE).unwrap();
    let guard = others.acquire().unwrap();
    let fence = guard.fence();
    let brief = lock.acquire_within(Duration::from_millis(20)).unwrap();
    assert!(brief.held().is_none());
    let waiter = waiter_of(&lock);
    wait_for_queue(&redis);
    guard.release().unwrap();
    let guard = waiter.join().unwrap();
    assert!(guard.fence() > fence);
    assert_eq!(threads(), [""; 0]);

    // The second waiter of a process needs one: it waits behind the first in a local queue.
    let waiters = [(); 2].map(|()| {
        let lock = lock.clone();
        thread::spawn(move || lock.with(LEASE, |_| ()))
    });
    wait_for_queue(&redis);
    guard.release().unwrap();
    for waiter in waiters {
        assert!(waiter.join().unwrap().unwrap().held().is_some());
    }
}
