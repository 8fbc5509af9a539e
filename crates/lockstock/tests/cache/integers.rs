//! Integers that the store increments.

use futures_util::future::join_all;
use lockstock::{Cache, Integer, Raw, Store, Ttl};
use lockstock_testkit::Redis;

use super::harness::{SHORT, connect};
use super::{LONG, gone, on_each_store, raw};

fn integers(store: &Store) -> Cache<i64, Integer> {
    store.cache("values").codec(Integer)
}

#[tokio::test]
async fn sums_are_returned_and_stored() {
    on_each_store(async |store| {
        let values = integers(&store);
        assert_eq!(values.incr("a", 5, LONG).await.unwrap(), 5);
        assert_eq!(values.incr("a", -7, LONG).await.unwrap(), -2);
        assert_eq!(values.decr("a", 3, LONG).await.unwrap(), -5);
        assert_eq!(values.decr("b", 3, LONG).await.unwrap(), -3);
        assert_eq!(values.get("a").await.unwrap(), Some(-5));
        assert_eq!(values.incr("zero", 0, LONG).await.unwrap(), 0);
        assert!(values.contains("zero").await.unwrap());
        // As text, and the other way round.
        let text = store.cache::<String>("values").codec(Raw);
        assert_eq!(text.get("a").await.unwrap().as_deref(), Some("-5"));
        values.set("c", &41, LONG).await.unwrap();
        assert_eq!(values.incr("c", 1, LONG).await.unwrap(), 42);
    })
    .await;
}

#[tokio::test]
async fn a_missing_value_gets_the_ttl_and_a_present_one_keeps_its_own() {
    on_each_store(async |store| {
        let values = integers(&store);
        values.incr("never", 1, Ttl::Never).await.unwrap();
        values.incr("never", 1, SHORT).await.unwrap();
        values.incr("short", 1, SHORT).await.unwrap();
        values.set("short too", &1, SHORT).await.unwrap();
        // They may have expired by now: then they are new, and expire as well.
        values.incr("short", 1, SHORT).await.unwrap();
        gone(&values, "short").await;
        gone(&values, "short too").await;
        assert_eq!(values.ttl("never").await.unwrap(), Some(Ttl::Never));
        assert_eq!(values.get("never").await.unwrap(), Some(2));
        assert_eq!(values.incr("short", 1, LONG).await.unwrap(), 1);
        values.incr("short", 1, Ttl::Never).await.unwrap();
        assert_ne!(values.ttl("short").await.unwrap(), Some(Ttl::Never));
    })
    .await;
}

#[tokio::test]
async fn a_sum_beyond_64_bits_is_an_error_and_changes_nothing() {
    on_each_store(async |store| {
        let values = integers(&store);
        for (key, limit, by) in [("max", i64::MAX, 1), ("min", i64::MIN, -1)] {
            assert_eq!(values.incr(key, limit, LONG).await.unwrap(), limit);
            for by in [by, limit] {
                let error = values.incr(key, by, LONG).await.unwrap_err();
                assert!(error.is_malformed(), "{error}");
            }
            assert_eq!(values.get(key).await.unwrap(), Some(limit));
            assert_eq!(values.incr(key, -by, LONG).await.unwrap(), limit - by);
        }
        let error = values.decr("a", i64::MIN, LONG).await.unwrap_err();
        assert!(error.is_invalid(), "{error}");
        assert_eq!(values.decr("b", i64::MAX, LONG).await.unwrap(), -i64::MAX);
        // Beyond the 53 bits of a floating-point number.
        let odd = (1 << 53) + 1;
        values.set("odd", &odd, LONG).await.unwrap();
        assert_eq!(values.incr("odd", 2, LONG).await.unwrap(), odd + 2);
    })
    .await;
}

#[tokio::test]
async fn what_is_no_integer_is_malformed_and_unchanged() {
    on_each_store(async |store| {
        let (values, text) = (integers(&store), raw(&store, "values"));
        for value in [
            "",
            "x",
            "1.5",
            "1 ",
            " 1",
            "+1",
            "01",
            "-0",
            "1e3",
            "0x1",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999999999",
        ] {
            text.set("a", &value.into(), LONG).await.unwrap();
            let error = values.incr("a", 1, LONG).await.unwrap_err();
            assert!(error.is_malformed(), "{value:?} {error}");
            assert!(!error.is_unavailable());
            let after = text.get("a").await.unwrap();
            assert_eq!(after.as_deref(), Some(value.as_bytes()));
        }
    })
    .await;
}

#[tokio::test]
async fn concurrent_increments_all_count() {
    on_each_store(async |store| {
        let increments = (1..=100).map(|n| {
            let values = integers(&store);
            async move { values.incr("a", n, LONG).await.unwrap() }
        });
        let sums = join_all(increments).await;
        assert_eq!(sums.iter().max(), Some(&5050));
        assert_eq!(integers(&store).get("a").await.unwrap(), Some(5050));
    })
    .await;
}

#[tokio::test]
async fn a_key_with_another_type_than_a_string_is_malformed() {
    let redis = Redis::start();
    let values = integers(&connect(&redis.url()).await);
    let key = "lockstock:cache:values:1:a";
    redis.command(&["RPUSH", key, "1"]).unwrap();
    for error in [
        values.get("a").await.unwrap_err(),
        values.incr("a", 1, LONG).await.unwrap_err(),
    ] {
        assert!(error.is_malformed(), "{error}");
        assert!(error.to_string().contains("WRONGTYPE"), "{error}");
    }
    assert_eq!(values.get_many(["a"]).await.unwrap(), [None]);
    assert!(values.contains("a").await.unwrap());
    assert!(!values.add("a", &1, LONG).await.unwrap());
    values.set("a", &1, LONG).await.unwrap();
    assert_eq!(values.get("a").await.unwrap(), Some(1));
}
