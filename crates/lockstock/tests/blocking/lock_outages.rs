//! Locks over blocking connections whose server restarts, hangs, or loses replies.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lockstock::blocking::{Lock, Store};
use lockstock_testkit::{Proxy, Redis};

use super::harness::{self, LEASE, TIMEOUT};
use super::{on_each_store, open};

/// A time limit that a test waits for.
const BRIEF: Duration = Duration::from_millis(300);

fn lock(store: &Store, name: &str) -> Lock {
    store.lock(name).lease(LEASE).unwrap()
}

/// Waits until another client acquires the lock, long before the end of the lease.
fn is_free_for_others(redis: &Redis, name: &str) {
    let other = lock(&open(&redis.url()), name);
    let gives_up_at = Instant::now() + TIMEOUT;
    loop {
        if let Some(guard) = other.try_acquire().unwrap().held() {
            return guard.release().unwrap();
        }
        assert!(Instant::now() < gives_up_at, "the lock is left behind");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_lock_of_a_server_that_has_restarted_is_lost() {
    let redis = Redis::start();
    let report = lock(&open(&redis.url()), "report");
    for _ in 0..5 {
        let guard = report.acquire().unwrap();
        redis.kill();
        redis.restart();
        assert!(guard.release().unwrap_err().is_lost());
        let guard = report.acquire().unwrap();
        redis.kill();
        // Not "released": whether the lock is held is unknown.
        assert!(guard.release().unwrap_err().is_unavailable());
        assert!(report.acquire().unwrap_err().is_unavailable());
        redis.restart();
    }
}

#[test]
fn a_lock_whose_server_hangs_is_given_back() {
    let redis = Redis::start();
    let store = Store::builder(redis.url()).timeout(BRIEF).open().unwrap();
    let report = lock(&store, "report");
    let guard = report.acquire().unwrap();
    redis.pause();
    assert!(guard.release().unwrap_err().is_unavailable());
    redis.resume();
    is_free_for_others(&redis, "report");
}

#[test]
fn a_request_that_a_server_executes_after_its_time_limit_leaves_nothing_behind() {
    for text_is_known in [true, false] {
        let redis = Redis::start();
        let store = Store::builder(redis.url()).timeout(BRIEF).open().unwrap();
        // With a connection that is open already.
        lock(&store, "other").acquire().unwrap().release().unwrap();
        if !text_is_known {
            redis.command(&["SCRIPT", "FLUSH"]).unwrap();
        }
        redis.pause();
        let error = lock(&store, "report").acquire_within(TIMEOUT).unwrap_err();
        assert!(error.is_timed_out(), "{error}");
        redis.resume();
        is_free_for_others(&redis, "report");
    }
}

#[test]
fn a_reply_that_is_lost_is_neither_a_second_grant_nor_a_lock_left_behind() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let report = lock(&open(&format!("redis://{}", proxy.address())), "report");
    for _ in 0..5 {
        report.acquire().unwrap().release().unwrap();
        proxy.reset_next_reply();
        let guard = report.acquire_within(TIMEOUT).unwrap().held().unwrap();
        let holder = redis.command(&["GET", "report"]).unwrap();
        assert!(holder.contains(&guard.id().to_string()), "{holder}");
        assert!(guard.remaining() <= LEASE);
        proxy.reset_next_reply();
        // It was executed, and the lease has not ended since.
        guard.release().unwrap();
        is_free_for_others(&redis, "report");
    }
    proxy.drop_replies();
    let short = Store::builder(format!("redis://{}", proxy.address()));
    let short = lock(&short.timeout(BRIEF).open().unwrap(), "dropped");
    assert!(short.acquire_within(TIMEOUT).unwrap_err().is_unavailable());
    proxy.pass();
    is_free_for_others(&redis, "dropped");
}

#[test]
fn threads_of_two_clients_share_a_lock_that_is_sometimes_free() {
    on_each_store(|store| {
        let inside = AtomicU32::new(0);
        let last_fence = std::sync::Mutex::new(0);
        thread::scope(|scope| {
            for number in 0..6 {
                let report = lock(&store, "report");
                let (inside, last_fence) = (&inside, &last_fence);
                scope.spawn(move || {
                    for round in 0..100 {
                        let acquired = report.acquire_within(TIMEOUT).unwrap();
                        let guard = acquired.held().expect("no starvation");
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        let last =
                            std::mem::replace(&mut *last_fence.lock().unwrap(), guard.fence());
                        assert!(guard.fence() > last);
                        assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                        match round % 3 {
                            0 => drop(guard),
                            _ => guard.release().unwrap(),
                        }
                        if (number + round) % 7 == 0 {
                            thread::sleep(Duration::from_millis(2));
                        }
                    }
                });
            }
        });
        store.drain().unwrap();
        assert!(store.locks().unwrap().is_empty());
    });
}

#[test]
fn a_lock_that_was_acquired_without_a_thread_is_renewed_kept_and_lost() {
    on_each_store(|store| {
        let short = store.lock("short").lease(3 * harness::BRIEF).unwrap();
        let guard = short.acquire().unwrap().auto_renew(LEASE);
        thread::sleep(4 * harness::BRIEF);
        assert!(!guard.is_lost());
        guard.release().unwrap();
        let guard = short.acquire().unwrap();
        while !guard.is_lost() {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(guard.release().unwrap_err().is_lost());
        let report = lock(&store, "report");
        report.acquire().unwrap().keep().unwrap();
        assert!(report.try_acquire().unwrap().held().is_none());
        // In the background.
        let other = lock(&store, "other");
        drop(other.acquire().unwrap());
        store.drain().unwrap();
        other.acquire().unwrap().release().unwrap();
        // By force.
        let guard = other.acquire().unwrap();
        let kind = lockstock::LockKind::Lock;
        assert!(
            store
                .force_release(kind, "other", Some(guard.id()))
                .unwrap()
        );
        assert!(guard.release().unwrap_err().is_lost());
    });
}
