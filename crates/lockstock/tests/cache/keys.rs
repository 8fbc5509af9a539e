//! Scans for keys, and what deletes by them.

use std::collections::BTreeSet;

use lockstock::{Cache, Integer, MAX_KEY_BYTES, Store};
use lockstock_testkit::{Proxy, Redis};
use proptest::collection::vec;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime;

use super::harness::{SHORT, connect, until};
use super::{LONG, gone, on_each_store};

/// More than a page has keys.
const MANY: i64 = 2_300;
/// What begins an escape, a set or a range, what ends it, and other bytes.
const BYTES: &[u8] = b"*?[]^-\\ab";

async fn all(values: &Cache<i64, Integer>, pattern: impl AsRef<[u8]>) -> BTreeSet<Vec<u8>> {
    let (mut scan, mut keys) = (values.keys(pattern).unwrap(), BTreeSet::new());
    while let Some(key) = scan.next().await.unwrap() {
        keys.insert(key);
    }
    keys
}

fn numbers(store: &Store, namespace: impl AsRef<[u8]>) -> Cache<i64, Integer> {
    store.cache(namespace).codec(Integer)
}

fn set_of<const N: usize>(keys: [&[u8]; N]) -> BTreeSet<Vec<u8>> {
    keys.into_iter().map(<[u8]>::to_vec).collect()
}

#[tokio::test]
async fn a_scan_returns_every_key_of_its_namespace_and_version() {
    on_each_store(async |store| {
        // None of these bytes is part of the pattern.
        let values = numbers(&store, b"a*[b]?\\\xff");
        for other in [&b"a*[b]?\\"[..], b"axxb", b"a*b", b""] {
            numbers(&store, other).set("other", &1, LONG).await.unwrap();
        }
        let next = values.clone().version(2);
        next.set("other", &1, LONG).await.unwrap();
        assert_eq!(all(&values, "*").await, set_of([]));

        let keys = (0..MANY).map(|n| format!("{{{n}}}:\u{e9}").into_bytes());
        let entries = keys.clone().zip(0..);
        values.set_many(entries, LONG).await.unwrap();
        assert_eq!(all(&values, "*").await, keys.collect());
        assert_eq!(all(&values, "{7?}*").await.len(), 10);
        assert_eq!(all(&next, "*").await, set_of([b"other"]));
    })
    .await;
}

#[tokio::test]
async fn a_scan_returns_no_key_whose_value_has_expired() {
    on_each_store(async |store| {
        let values = numbers(&store, "values");
        values.set("short", &1, SHORT).await.unwrap();
        values.set("long", &1, LONG).await.unwrap();
        gone(&values, "short").await;
        assert_eq!(all(&values, "*").await, set_of([b"long"]));
    })
    .await;
}

#[tokio::test]
async fn values_are_deleted_by_pattern_and_by_namespace() {
    on_each_store(async |store| {
        let values = numbers(&store, "values");
        let (other, next) = (numbers(&store, "value"), values.clone().version(2));
        for cache in [&values, &other, &next] {
            let entries = (0..MANY).map(|n| (format!("{}:{n}", n % 2), n));
            cache.set_many(entries, LONG).await.unwrap();
        }
        let half = MANY as u64 / 2;
        assert_eq!(values.delete_matching("0:*").await.unwrap(), half);
        assert_eq!(values.delete_matching("0:*").await.unwrap(), 0);
        assert_eq!(values.get("1:1").await.unwrap(), Some(1));
        assert_eq!(values.clear().await.unwrap(), half);
        assert_eq!(values.clear().await.unwrap(), 0);
        for cache in [&other, &next] {
            assert_eq!(cache.get("0:0").await.unwrap(), Some(0));
            assert_eq!(cache.clear().await.unwrap(), 2 * half);
        }
    })
    .await;
}

#[tokio::test]
async fn a_pattern_that_is_too_long_is_invalid() {
    on_each_store(async |store| {
        let values = numbers(&store, "values");
        let pattern = vec![b'*'; MAX_KEY_BYTES + 1];
        assert!(values.keys(&pattern).unwrap_err().is_invalid());
        assert!(
            values
                .delete_matching(pattern)
                .await
                .unwrap_err()
                .is_invalid()
        );
    })
    .await;
}

#[test]
fn patterns_match_the_same_keys_as_in_redis() {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.unwrap();
    let redis = Redis::start();
    let keys = BYTES.iter().flat_map(|&a| {
        let longer = BYTES.iter().flat_map(move |&b| {
            let longest = BYTES.iter().map(move |&c| vec![a, b, c]);
            longest.chain([vec![a, b]])
        });
        longer.chain([vec![a]])
    });
    let [in_redis, in_memory] = runtime.block_on(async {
        let stores = [connect(&redis.url()).await, Store::memory()];
        let caches = stores.map(|store| numbers(&store, "*[^\\"));
        for cache in &caches {
            cache.set_many(keys.clone().zip(0..), LONG).await.unwrap();
        }
        caches
    });
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    let patterns = vec(select(BYTES), 0..8);
    let same = |pattern: Vec<u8>| {
        runtime.block_on(async {
            let expected = all(&in_redis, &pattern).await;
            assert_eq!(all(&in_memory, &pattern).await, expected, "{pattern:?}");
        });
        Ok(())
    };
    TestRunner::new(config).run(&patterns, same).unwrap();
}

#[tokio::test]
async fn a_scan_misses_no_key_if_the_server_restarts_meanwhile() {
    // The files keep the data, and a new process has its keys in another order.
    let redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let values = numbers(&connect(&redis.url()).await, "values");
    let keys = (0..3 * MANY).map(|n| n.to_string().into_bytes());
    values.set_many(keys.clone().zip(0..), LONG).await.unwrap();
    let mut scan = values.keys("*").unwrap();
    let mut found = BTreeSet::new();
    while let Some(key) = scan.next().await.unwrap() {
        found.insert(key);
        if found.len() == 1 {
            redis.kill();
            redis.restart();
            let is_loaded = || redis.command(&["DBSIZE"]).is_ok();
            until("the data is loaded", is_loaded).await;
        }
    }
    assert_eq!(found, keys.collect());
}

#[tokio::test]
async fn a_scan_continues_after_a_failure() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let store = connect(&format!("redis://{}/0", proxy.address())).await;
    let values = numbers(&store, "values");
    let keys = (0..MANY).map(|n| n.to_string().into_bytes());
    values.set_many(keys.clone().zip(0..), LONG).await.unwrap();
    let mut scan = values.keys("*").unwrap();
    let mut found = BTreeSet::from([scan.next().await.unwrap().unwrap()]);
    proxy.cut();
    let failure = loop {
        match scan.next().await {
            Ok(key) => found.insert(key.unwrap()),
            Err(error) => break error,
        };
    };
    assert!(failure.is_unavailable(), "{failure}");
    proxy.pass();
    while store.ping().await.is_err() {}
    while let Some(key) = scan.next().await.unwrap() {
        found.insert(key);
    }
    assert_eq!(found, keys.collect());
}
