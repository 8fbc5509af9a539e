//! Fences rise, also after Redis lost its data.

use lockstock_testkit::Redis;
use tokio::time::Instant;

use super::harness::{LEASE, connect, held, lock, on_each_store};

#[tokio::test]
async fn fences_rise_and_deadlines_never_exceed_the_lease() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let mut last = 0;
        for _ in 0..200 {
            let requested_at = Instant::now();
            let guard = held(&lock).await;
            assert!(guard.fence() > last);
            assert!(guard.deadline() <= Instant::now() + LEASE);
            assert!(guard.deadline() >= requested_at);
            last = guard.fence();
            guard.release().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn fences_do_not_decrease_after_redis_lost_its_data() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let lock = lock(&store, "a", LEASE);
    let mut last = 0;
    for forget in [
        &["FLUSHALL"][..],
        &["DEL", "lockstock:clock"],
        &["SCRIPT", "FLUSH"],
    ] {
        for _ in 0..50 {
            let guard = held(&lock).await;
            assert!(guard.fence() > last);
            last = guard.fence();
            guard.release().await.unwrap();
        }
        redis.command(forget).unwrap();
    }
    // Restored from an older copy: the counter is far behind the last fence.
    redis.command(&["SET", "lockstock:clock", "17"]).unwrap();
    let guard = held(&lock).await;
    assert!(guard.fence() > last);
    guard.release().await.unwrap();
    // The clock of the server was ahead once, and was set back.
    let ahead = 4_102_444_800_000_000_u64;
    redis
        .command(&["SET", "lockstock:clock", &ahead.to_string()])
        .unwrap();
    for n in 1..50 {
        let guard = held(&lock).await;
        assert_eq!(guard.fence(), ahead + n);
        guard.release().await.unwrap();
    }
}
