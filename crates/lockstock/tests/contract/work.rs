//! Work under a lock, in one call.

use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use lockstock::{Acquired, Error, Guard, LockKind, Store};
use lockstock_testkit::Redis;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::harness::{BRIEF, LEASE, SHORT, TIMEOUT, busy, connect, held, lock, on_each_store};

#[tokio::test]
async fn work_runs_under_the_lock_and_gives_it_back() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let outcome = lock.with(TIMEOUT, async |guard| {
            busy(&lock).await;
            guard.renew().await.unwrap();
            guard.fence()
        });
        let fence = outcome.await.unwrap().held().unwrap();
        // Also after a failure of its own.
        let failed = lock.with(TIMEOUT, async |_| Err::<(), _>("out of stock"));
        let failed = failed.await.unwrap();
        assert!(matches!(failed, Acquired::Held(Err("out of stock"))));
        let guard = held(&lock).await;
        assert!(guard.fence() > fence);
        let second = lock.with(Duration::ZERO, async |_| panic!("it is held"));
        let Acquired::Busy(answer) = second.await.unwrap();
        assert!(answer.retry_after().unwrap() <= LEASE);
        guard.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn work_is_dropped_when_its_lock_is_lost() {
    on_each_store(async |store| {
        let short = lock(&store, "a", SHORT);
        let stuck = short.with(TIMEOUT, async |_| pending::<()>().await);
        let lost = timeout(TIMEOUT, stuck).await.expect("dropped");
        assert!(lost.unwrap_err().is_lost());
        // Lost while the work was done: the result is not returned as a success.
        let long = lock(&store, "a", LEASE);
        let unaware = long.with(TIMEOUT, async |guard| {
            let taken = store.force_release(LockKind::Lock, guard.name(), None);
            assert!(taken.await.unwrap());
        });
        assert!(unaware.await.unwrap_err().is_lost());
        held(&long).await.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn work_that_is_dropped_or_panics_gives_the_lock_back() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let begun = Notify::new();
        let stuck = lock.with(TIMEOUT, async |_| {
            begun.notify_one();
            pending::<()>().await;
        });
        tokio::select! {
            _ = stuck => panic!("it never ends"),
            () = begun.notified() => {}
        }
        let panicking = lock.with(TIMEOUT, async |_| panic!("a bug"));
        assert!(AssertUnwindSafe(panicking).catch_unwind().await.is_err());
        let next = timeout(TIMEOUT, lock.acquire()).await.expect("given back");
        next.unwrap().release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn work_longer_than_the_lease_is_renewed_if_the_lock_is_configured_so() {
    on_each_store(async |store| {
        let brief = lock(&store, "a", BRIEF).auto_renew(TIMEOUT);
        let done = brief.with(TIMEOUT, async |guard| {
            let first = guard.deadline();
            tokio::time::sleep_until(first + BRIEF / 10).await;
        });
        assert!(done.await.unwrap().held().is_some());
        let capped = lock(&store, "a", SHORT).auto_renew(SHORT * 2);
        let stuck = capped.with(TIMEOUT, async |_| pending::<()>().await);
        let lost = timeout(TIMEOUT, stuck).await.expect("capped");
        assert!(lost.unwrap_err().is_lost());
    })
    .await;
}

#[tokio::test]
async fn work_under_several_locks_a_permit_or_a_reader() {
    on_each_store(async |store| {
        let cart = store.lock_all(["shoes", "laces"]).lease(LEASE).unwrap();
        let laces = lock(&store, "laces", LEASE);
        let fence = cart.with(TIMEOUT, async |guards| {
            busy(&laces).await;
            guards.extend(LEASE).await.unwrap();
            assert!(guards.remaining() > LEASE);
            guards.renew().await.unwrap();
            guards.fence_of("shoes")
        });
        assert!(fence.await.unwrap().held().unwrap().is_some());
        let guard = held(&laces).await;
        let sold_out = cart.with(Duration::ZERO, async |_| panic!("one is held"));
        assert!(sold_out.await.unwrap().held().is_none());
        guard.release().await.unwrap();

        let permit = store.semaphore("a", 1).lease(LEASE).unwrap();
        let read = store.read_lock("a").lease(LEASE).unwrap();
        for shared in [permit, read] {
            let done = shared.with(TIMEOUT, async |guard| guard.name().to_vec());
            assert_eq!(done.await.unwrap().held().unwrap(), b"a");
        }
    })
    .await;
}

#[tokio::test]
async fn work_that_is_done_is_not_reported_as_failed_by_its_release() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let lock = lock(&store, "a", LEASE);
    let done = lock.with(TIMEOUT, async |_| {
        redis.kill();
        "saved"
    });
    assert_eq!(done.await.unwrap().held(), Some("saved"));
    let error = lock.with(TIMEOUT, async |_| panic!("no lock, no work"));
    assert!(error.await.unwrap_err().is_unavailable());
}

/// Compiles: handlers run on tasks that move between threads.
#[tokio::test]
async fn work_can_be_spawned() {
    let store = Store::memory();
    let one = lock(&store, "a", LEASE);
    let cart = store.lock_all(["a", "b"]).lease(LEASE).unwrap();
    let task = tokio::spawn(async move {
        let stock = String::from("shoes");
        let name = async |guard: &Guard| {
            guard.renew().await?;
            tokio::task::yield_now().await;
            Ok::<_, Error>(stock.len() + guard.name().len())
        };
        let first = one.with(TIMEOUT, name).await?.held().unwrap()?;
        let second = cart.with(TIMEOUT, async |guards| {
            guards.renew().await?;
            Ok::<_, Error>(stock.len())
        });
        second.await?.held().unwrap().map(|second| (first, second))
    });
    assert_eq!(task.await.unwrap().unwrap(), (6, 5));
}
