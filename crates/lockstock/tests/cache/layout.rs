//! The keys in the store.

use lockstock::{MAX_KEY_BYTES, Raw};
use lockstock_testkit::Redis;

use super::harness::connect;
use super::{LONG, on_each_store, raw};

#[tokio::test]
async fn keys_of_any_bytes_are_distinct() {
    on_each_store(async |store| {
        let long = vec![b'x'; MAX_KEY_BYTES];
        let all = [
            ("a", &b"b:c"[..]),
            ("a:b", b"c"),
            ("a%3Ab", b"c"),
            ("a:1", b"c"),
            ("a", b"1:c"),
            ("", b"a:b:c"),
            ("{a}", b"\x00\xff\r\n"),
            ("a", b"{"),
            ("a", b"*"),
            ("a", b" "),
            ("a", &long),
        ];
        for (n, (namespace, key)) in all.iter().enumerate() {
            let values = raw(&store, namespace);
            assert_eq!(values.get(key).await.unwrap(), None, "{namespace} {key:?}");
            values.set(key, &vec![n as u8].into(), LONG).await.unwrap();
        }
        for (n, (namespace, key)) in all.iter().enumerate() {
            let value = raw(&store, namespace).get(key).await.unwrap();
            let expected = Some(&[n as u8][..]);
            assert_eq!(value.as_deref(), expected, "{namespace} {key:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn versions_and_namespaces_share_no_keys() {
    on_each_store(async |store| {
        let caches = [
            store.cache::<usize>("a"),
            store.cache("b"),
            store.cache("a").version(2),
            store.cache("a:2").version(1),
            store.cache("a").version(21),
            store.cache("a").django_keys(),
            store.cache("a").django_keys().version(2),
        ];
        for (n, values) in caches.iter().enumerate() {
            assert!(values.add("k", &n, LONG).await.unwrap(), "{values:?}");
        }
        for (n, values) in caches.iter().enumerate() {
            assert_eq!(values.get("k").await.unwrap(), Some(n), "{values:?}");
        }
        // The version that is not set is 1.
        let first = store.cache::<usize>("a").version(1);
        assert_eq!(first.get("k").await.unwrap(), Some(0));
    })
    .await;
}

#[tokio::test]
async fn an_entry_is_a_string_under_a_documented_key() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let stored = |key: &str| redis.command(&["GET", key]).unwrap();
    let values = store.cache::<String>("a:b%").codec(Raw);
    values.set("k:1", &"1".into(), LONG).await.unwrap();
    assert_eq!(stored("lockstock:cache:a%3Ab%25:1:k:1"), "1");
    let values = values.version(7);
    values.set("k:1", &"2".into(), LONG).await.unwrap();
    assert_eq!(stored("lockstock:cache:a%3Ab%25:7:k:1"), "2");
    // The order of the settings has no effect.
    for values in [
        store.cache::<u32>("shop:eu").django_keys().version(3),
        store.cache("shop:eu").version(3).django_keys(),
    ] {
        values.set("k:1", &3, LONG).await.unwrap();
        assert_eq!(stored("shop:eu:3:k:1"), "3");
        assert!(values.delete("k:1").await.unwrap());
    }
    // Django's default for KEY_PREFIX.
    let values = store.cache::<u32>("").django_keys();
    values.set("k", &4, LONG).await.unwrap();
    assert_eq!(stored(":1:k"), "4");
}
