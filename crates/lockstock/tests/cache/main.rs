//! The guarantees of a value with a time to live, on every kind of store.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::time::Duration;

use bytes::Bytes;
use lockstock::{Cache, LockKind, MAX_KEY_BYTES, MAX_TTL, MAX_VALUE_BYTES, Raw, Store};
use lockstock_testkit::{Authority, Cluster, Proxy, Redis, Sentinel};
use tokio::time::{Instant, sleep, timeout};

#[path = "../harness/mod.rs"]
mod harness;
mod many;

use harness::{SHORT, TIMEOUT, held, lock, on_each_store};

fn raw(store: &Store, namespace: &str) -> Cache<Bytes, Raw> {
    store.cache(namespace).codec(Raw)
}

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_written_value_is_read() {
    on_each_store(async |store| {
        let values = raw(&store, "values");
        assert_eq!(values.get("a").await.unwrap(), None);
        let bytes: Vec<u8> = (0..=255).collect();
        for value in [&b""[..], b"1", b"lockstock:held:x", &bytes, &[7; 300_000]] {
            values.set("a", &value.to_vec().into(), LONG).await.unwrap();
            assert_eq!(values.get("a").await.unwrap().as_deref(), Some(value));
        }
        values.delete("a").await.unwrap();
        values.delete("a").await.unwrap();
        assert_eq!(values.get("a").await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn keys_of_any_bytes_are_distinct() {
    on_each_store(async |store| {
        let long = vec![b'x'; MAX_KEY_BYTES];
        let all = [
            ("a", &b"b:c"[..]),
            ("a:b", b"c"),
            ("a%3Ab", b"c"),
            ("", b"a:b:c"),
            ("{a}", b"\x00\xff\r\n"),
            ("a", b"{"),
            ("a", &long),
        ];
        for (n, (prefix, key)) in all.iter().enumerate() {
            let values = raw(&store, prefix);
            assert_eq!(values.get(key).await.unwrap(), None, "{prefix} {key:?}");
            values.set(key, &vec![n as u8].into(), LONG).await.unwrap();
        }
        for (n, (prefix, key)) in all.iter().enumerate() {
            let value = raw(&store, prefix).get(key).await.unwrap();
            assert_eq!(value.as_deref(), Some(&[n as u8][..]), "{prefix} {key:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_value_expires_with_its_ttl() {
    on_each_store(async |store| {
        let values = raw(&store, "values");
        let set_at = Instant::now();
        values.set("short", &"1".into(), SHORT).await.unwrap();
        values.set("long", &"2".into(), LONG).await.unwrap();
        let gone = async {
            while values.get("short").await.unwrap().is_some() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TIMEOUT, gone).await.unwrap();
        // Redis counts whole milliseconds.
        assert!(set_at.elapsed() + Duration::from_millis(1) >= SHORT);
        assert!(values.get("long").await.unwrap().is_some());
    })
    .await;
}

#[tokio::test]
async fn values_and_locks_of_one_name_are_independent() {
    on_each_store(async |store| {
        let guard = held(&lock(&store, "a", LONG)).await;
        let other = held(&lock(&store, "lockstock:cache:values:a", LONG)).await;
        let values = raw(&store, "values");
        values.set("a", &"1".into(), LONG).await.unwrap();
        values.delete("a").await.unwrap();
        values
            .set("{a}", &"lockstock:held:".into(), LONG)
            .await
            .unwrap();
        let names: Vec<_> = store.locks().await.unwrap();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names.iter().all(|lock| lock.kind == LockKind::Lock));
        guard.release().await.unwrap();
        other.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn invalid_arguments_are_rejected() {
    on_each_store(async |store| {
        let values = raw(&store, "values");
        let long = vec![b'x'; MAX_KEY_BYTES + 1];
        for key in [&b""[..], &long] {
            assert!(values.get(key).await.unwrap_err().is_invalid());
            assert!(
                values
                    .set(key, &"".into(), LONG)
                    .await
                    .unwrap_err()
                    .is_invalid()
            );
            assert!(values.delete(key).await.unwrap_err().is_invalid());
        }
        for ttl in [Duration::ZERO, Duration::from_micros(999), 2 * MAX_TTL] {
            let result = values.set("a", &"".into(), ttl).await;
            assert!(result.unwrap_err().is_invalid(), "{ttl:?}");
        }
        let large = vec![0; MAX_VALUE_BYTES + 1];
        assert!(
            values
                .set("a", &large.into(), LONG)
                .await
                .unwrap_err()
                .is_invalid()
        );
        assert_eq!(values.get("a").await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn a_request_whose_reply_was_lost_is_sent_again() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let url = format!("redis://{}/0", proxy.address());
    let values = Store::connect(&url)
        .await
        .unwrap()
        .cache::<Bytes>("values")
        .codec(Raw);
    proxy.reset_next_reply();
    values.set("a", &"1".into(), LONG).await.unwrap();
    proxy.reset_next_reply();
    assert!(values.get("a").await.unwrap().is_some());
    proxy.reset_next_reply();
    values.delete("a").await.unwrap();
    assert_eq!(values.get("a").await.unwrap(), None);
}

#[tokio::test]
async fn a_store_that_is_down_is_unavailable_and_recovers() {
    let redis = Redis::start();
    let values = Store::connect(&redis.url())
        .await
        .unwrap()
        .cache::<Bytes>("values")
        .codec(Raw);
    redis.kill();
    assert!(values.get("a").await.unwrap_err().is_unavailable());
    assert!(
        values
            .set("a", &"1".into(), LONG)
            .await
            .unwrap_err()
            .is_unavailable()
    );
    assert!(values.delete("a").await.unwrap_err().is_unavailable());
    redis.restart();
    values.set("a", &"1".into(), LONG).await.unwrap();
    assert!(values.get("a").await.unwrap().is_some());
}

#[tokio::test]
async fn values_are_found_behind_sentinels_and_through_tls() {
    let sentinel = Sentinel::start();
    let authority = Authority::new();
    let tls = Redis::start_tls(&authority.issue(&["localhost"]));
    for url in [
        sentinel.url(),
        format!("{}?ssl_ca_certs={}", tls.url(), authority.file().display()),
    ] {
        let values = Store::connect(&url)
            .await
            .unwrap()
            .cache::<Bytes>("values")
            .codec(Raw);
        values.set("a", &"1".into(), LONG).await.unwrap();
        assert_eq!(values.get("a").await.unwrap().as_deref(), Some(&b"1"[..]));
    }
}

#[tokio::test]
async fn a_value_is_found_where_its_slot_has_moved_to() {
    let cluster = Cluster::start();
    let values = Store::connect(&cluster.url())
        .await
        .unwrap()
        .cache::<Bytes>("values")
        .codec(Raw);
    values.set("{a}", &"1".into(), LONG).await.unwrap();
    let from = cluster.owner("a");
    let to = cluster.masters().into_iter().find(|&node| node != from);
    cluster.move_slot(Cluster::slot("a"), to.unwrap());
    assert_eq!(values.get("{a}").await.unwrap().as_deref(), Some(&b"1"[..]));
    values.set("{a}", &"2".into(), LONG).await.unwrap();
    assert_eq!(values.get("{a}").await.unwrap().as_deref(), Some(&b"2"[..]));
}
