//! Dropped guards and dropped futures.

use std::time::Duration;

use tokio::time::timeout;

use super::harness::{LEASE, TIMEOUT, busy, held, lock, on_each_store};

#[tokio::test]
async fn a_dropped_guard_releases_the_lock() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        drop(held(&lock).await);
        let next = timeout(TIMEOUT, lock.acquire()).await.unwrap().unwrap();
        drop(next);
        store.drain().await;
        held(&lock).await.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn release_and_keep_complete_after_their_futures_are_dropped() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        drop(held(&lock).await.release());
        store.drain().await;
        drop(held(&lock).await.keep());
        store.drain().await;
        assert!(busy(&lock).await.is_kept());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancellation_at_any_point_leaves_nothing_behind() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        for n in 0..2000_u64 {
            let steps = async {
                let guard = lock.acquire().await.unwrap();
                let guard = if n % 3 == 0 {
                    guard.release().await.unwrap();
                    lock.acquire().await.unwrap()
                } else {
                    guard
                };
                drop(guard);
            };
            // At any point from before the request to after the release.
            let _ = timeout(Duration::from_micros(n * 7 % 600), steps).await;
        }
        store.drain().await;
        let next = timeout(TIMEOUT, lock.acquire()).await;
        let guard = next.expect("the lock is free").unwrap();
        guard.release().await.unwrap();
    })
    .await;
}
