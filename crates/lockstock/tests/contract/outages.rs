//! Lost replies, lost data and servers that are down.

use super::*;

#[tokio::test]
async fn a_lock_that_the_store_forgot_is_lost_before_its_lease_ends() {
    let redis = Redis::start();
    let store = Store::connect(&redis.url()).await.unwrap();
    let lock = lock(&store, "a", LEASE);
    let forgotten = held(&lock).await;
    redis.command(&["FLUSHALL"]).unwrap();
    let next = held(&lock).await;
    assert!(next.fence() > forgotten.fence());
    assert!(forgotten.release().await.unwrap_err().is_lost());
    assert!(
        busy(&lock).await.retry_after().is_some(),
        "the next holder's is untouched"
    );
    next.release().await.unwrap();
}

#[tokio::test]
async fn a_request_whose_reply_was_lost_is_sent_again() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let store = Store::connect(&format!("redis://{}/0", proxy.address()))
        .await
        .unwrap();
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
    let store = Store::connect_within(&url, SHORT).await.unwrap();
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
    let nobody = format!("redis://127.0.0.1:{}/0", lockstock_testkit::free_port());
    assert!(Store::connect(&nobody).await.unwrap_err().is_unavailable());
}

#[tokio::test]
async fn a_rejected_waiter_leaves_the_queue() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let near = Store::connect(&redis.url()).await.unwrap();
    let far = Store::connect(&format!("redis://{}/0", proxy.address()))
        .await
        .unwrap();
    held(&lock(&near, "a", Duration::from_secs(2)))
        .await
        .keep()
        .await
        .unwrap();
    proxy.delay(Duration::from_millis(40));
    // Long enough when it is sent, too short when the answer comes.
    let left = redis
        .command(&["PTTL", "a"])
        .unwrap()
        .parse::<u64>()
        .unwrap();
    let wait = Duration::from_millis(left + 15);
    let answer = lock(&far, "a", LEASE).acquire_within(wait).await.unwrap();
    if let Acquired::Busy(_) = answer {
        assert_eq!(
            redis.command(&["EXISTS", "lockstock:{a}:queue"]),
            Ok("0".to_owned())
        );
    }
    drop(answer);
    far.drain().await;
    let _ = timeout(PATIENCE, lock(&near, "a", LEASE).acquire())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_rejected_handshake_is_retried() {
    let redis = Redis::start();
    let acl = |words: &[&str]| redis.command(&[&["ACL", "SETUSER", "shop"], words].concat());
    acl(&["on", ">pw", "~*", "&*", "+@all"]).unwrap();
    let url = format!("redis://shop:pw@{}/0", redis.address());
    let store = Store::connect(&url).await.unwrap();
    held(&lock(&store, "a", LEASE))
        .await
        .release()
        .await
        .unwrap();
    for _ in 0..3 {
        // Ends its connections, and answers WRONGPASS to new ones.
        acl(&["off"]).unwrap();
        redis.command(&["CLIENT", "KILL", "USER", "shop"]).unwrap();
        let refused = lock(&store, "a", LEASE).try_acquire().await;
        assert!(refused.unwrap_err().is_unavailable());
        acl(&["on"]).unwrap();
        let begun = Instant::now();
        while store.ping().await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "down for good");
            sleep(Duration::from_millis(10)).await;
        }
    }
    store.drain().await;
    held(&lock(&store, "a", LEASE))
        .await
        .release()
        .await
        .unwrap();
}
