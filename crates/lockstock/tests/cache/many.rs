//! Calls with several keys.

use std::collections::HashMap;

use bytes::Bytes;
use lockstock::{Cache, Integer, Ttl};
use lockstock_testkit::{Cluster, Proxy, Redis};

use super::harness::{connect, on_each_store};
use super::{LONG, raw};

/// More than a command has keys, and than a pipeline has commands.
const MANY: i64 = 2_300;

#[tokio::test]
async fn values_are_returned_in_the_order_of_their_keys() {
    on_each_store(async |store| {
        let values = store.cache("values").codec(Integer);
        assert_eq!(values.get_many(["a", "b"]).await.unwrap(), [None, None]);
        assert_eq!(values.get_many([""; 0]).await.unwrap(), []);
        let entries = (0..MANY).map(|n| (n.to_string(), n));
        values.set_many(entries, LONG).await.unwrap();
        let backwards = (-1..MANY).rev();
        let keys = backwards.clone().map(|n| n.to_string());
        let expected = backwards.map(|n| (n >= 0).then_some(n)).collect::<Vec<_>>();
        assert_eq!(values.get_many(keys).await.unwrap(), expected);
        assert_eq!(
            values.get_many(["7", "-7", "7"]).await.unwrap(),
            [Some(7), None, Some(7)]
        );
    })
    .await;
}

#[tokio::test]
async fn values_of_one_call_have_its_ttl_and_replace_earlier_ones() {
    on_each_store(async |store| {
        let values = store.cache("values").codec(Integer);
        values.set("a", &1, LONG).await.unwrap();
        let entries = HashMap::from([("a", 2), ("b", 3)]);
        values.set_many(&entries, Ttl::Never).await.unwrap();
        for key in ["a", "b"] {
            assert_eq!(values.get(key).await.unwrap(), Some(entries[key]));
            assert_eq!(values.ttl(key).await.unwrap(), Some(Ttl::Never));
        }
        values.set_many([("a", 4); 0], LONG).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn deleted_values_are_counted() {
    on_each_store(async |store| {
        let values = store.cache("values").codec(Integer);
        let entries = (0..MANY).map(|n| (n.to_string(), n));
        values.set_many(entries, LONG).await.unwrap();
        let keys = (0..2 * MANY).step_by(2).map(|n| n.to_string());
        assert_eq!(values.delete_many(keys).await.unwrap(), MANY as u64 / 2);
        assert_eq!(values.get_many(["0", "1"]).await.unwrap(), [None, Some(1)]);
        assert_eq!(values.delete_many(["1", "1"]).await.unwrap(), 1);
        assert_eq!(values.delete_many([""; 0]).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn an_invalid_entry_keeps_all_from_being_written() {
    on_each_store(async |store| {
        let values = raw(&store, "values").max_value_bytes(4);
        for invalid in [("", &b"1"[..]), ("b", b"12345")] {
            let entries = [("a", Bytes::from("1")), (invalid.0, invalid.1.into())];
            let error = values.set_many(entries, LONG).await.unwrap_err();
            assert!(error.is_invalid(), "{error}");
        }
        assert!(values.get_many(["a", ""]).await.unwrap_err().is_invalid());
        assert!(
            values
                .delete_many(["a", ""])
                .await
                .unwrap_err()
                .is_invalid()
        );
        assert_eq!(values.get("a").await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn a_call_with_several_keys_is_repeated_if_its_reply_is_lost() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let store = connect(&format!("redis://{}/0", proxy.address())).await;
    let values = store.cache("values").codec(Integer);
    proxy.reset_next_reply();
    values.set_many([("a", 1), ("b", 2)], LONG).await.unwrap();
    proxy.reset_next_reply();
    let read = values.get_many(["a", "b"]).await.unwrap();
    assert_eq!(read, [Some(1), Some(2)]);
    proxy.reset_next_reply();
    values.delete_many(["a", "b"]).await.unwrap();
    assert_eq!(values.get("a").await.unwrap(), None);
}

#[tokio::test]
async fn what_is_reachable_is_written_and_deleted_although_a_node_is_down() {
    let cluster = Cluster::start();
    let store = connect(&cluster.url()).await;
    let values = store.cache("values").codec(Integer);
    let keys = ["{a}", "{b}", "{c}", "{d}", "{e}", "{f}"];
    values
        .set_many(keys.map(|key| (key, 1)), LONG)
        .await
        .unwrap();
    // Not killed: no replica takes over while the node only rejects writes.
    let rejecting = cluster.owner("a");
    let node = cluster.node(rejecting);
    node.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let is_rejected = |key: &str| cluster.owner(key.trim_matches(['{', '}'])) == rejecting;
    assert!(keys.iter().any(|key| !is_rejected(key)));

    let error = values.set_many(keys.map(|key| (key, 2)), LONG).await;
    assert!(error.unwrap_err().is_unavailable());
    for (key, value) in read_each(&values, &keys).await {
        assert_eq!(value, Some(if is_rejected(key) { 1 } else { 2 }), "{key}");
    }
    assert_eq!(values.delete_many(keys).await.unwrap(), keys.len() as u64);
}

async fn read_each<'a>(
    values: &Cache<i64, Integer>,
    keys: &[&'a str],
) -> Vec<(&'a str, Option<i64>)> {
    let read = values.get_many(keys).await.unwrap();
    keys.iter().copied().zip(read).collect()
}

#[tokio::test]
async fn several_keys_are_one_command() {
    let redis = Redis::start();
    let values = connect(&redis.url()).await.cache("values").codec(Integer);
    let keys = (0..1000).map(|n| n.to_string()).collect::<Vec<_>>();
    redis.command(&["CONFIG", "RESETSTAT"]).unwrap();
    values.set_many(keys.iter().zip(0..), LONG).await.unwrap();
    values.get_many(&keys).await.unwrap();
    values.delete_many(&keys).await.unwrap();
    let stats = redis.command(&["INFO", "commandstats"]).unwrap();
    for (command, calls) in [("set", 1000), ("mget", 1), ("unlink", 1)] {
        let line = format!("cmdstat_{command}:calls={calls},");
        assert!(stats.contains(&line), "{line} {stats}");
    }
}

#[tokio::test]
async fn writes_go_to_the_new_master_if_the_old_one_is_a_replica_now() {
    let (old, new) = (Redis::start(), Redis::start());
    let proxy = Proxy::start(old.address());
    let store = connect(&format!("redis://{}/0", proxy.address())).await;
    let values = store.cache("values").codec(Integer);
    values.set_many([("a", 1)], LONG).await.unwrap();
    // New connections lead to the new master. The one that is open does not.
    proxy.redirect(new.address());
    let port = new.address().port().to_string();
    old.command(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
    values.set_many([("a", 2), ("b", 2)], LONG).await.unwrap();
    let key = "lockstock:cache:values:1:b";
    assert_eq!(new.command(&["GET", key]).unwrap(), "2");
}
