//! Reads and writes of one value.

use std::time::Duration;

use futures_util::future::join_all;
use lockstock::{LockKind, MAX_KEY_BYTES, MAX_TTL, MAX_VALUE_BYTES};

use super::harness::{connect, held, lock};
use super::{LONG, on_each_store, raw};

#[tokio::test]
async fn a_written_value_is_read() {
    on_each_store(async |store| {
        let values = raw(&store, "values");
        assert_eq!(values.get("a").await.unwrap(), None);
        assert!(!values.contains("a").await.unwrap());
        let bytes: Vec<u8> = (0..=255).collect();
        for value in [&b""[..], b"1", b"lockstock:held:x", &bytes, &[7; 300_000]] {
            values.set("a", &value.to_vec().into(), LONG).await.unwrap();
            assert_eq!(values.get("a").await.unwrap().as_deref(), Some(value));
            assert!(values.contains("a").await.unwrap());
        }
        assert!(values.delete("a").await.unwrap());
        assert!(!values.delete("a").await.unwrap());
        assert_eq!(values.get("a").await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn a_value_is_added_only_if_missing_and_replaced_only_if_present() {
    on_each_store(async |store| {
        let values = store.cache::<u32>("values");
        assert!(!values.replace("a", &1, LONG).await.unwrap());
        assert_eq!(values.get("a").await.unwrap(), None);
        assert!(values.add("a", &2, LONG).await.unwrap());
        assert!(!values.add("a", &3, LONG).await.unwrap());
        assert_eq!(values.get("a").await.unwrap(), Some(2));
        assert!(values.replace("a", &4, LONG).await.unwrap());
        assert_eq!(values.get("a").await.unwrap(), Some(4));
    })
    .await;
}

#[tokio::test]
async fn one_of_many_adds_writes_its_value() {
    on_each_store(async |store| {
        let values = store.cache::<usize>("values");
        for key in ["a", "b", "c"] {
            let adds = (0..50).map(|n| {
                let values = values.clone();
                async move { values.add(key, &n, LONG).await.unwrap() }
            });
            let added = join_all(adds).await;
            let winners = (0..50).filter(|&n| added[n]).collect::<Vec<_>>();
            assert_eq!(winners.len(), 1, "{winners:?}");
            assert_eq!(values.get(key).await.unwrap(), Some(winners[0]));
        }
    })
    .await;
}

#[tokio::test]
async fn one_of_many_stores_adds_its_value() {
    let redis = lockstock_testkit::Redis::start();
    let stores = join_all((0..8).map(|_| connect_to(redis.url()))).await;
    let adds = stores.iter().zip(0..).map(async |(store, n)| {
        let values = store.cache::<usize>("values");
        values.add("a", &n, LONG).await.unwrap()
    });
    let added = join_all(adds).await;
    assert_eq!(added.iter().filter(|&&added| added).count(), 1);
}

async fn connect_to(url: String) -> lockstock::Store {
    connect(&url).await
}

#[tokio::test]
async fn values_and_locks_of_one_name_are_independent() {
    on_each_store(async |store| {
        let guard = held(&lock(&store, "a", LONG)).await;
        let other = held(&lock(&store, "lockstock:cache:values:1:a", LONG)).await;
        let values = raw(&store, "values");
        values.set("a", &"1".into(), LONG).await.unwrap();
        values.delete("a").await.unwrap();
        let mark = "lockstock:held:".into();
        values.set("{a}", &mark, LONG).await.unwrap();
        let names: Vec<_> = store.locks().await.unwrap();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names.iter().all(|lock| lock.kind == LockKind::Lock));
        values.clear().await.unwrap();
        guard.release().await.unwrap();
        other.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn invalid_arguments_are_rejected() {
    on_each_store(async |store| {
        let values = raw(&store, "values");
        let value = "1".into();
        let long = vec![b'x'; MAX_KEY_BYTES + 1];
        for key in [&b""[..], &long] {
            for result in [
                values.get(key).await.map(drop),
                values.set(key, &value, LONG).await,
                values.add(key, &value, LONG).await.map(drop),
                values.replace(key, &value, LONG).await.map(drop),
                values.delete(key).await.map(drop),
                values.contains(key).await.map(drop),
                values.touch(key, LONG).await.map(drop),
                values.persist(key).await.map(drop),
                values.ttl(key).await.map(drop),
            ] {
                assert!(result.unwrap_err().is_invalid());
            }
        }
        let beyond = MAX_TTL + Duration::from_millis(1);
        for ttl in [Duration::ZERO, Duration::from_micros(999), beyond] {
            for result in [
                values.set("a", &value, ttl).await,
                values.add("a", &value, ttl).await.map(drop),
                values.replace("a", &value, ttl).await.map(drop),
                values.touch("a", ttl).await.map(drop),
            ] {
                assert!(result.unwrap_err().is_invalid(), "{ttl:?}");
            }
        }
        let large = vec![0; MAX_VALUE_BYTES + 1].into();
        let result = values.set("a", &large, LONG).await;
        assert!(result.unwrap_err().is_invalid());
        let small = values.clone().max_value_bytes(3);
        let result = small.set("a", &"1234".into(), LONG).await;
        assert!(result.unwrap_err().is_invalid());
        assert_eq!(values.get("a").await.unwrap(), None);
        small.set("a", &"123".into(), LONG).await.unwrap();
    })
    .await;
}
