use std::time::Duration;

use lockstock_testkit::Sentinel;
use tokio::time::Instant;

use crate::store::redis::connection::tests::{TIMEOUT, TestClient, await_disconnect};

/// Longer than a failover takes here, and much shorter than the timeouts of the sentinels.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn after_the_master_dies_the_client_connects_to_the_new_one() {
    let sentinel = Sentinel::start();
    let client = TestClient::connect(&sentinel.url()).await;
    client.assert_notified("k").await;
    let disconnects = client.notifications.disconnects();
    let old = sentinel.master();
    sentinel.kill_master();
    await_disconnect(&client, disconnects).await;
    let begun = Instant::now();
    // Until the failover, calls fail.
    let error = client.increment("k").await.err().expect("no master yet");
    assert!(error.is_unavailable(), "{error}");
    client.increment_until_available("k").await;
    assert!(begun.elapsed() < FAILOVER_TIMEOUT, "{:?}", begun.elapsed());
    let new = sentinel.await_failover(old);
    assert_eq!(sentinel.node(new).command(&["EXISTS", "k"]), Ok("1".into()));
    client.assert_notified("k").await;

    // The old master comes back as a second master, until a sentinel reconfigures it.
    sentinel.restart(old);
    for _ in 0..20 {
        client.increment("here").await.unwrap();
    }
    sentinel.await_replica(old);
    assert_eq!(
        sentinel.node(new).command(&["GET", "here"]),
        Ok("20".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_client_leaves_a_master_that_hangs() {
    let sentinel = Sentinel::start();
    let client = TestClient::connect(&sentinel.url()).await;
    client.assert_notified("k").await;
    sentinel.await_copied();
    let disconnects = client.notifications.disconnects();
    let old = sentinel.master();
    sentinel.pause_master();
    // Its connections do not break: a sentinel announces the new master.
    await_disconnect(&client, disconnects).await;
    let new = sentinel.await_failover(old);
    client.assert_notified("k").await;
    sentinel.node(old).resume();
    sentinel.await_replica(old);
    client.assert_notified("k").await;
    let counted = sentinel.node(new).command(&["GET", "k"]).unwrap();
    assert!(counted.parse::<u64>().unwrap() >= 3, "{counted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_client_follows_the_one_sentinel_that_is_neither_frozen_nor_dead() {
    let sentinel = Sentinel::start();
    let client = TestClient::connect(&sentinel.url()).await;
    client.assert_notified("k").await;
    sentinel.await_copied();
    sentinel.pause_sentinel(0);
    sentinel.kill_sentinel(1);
    let disconnects = client.notifications.disconnects();
    let old = sentinel.master();
    // No connection of the client breaks.
    sentinel.node(old).pause();
    let new = sentinel.fail_over();
    await_disconnect(&client, disconnects).await;
    client.assert_notified("k").await;
    let exists = sentinel.node(new).command(&["EXISTS", "k"]);
    assert_eq!(exists, Ok("1".into()));
    // One more announcement of the same master changes nothing.
    let disconnects = client.notifications.disconnects();
    sentinel.resume_sentinel(0);
    sentinel.node(old).resume();
    sentinel.await_replica(old);
    client.assert_notified("k").await;
    assert_eq!(client.notifications.disconnects(), disconnects);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demoted_master_is_left_for_the_new_one() {
    let sentinel = Sentinel::start();
    let client = TestClient::connect(&sentinel.url()).await;
    for round in 0..2 {
        let begun = Instant::now();
        let old = sentinel.master();
        let new = sentinel.fail_over();
        sentinel.await_replica(old);
        let counted = client.increment_until_available("k").await;
        assert!(begun.elapsed() < TIMEOUT, "{round}");
        assert_eq!(
            sentinel.node(new).command(&["GET", "k"]),
            Ok(counted.to_string())
        );
        client.assert_notified("k").await;
    }
}

#[tokio::test]
async fn one_sentinel_is_enough_and_errors_name_the_mistake() {
    let sentinel = Sentinel::start_with(&["--requirepass", "s3cret"]);
    let url = sentinel.url().replace("://", "://default:s3cret@");
    let client = TestClient::connect(&url).await;
    client.assert_notified("k").await;
    sentinel.kill_sentinel(0);
    sentinel.kill_sentinel(2);
    TestClient::connect(&url).await.assert_notified("k").await;

    let error = |result: crate::Result<TestClient>| result.err().expect("an error").to_string();
    let text = error(TestClient::try_connect(&url.replace("/shop/", "/other/")).await);
    assert!(text.contains("'other'"), "{text}");
    let text = error(TestClient::try_connect(&url.replace("s3cret", "hunter2")).await);
    assert!(
        text.contains("WRONGPASS") && !text.contains("hunter2"),
        "{text}"
    );
    let master = sentinel.nodes()[0].address();
    let text = error(TestClient::try_connect(&format!("redis+sentinel://{master}/shop")).await);
    assert!(
        text.contains("NOAUTH") || text.contains("unknown command"),
        "{text}"
    );
}
