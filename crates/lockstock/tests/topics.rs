//! Messages between clients, on every kind of store.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod harness;

use harness::{TIMEOUT, connect, on_each_store};
use lockstock::{Store, Subscription};
use lockstock_testkit::{Proxy, Redis};
use tokio::time::{sleep, timeout};

async fn next(subscription: &mut Subscription) -> Option<Vec<u8>> {
    let message = timeout(TIMEOUT, subscription.next()).await;
    message.expect("a message").map(|message| message.to_vec())
}

#[tokio::test]
async fn a_message_reaches_all_subscribers_of_its_topic() {
    on_each_store(async |store| {
        assert_eq!(store.publish("board", b"lost").await.unwrap(), 0);
        let mut one = store.subscribe("board").await.unwrap();
        let mut two = store.subscribe("board").await.unwrap();
        let mut other = store.subscribe("another").await.unwrap();
        assert_eq!(store.subscribers("board").await.unwrap(), 2);
        assert_eq!(store.publish("another", b"x").await.unwrap(), 1);
        // Any bytes.
        assert_eq!(store.publish("board", [0, 255, b'\n']).await.unwrap(), 2);
        assert_eq!(next(&mut one).await.unwrap(), [0, 255, b'\n']);
        assert_eq!(next(&mut two).await.unwrap(), [0, 255, b'\n']);
        assert_eq!(next(&mut other).await.unwrap(), b"x");
        assert!(one.is_alive().await);
    })
    .await;
}

#[tokio::test]
async fn a_topic_is_that_of_one_database() {
    let redis = Redis::start();
    let of_database = |number| format!("redis://{}/{number}", redis.address());
    let (here, same) = (
        connect(&of_database(0)).await,
        connect(&of_database(0)).await,
    );
    let there = connect(&of_database(3)).await;
    let mut message = here.subscribe("board").await.unwrap();
    let mut of_other = there.subscribe("board").await.unwrap();
    assert_eq!(same.publish("board", b"one").await.unwrap(), 1);
    assert_eq!(there.publish("board", b"two").await.unwrap(), 1);
    assert_eq!(next(&mut message).await.unwrap(), b"one");
    assert_eq!(next(&mut of_other).await.unwrap(), b"two");
}

#[tokio::test]
async fn a_subscription_ends_when_it_is_dropped() {
    on_each_store(async |store| {
        let subscription = store.subscribe("board").await.unwrap();
        assert_eq!(store.subscribers("board").await.unwrap(), 1);
        drop(subscription);
        let ended = async {
            while store.subscribers("board").await.unwrap() > 0 {
                sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        timeout(TIMEOUT, ended).await.expect("unsubscribed");
        assert_eq!(store.publish("board", b"lost").await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_subscription_reports_that_its_connection_broke() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let store = connect(&format!("redis://{}", proxy.address())).await;
    let mut subscription = store.subscribe("board").await.unwrap();
    proxy.cut();
    proxy.pass();
    assert_eq!(next(&mut subscription).await, None);
    let mut subscription = store.subscribe("board").await.unwrap();
    assert_eq!(store.publish("board", b"again").await.unwrap(), 1);
    assert_eq!(next(&mut subscription).await.unwrap(), b"again");
}

#[tokio::test]
async fn a_topic_has_a_plain_name() {
    let store = Store::memory();
    for name in ["", "wake:1", "Board", &"x".repeat(65)] {
        let error = store.subscribe(name).await.unwrap_err();
        assert!(error.is_invalid(), "{name}");
        assert!(store.publish(name, b"").await.unwrap_err().is_invalid());
    }
}
