use std::thread;
use std::time::Duration;

use lockstock::blocking::{Guard, Lock, Store};
use lockstock::{Acquired, LockKind};
use lockstock_testkit::Redis;

use super::harness::{self, BRIEF, LEASE, SHORT, TIMEOUT};
use super::{on_each_store, open};

fn lock(store: &Store, name: &str) -> Lock {
    store.lock(name).lease(LEASE).unwrap()
}

fn is_busy(lock: &Lock) -> bool {
    lock.try_acquire().unwrap().held().is_none()
}

#[test]
fn a_lock_has_one_holder_and_is_handed_over() {
    on_each_store(|store| {
        let report = lock(&store, "report");
        let guard = report.acquire().unwrap();
        assert_eq!((guard.name(), guard.lease()), (&b"report"[..], LEASE));
        assert!(is_busy(&report) && !guard.is_lost());
        let waiter = thread::spawn({
            let report = report.clone();
            move || report.acquire().unwrap()
        });
        guard.renew().unwrap();
        guard.extend(LEASE).unwrap();
        assert!(guard.remaining() > LEASE);
        let fence = guard.fence();
        guard.release().unwrap();
        let next: Guard = waiter.join().unwrap();
        assert!(next.fence() > fence);
        assert_eq!(store.locks().unwrap().len(), 1);
        let info = store.lock_info(LockKind::Lock, "report").unwrap().unwrap();
        assert_eq!(info.holders[0].id.client_id(), Some(store.client_id()));
        drop(next);
        store.drain().unwrap();
        assert!(!is_busy(&report));
    });
}

#[test]
fn work_runs_while_the_lock_is_held() {
    on_each_store(|store| {
        let report = lock(&store, "report");
        let held = report.with(TIMEOUT, |guard| (guard.fence(), is_busy(&report)));
        let Acquired::Held((fence, true)) = held.unwrap() else {
            panic!("not held meanwhile")
        };
        assert!(fence > 0 && !is_busy(&report));
        let kept = store.lock("kept").lease(LEASE).unwrap();
        kept.acquire().unwrap().keep().unwrap();
        let outcome = kept.with(TIMEOUT / 2, |_| panic!("kept")).unwrap();
        assert!(matches!(outcome, Acquired::Busy(busy) if busy.is_kept()));
        // The work outlives the lease.
        let short = store.lock("short").lease(SHORT).unwrap();
        let lost = short.with(TIMEOUT, |guard| {
            while !guard.is_lost() {
                thread::sleep(Duration::from_millis(5));
            }
        });
        assert!(lost.unwrap_err().is_lost());
        let renewed = store.lock("renewed").lease(BRIEF).unwrap();
        let renewed = renewed.auto_renew(LEASE);
        let held = renewed.with(TIMEOUT, |_| thread::sleep(2 * BRIEF));
        assert!(held.unwrap().held().is_some());
    });
}

#[test]
fn permits_readers_and_several_names() {
    on_each_store(|store| {
        let uploads = store.semaphore("uploads", 3).take(2).lease(LEASE).unwrap();
        let two = uploads.acquire().unwrap();
        assert!(is_busy(&uploads));
        two.release().unwrap();
        let read = store.read_lock("catalog").lease(LEASE).unwrap();
        let write = store.write_lock("catalog").lease(LEASE).unwrap();
        let (_one, _other) = (read.acquire().unwrap(), read.acquire().unwrap());
        assert!(is_busy(&write));
        let cart = store.lock_all(["b", "a", "b"]).lease(LEASE).unwrap();
        let guards = cart.acquire().unwrap();
        assert!(guards.fence_of("a").is_some() && guards.fence_of("c").is_none());
        assert!(is_busy(&lock(&store, "a")) && is_busy(&lock(&store, "b")));
        guards.renew().unwrap();
        guards.release().unwrap();
        let done = cart.with(TIMEOUT, |guards| guards.is_lost()).unwrap();
        assert_eq!(done.held(), Some(false));
        assert!(!is_busy(&lock(&store, "a")));
        assert!(store.lock("").lease(LEASE).unwrap_err().is_invalid());
        let none: [&str; 0] = [];
        assert!(store.lock_all(none).lease(LEASE).unwrap_err().is_invalid());
    });
}

#[test]
fn locks_are_those_of_asynchronous_callers() {
    let redis = Redis::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let theirs = runtime.block_on(harness::connect(&redis.url()));
    let ours = lock(&open(&redis.url()), "report");
    let guard = ours.acquire().unwrap();
    let (theirs, waiting) = runtime.block_on(async {
        let theirs = harness::lock(&theirs, "report", LEASE);
        harness::busy(&theirs).await;
        let waiting = harness::waiting(&theirs);
        (theirs, waiting)
    });
    guard.release().unwrap();
    let guard = runtime.block_on(harness::got(waiting));
    assert!(is_busy(&ours));
    runtime.block_on(guard.release()).unwrap();
    ours.acquire().unwrap().release().unwrap();
    drop(theirs);
}

#[test]
fn a_lock_is_taken_away_from_its_holder() {
    on_each_store(|store| {
        let guard = lock(&store, "report").acquire().unwrap();
        assert!(store.force_release(LockKind::Lock, "report", None).unwrap());
        assert!(guard.release().unwrap_err().is_lost());
    });
}
