//! Lost replies, servers that are down, and slots that move.

use lockstock::{Integer, Raw, Store};
use lockstock_testkit::{Authority, Cluster, Proxy, Redis};

use super::harness::connect;
use super::{LONG, raw};

async fn behind(proxy: &Proxy) -> Store {
    connect(&format!("redis://{}/0", proxy.address())).await
}

#[tokio::test]
async fn a_command_whose_reply_was_lost_is_sent_again() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let values = raw(&behind(&proxy).await, "values");
    proxy.reset_next_reply();
    values.set("a", &"1".into(), LONG).await.unwrap();
    proxy.reset_next_reply();
    assert!(values.get("a").await.unwrap().is_some());
    proxy.reset_next_reply();
    assert!(values.replace("a", &"2".into(), LONG).await.unwrap());
    proxy.reset_next_reply();
    assert!(values.touch("a", LONG).await.unwrap());
    proxy.reset_next_reply();
    assert!(values.ttl("a").await.unwrap().is_some());
    proxy.reset_next_reply();
    assert!(values.contains("a").await.unwrap());
    proxy.reset_next_reply();
    values.persist("a").await.unwrap();
    proxy.reset_next_reply();
    values.delete("a").await.unwrap();
    assert_eq!(values.get("a").await.unwrap(), None);
}

#[tokio::test]
async fn a_command_that_must_not_run_twice_fails_if_its_reply_is_lost() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let values = behind(&proxy).await.cache("values").codec(Integer);
    for n in 1..=3 {
        proxy.reset_next_reply();
        let error = values.incr("a", 1, LONG).await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
        assert_eq!(values.get("a").await.unwrap(), Some(n));
    }
    proxy.reset_next_reply();
    let error = values.add("b", &1, LONG).await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(!values.add("b", &2, LONG).await.unwrap());
    assert_eq!(values.get("b").await.unwrap(), Some(1));
}

#[tokio::test]
async fn a_command_that_must_not_run_twice_is_sent_on_a_new_connection_if_the_old_one_is_gone() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let values = behind(&proxy).await.cache("values").codec(Integer);
    values.incr("a", 1, LONG).await.unwrap();
    proxy.cut();
    while values.get("a").await.is_ok() {}
    proxy.pass();
    while values.get("a").await.is_err() {}
    assert_eq!(values.incr("a", 1, LONG).await.unwrap(), 2);
    assert!(values.add("b", &1, LONG).await.unwrap());
}

#[tokio::test]
async fn a_store_that_is_down_is_unavailable_and_recovers() {
    let redis = Redis::start();
    let values = connect(&redis.url()).await.cache("values").codec(Integer);
    redis.kill();
    for result in [
        values.get("a").await.map(drop),
        values.set("a", &1, LONG).await,
        values.add("a", &1, LONG).await.map(drop),
        values.replace("a", &1, LONG).await.map(drop),
        values.delete("a").await.map(drop),
        values.contains("a").await.map(drop),
        values.touch("a", LONG).await.map(drop),
        values.persist("a").await.map(drop),
        values.ttl("a").await.map(drop),
        values.incr("a", 1, LONG).await.map(drop),
        values.get_many(["a"]).await.map(drop),
        values.set_many([("a", 1)], LONG).await,
        values.delete_many(["a"]).await.map(drop),
        values.keys("*").unwrap().next().await.map(drop),
        values.clear().await.map(drop),
    ] {
        let error = result.unwrap_err();
        assert!(error.is_unavailable() && !error.is_malformed(), "{error}");
    }
    redis.restart();
    values.set("a", &1, LONG).await.unwrap();
    assert_eq!(values.get("a").await.unwrap(), Some(1));
}

#[tokio::test]
async fn values_are_found_through_tls() {
    let authority = Authority::new();
    let tls = Redis::start_tls(&authority.issue(&["localhost"]));
    let authorities = authority.file().display();
    let url = format!("{}?ssl_ca_certs={authorities}", tls.url());
    let values = raw(&connect(&url).await, "values");
    values.set("a", &"1".into(), LONG).await.unwrap();
    assert_eq!(values.get("a").await.unwrap().as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn values_are_found_where_their_slot_has_moved_to() {
    let cluster = Cluster::start();
    let store = connect(&cluster.url()).await;
    let values = store.cache::<String>("values").codec(Raw);
    let keys = ["{a}1", "{a}2"];
    let move_slot = || {
        let from = cluster.owner("a");
        let to = cluster.masters().into_iter().find(|&node| node != from);
        cluster.move_slot(Cluster::slot("a"), to.unwrap());
    };
    values.set("{a}1", &"1".into(), LONG).await.unwrap();
    move_slot();
    assert_eq!(values.get("{a}1").await.unwrap().as_deref(), Some("1"));
    move_slot();
    values.set("{a}1", &"2".into(), LONG).await.unwrap();
    move_slot();
    let entries = keys.map(|key| (key, "3".to_owned()));
    values.set_many(entries, LONG).await.unwrap();
    move_slot();
    let read = values.get_many(keys).await.unwrap();
    assert_eq!(read, vec![Some("3".to_owned()); 2]);
    move_slot();
    assert_eq!(values.delete_many(keys).await.unwrap(), 2);
}
