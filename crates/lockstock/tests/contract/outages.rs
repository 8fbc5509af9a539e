//! Lost replies, lost data, and servers that are down.

use std::time::Duration;

use lockstock::{Acquired, Store};
use lockstock_testkit::{Proxy, Redis};
use tokio::time::{Instant, sleep, timeout};

use super::harness::{BRIEF, LEASE, SHORT, TIMEOUT, busy, connect, held, lock};

async fn until_ready(store: &Store) {
    let begun = Instant::now();
    while store.ping().await.is_err() {
        assert!(begun.elapsed() < TIMEOUT, "it does not recover");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_lock_that_the_store_forgot_is_lost_before_its_lease_ends() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let lock = lock(&store, "a", LEASE);
    let forgotten = held(&lock).await;
    redis.command(&["FLUSHALL"]).unwrap();
    let next = held(&lock).await;
    assert!(next.fence() > forgotten.fence());
    assert!(forgotten.release().await.unwrap_err().is_lost());
    assert!(
        busy(&lock).await.retry_after().is_some(),
        "the lock of the next holder is untouched"
    );
    next.release().await.unwrap();
}

#[tokio::test]
async fn a_request_whose_reply_was_lost_is_sent_again() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let store = connect(&format!("redis://{}/0", proxy.address())).await;
    let lock = lock(&store, "a", LEASE);
    for _ in 0..5 {
        proxy.reset_next_reply();
        let guard = held(&lock).await;
        proxy.reset_next_reply();
        guard.release().await.unwrap();
        let guard = held(&lock).await;
        proxy.reset_next_reply();
        guard.keep().await.unwrap();
        redis.command(&["DEL", "a"]).unwrap();
    }
    assert_eq!(redis.command(&["EXISTS", "a"]), Ok("0".to_owned()));
}

#[tokio::test]
async fn a_grant_whose_reply_was_lost_is_released() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let url = format!("redis://{}/0", proxy.address());
    let store = Store::connect_within(&url, BRIEF).await.unwrap();
    let lock = lock(&store, "a", LEASE);
    held(&lock).await.release().await.unwrap();
    redis.command(&["DEL", "lockstock:clock"]).unwrap();
    proxy.drop_replies();
    assert!(lock.try_acquire().await.unwrap_err().is_unavailable());
    let fence = redis.command(&["EXISTS", "lockstock:clock"]);
    assert_eq!(fence, Ok("1".to_owned()), "it was granted");
    proxy.cut();
    proxy.pass();
    store.drain().await;
    assert_eq!(redis.command(&["EXISTS", "a"]), Ok("0".to_owned()));
}

#[tokio::test]
async fn a_lock_that_redis_grants_after_a_standstill_is_withdrawn_by_a_script_it_does_not_know() {
    let redis = Redis::start();
    let other = connect(&redis.url()).await;
    let store = Store::open_within(&redis.url(), SHORT).unwrap();
    until_ready(&store).await;
    // Loads the script that grants, not the one that withdraws.
    held(&lock(&other, "a", LEASE))
        .await
        .release()
        .await
        .unwrap();
    redis.command(&["DEL", "lockstock:clock"]).unwrap();
    redis.pause();
    let lock = lock(&store, "a", BRIEF);
    assert!(lock.try_acquire().await.unwrap_err().is_unavailable());
    // Until the withdrawal is not repeated any more.
    store.drain().await;
    redis.resume();
    until_ready(&store).await;
    let fence = redis.command(&["EXISTS", "lockstock:clock"]);
    assert_eq!(fence, Ok("1".to_owned()), "it was granted");
    assert_eq!(redis.command(&["EXISTS", "a"]), Ok("0".to_owned()));
}

#[tokio::test]
async fn while_redis_hangs_locks_fail_at_once_and_nothing_stays_held() {
    let redis = Redis::start();
    let store = Store::connect_within(&redis.url(), BRIEF).await.unwrap();
    let guard = held(&lock(&store, "held", LEASE)).await;
    let lock = lock(&store, "a", LEASE);
    redis.pause();
    assert!(lock.try_acquire().await.unwrap_err().is_unavailable());
    for _ in 0..100 {
        let error = lock.acquire_within(LEASE).await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
    }
    let error = guard.release().await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    redis.resume();
    // The request that was sent is withdrawn, and the release is sent again.
    timeout(TIMEOUT, store.drain()).await.unwrap();
    assert_eq!(redis.command(&["EXISTS", "a", "held"]), Ok("0".to_owned()));
    until_ready(&store).await;
    held(&lock).await.release().await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_down_is_unavailable_not_busy_and_recovers() {
    let redis = Redis::start();
    let store = Store::connect(&redis.url()).await.unwrap();
    let lock = lock(&store, "a", LEASE);
    let guard = held(&lock).await;
    redis.kill();
    assert!(lock.try_acquire().await.unwrap_err().is_unavailable());
    assert!(
        lock.acquire_within(LEASE)
            .await
            .unwrap_err()
            .is_unavailable()
    );
    assert!(guard.release().await.unwrap_err().is_unavailable());
    assert!(store.ping().await.unwrap_err().is_unavailable());
    redis.restart();
    held(&lock).await.release().await.unwrap();
    let closed = format!("redis://127.0.0.1:{}/0", lockstock_testkit::free_port());
    assert!(Store::connect(&closed).await.unwrap_err().is_unavailable());
}

#[tokio::test]
async fn a_rejected_waiter_leaves_the_queue() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let near = connect(&redis.url()).await;
    let far = connect(&format!("redis://{}/0", proxy.address())).await;
    let guard = held(&lock(&near, "a", BRIEF * 2)).await;
    guard.keep().await.unwrap();
    proxy.delay(Duration::from_millis(40));
    // The wait outlasts the lock when the request is sent, and not when the reply arrives.
    let remaining_ms = redis.command(&["PTTL", "a"]).unwrap();
    let remaining = Duration::from_millis(remaining_ms.parse().unwrap());
    let wait = remaining + Duration::from_millis(15);
    let answer = lock(&far, "a", LEASE).acquire_within(wait).await.unwrap();
    if let Acquired::Busy(_) = answer {
        assert_eq!(
            redis.command(&["EXISTS", "lockstock:{a}:queue"]),
            Ok("0".to_owned())
        );
    }
    drop(answer);
    far.drain().await;
    let next = lock(&near, "a", LEASE);
    let next = timeout(TIMEOUT, next.acquire()).await;
    next.expect("free").unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_rejected_handshake_is_retried() {
    let redis = Redis::start();
    let acl = |words: &[&str]| redis.command(&[&["ACL", "SETUSER", "shop"], words].concat());
    acl(&["on", ">pw", "~*", "&*", "+@all"]).unwrap();
    let url = format!("redis://shop:pw@{}/0", redis.address());
    let store = Store::connect(&url).await.unwrap();
    let lock = lock(&store, "a", LEASE);
    held(&lock).await.release().await.unwrap();
    for _ in 0..3 {
        // Closes its connections, and replies WRONGPASS to new ones.
        acl(&["off"]).unwrap();
        redis.command(&["CLIENT", "KILL", "USER", "shop"]).unwrap();
        assert!(lock.try_acquire().await.unwrap_err().is_unavailable());
        acl(&["on"]).unwrap();
        until_ready(&store).await;
    }
    store.drain().await;
    held(&lock).await.release().await.unwrap();
}
