//! The end of a lease: by a crash, by loss, by extension and renewal.

use super::*;

#[tokio::test]
async fn a_lock_of_a_crashed_holder_is_free_when_its_lease_ends() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", SHORT);
        // As a crash: no release, no drop.
        std::mem::forget(held(&lock).await);
        let next = timeout(PATIENCE, lock.acquire()).await.unwrap().unwrap();
        next.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn operations_on_a_lost_lock_fail_as_lost() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", SHORT);
        let first = held(&lock).await;
        let mut second = lock.acquire().await.unwrap();
        assert!(first.remaining().is_zero(), "it knew before the store did");
        assert!(first.release().await.unwrap_err().is_lost());
        second.renew().await.unwrap();
        let third = lock.acquire().await.unwrap();
        assert!(second.extend(LEASE).await.unwrap_err().is_lost());
        assert!(second.keep().await.unwrap_err().is_lost());
        assert!(!third.remaining().is_zero());
        third.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn renew_restarts_the_lease_and_extend_adds_to_it() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let mut guard = held(&lock).await;
        guard.extend(LEASE).await.unwrap();
        assert!(guard.remaining() > LEASE && guard.remaining() <= LEASE * 2);
        let left = busy(&lock).await.retry_after().unwrap();
        assert!(left > LEASE && left <= LEASE * 2, "{left:?}");
        guard.renew().await.unwrap();
        assert!(guard.remaining() <= LEASE);
        let left = busy(&lock).await.retry_after().unwrap();
        assert!(left <= LEASE && left > LEASE / 2, "{left:?}");
        assert!(
            guard
                .extend(lockstock::MAX_LEASE)
                .await
                .unwrap_err()
                .is_invalid()
        );
        guard.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn run_cancels_its_work_when_the_lock_is_lost() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", SHORT);
        let guard = held(&lock).await;
        assert_eq!(guard.run(async { 42 }).await.unwrap(), 42);
        let stopped = guard.run(std::future::pending::<()>()).await;
        assert!(stopped.unwrap_err().is_lost());
        assert!(guard.remaining().is_zero());
        // It was lost before the store let the next one in.
        lock.acquire().await.unwrap().release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_renewal_that_shortens_the_lease_still_applies() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", SHORT);
        let mut guard = held(&lock).await;
        guard.extend(LEASE).await.unwrap();
        let _ = timeout(Duration::ZERO, guard.renew()).await;
        assert!(guard.remaining() <= SHORT);
    })
    .await;
}
