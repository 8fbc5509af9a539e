//! The end of a lease, and how renewal and extension move it.

use std::time::Duration;

use tokio::time::timeout;

use super::harness::{LEASE, SHORT, TIMEOUT, busy, held, lock, on_each_store};

#[tokio::test]
async fn a_lock_of_a_crashed_holder_is_free_when_its_lease_ends() {
    on_each_store(async |store| {
        // As a crash: no release, no drop.
        std::mem::forget(held(&lock(&store, "a", SHORT)).await);
        let next = lock(&store, "a", LEASE);
        let next = timeout(TIMEOUT, next.acquire()).await.unwrap().unwrap();
        next.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn operations_on_a_lost_lock_fail_as_lost() {
    on_each_store(async |store| {
        let (short, long) = (lock(&store, "a", SHORT), lock(&store, "a", LEASE));
        let released = held(&short).await;
        let kept = short.acquire().await.unwrap();
        assert!(released.remaining().is_zero(), "lost before the next grant");
        let renewed = short.acquire().await.unwrap();
        assert!(kept.remaining().is_zero());
        let holder = long.acquire().await.unwrap();
        assert!(renewed.remaining().is_zero());

        assert!(released.release().await.unwrap_err().is_lost());
        assert!(kept.keep().await.unwrap_err().is_lost());
        assert!(renewed.renew().await.unwrap_err().is_lost());
        assert!(renewed.extend(LEASE).await.unwrap_err().is_lost());
        drop(renewed);
        store.drain().await;

        holder.renew().await.unwrap();
        assert!(!holder.remaining().is_zero());
        busy(&long).await;
        holder.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn renew_restarts_the_lease_and_extend_adds_to_it() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let guard = held(&lock).await;
        guard.extend(LEASE).await.unwrap();
        assert!(guard.remaining() > LEASE && guard.remaining() <= LEASE * 2);
        let remaining = busy(&lock).await.retry_after().unwrap();
        assert!(remaining > LEASE && remaining <= LEASE * 2, "{remaining:?}");
        guard.renew().await.unwrap();
        assert!(guard.remaining() <= LEASE);
        let remaining = busy(&lock).await.retry_after().unwrap();
        assert!(remaining <= LEASE && remaining > LEASE / 2, "{remaining:?}");
        let error = guard.extend(lockstock::MAX_LEASE).await.unwrap_err();
        assert!(error.is_invalid());
        guard.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_rest_of_a_lease_can_be_made_shorter_and_longer() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let guard = held(&lock).await;
        let fence = guard.fence();
        for rest in [LEASE / 4, LEASE * 2, LEASE / 2] {
            guard.set_remaining(rest).await.unwrap();
            assert!(guard.remaining() <= rest && guard.remaining() > rest / 2);
            let remaining = busy(&lock).await.retry_after().unwrap();
            assert!(remaining <= rest && remaining > rest / 2, "{remaining:?}");
        }
        assert_eq!(guard.fence(), fence);
        for invalid in [Duration::ZERO, lockstock::MAX_LEASE * 2] {
            let error = guard.set_remaining(invalid).await.unwrap_err();
            assert!(error.is_invalid());
        }
        guard.set_remaining(SHORT).await.unwrap();
        let next = timeout(TIMEOUT, lock.acquire()).await.unwrap().unwrap();
        assert!(guard.release().await.unwrap_err().is_lost());
        next.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_renewal_that_shortens_the_lease_still_applies() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let guard = held(&lock).await;
        guard.extend(LEASE * 2).await.unwrap();
        let _ = timeout(Duration::ZERO, guard.renew()).await;
        assert!(guard.remaining() <= LEASE);
    })
    .await;
}

#[tokio::test]
async fn run_cancels_its_work_when_the_lock_is_lost() {
    on_each_store(async |store| {
        let guard = held(&lock(&store, "a", LEASE)).await;
        assert_eq!(guard.run(async { 42 }).await.unwrap(), 42);
        guard.release().await.unwrap();
        let guard = held(&lock(&store, "a", SHORT)).await;
        let work = guard.run(std::future::pending::<()>());
        let cancelled = timeout(TIMEOUT, work).await.expect("cancelled");
        assert!(cancelled.unwrap_err().is_lost());
        assert!(guard.remaining().is_zero());
        // Lost before the store grants it to the next holder.
        let next = lock(&store, "a", LEASE).acquire().await.unwrap();
        next.release().await.unwrap();
    })
    .await;
}
