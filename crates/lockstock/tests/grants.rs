//! How a lock came to its holder, on every kind of store.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod harness;

use std::time::Duration;

use harness::{
    BRIEF, LEASE, TIMEOUT, connect, got, held, lock, on_each_store, queue_heads, queued, waiting,
};
use lockstock::GrantKind;
use lockstock_testkit::Redis;
use tokio::task::JoinSet;
use tokio::time::timeout;

#[tokio::test]
async fn a_lock_without_a_holder_was_free() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let guard = held(&lock).await;
        assert_eq!(guard.grant_kind(), GrantKind::Free);
        guard.release().await.unwrap();
        let guard = lock.acquire().await.unwrap();
        assert_eq!(guard.grant_kind(), GrantKind::Free);
    })
    .await;
}

#[tokio::test]
async fn a_waiter_gets_the_lock_from_its_holder() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let guard = held(&lock).await;
        let waiter = waiting(&lock);
        queued(&store, 1).await;
        guard.release().await.unwrap();
        let guard = got(waiter).await;
        // A holder that has not waited has no local queue in Redis.
        let kind = guard.grant_kind();
        assert!(
            matches!(kind, GrantKind::Local | GrantKind::Remote),
            "{kind:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_waiter_gets_the_lock_after_the_lease() {
    on_each_store(async |store| {
        std::mem::forget(held(&lock(&store, "a", BRIEF)).await);
        let waiter = waiting(&lock(&store, "a", LEASE));
        queued(&store, 1).await;
        let guard = got(waiter).await;
        assert_eq!(guard.grant_kind(), GrantKind::Expired);
        assert!(guard.waited() > Duration::ZERO);
    })
    .await;
}

#[tokio::test]
async fn another_process_hands_the_lock_over_remotely() {
    let redis = Redis::start();
    let (one, two) = (connect(&redis.url()).await, connect(&redis.url()).await);
    let guard = held(&lock(&one, "a", LEASE)).await;
    let waiter = waiting(&lock(&two, "a", LEASE));
    queue_heads(&redis, "a", 1).await;
    guard.release().await.unwrap();
    let guard = got(waiter).await;
    assert_eq!(guard.grant_kind(), GrantKind::Remote);
    assert!(guard.waited() > Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_hands_the_lock_over_locally() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let lock = lock(&store, "hot", LEASE);
        tasks.spawn(async move {
            let mut local = 0;
            for _ in 0..100 {
                let guard = lock.acquire().await.unwrap();
                local += u32::from(guard.grant_kind() == GrantKind::Local);
                guard.release().await.unwrap();
            }
            local
        });
    }
    let local = timeout(TIMEOUT, tasks.join_all()).await.unwrap();
    assert!(local.iter().sum::<u32>() > 0);
}
