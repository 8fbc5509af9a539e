use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use lockstock::{ComputeError, ComputePolicy};
use lockstock_testkit::Redis;

use super::{on_each_store, open};

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn several_keys_are_read_written_and_removed_in_one_call() {
    on_each_store(|store| {
        let values = store.cache::<usize>("values");
        let key = |n: usize| format!("key:{n}");
        values
            .set_many((0..2500).map(|n| (key(n), n)), LONG)
            .unwrap();
        let found = values.get_many((0..2600).rev().map(key)).unwrap();
        let expected = (0..2600).rev().map(|n| (n < 2500).then_some(n));
        assert_eq!(found, expected.collect::<Vec<_>>());
        assert_eq!(values.delete_many((2000..3000).map(key)).unwrap(), 500);
        let keys = values.keys("key:1?").unwrap().map(Result::unwrap);
        let expected = (10..20).map(|n| key(n).into_bytes());
        assert_eq!(keys.collect::<BTreeSet<_>>(), expected.collect());
        assert_eq!(
            values.delete_matching("key:1*").unwrap(),
            1 + 10 + 100 + 1000
        );
        assert_eq!(values.clear().unwrap(), 2000 - 1111);
        assert_eq!(values.get_many([key(1), key(2)]).unwrap(), [None, None]);
        assert!(values.get_many(["a", ""]).unwrap_err().is_invalid());
    });
}

#[test]
fn several_keys_are_unavailable_while_the_server_is_down() {
    let redis = Redis::start();
    let values = open(&redis.url()).cache::<u8>("values");
    values.set_many([("a", 1), ("b", 2)], LONG).unwrap();
    redis.kill();
    assert!(values.get_many(["a", "b"]).unwrap_err().is_unavailable());
    redis.restart();
    values.set_many([("a", 1), ("b", 2)], LONG).unwrap();
    assert_eq!(values.get_many(["a", "b"]).unwrap(), [Some(1), Some(2)]);
}

#[test]
fn a_missing_value_is_computed_once() {
    on_each_store(|store| {
        let (values, computed) = (store.cache::<usize>("values"), AtomicUsize::new(0));
        let start = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    let value = values.get_or_try_set("a", LONG, || {
                        // A computation may use the store.
                        assert_eq!(values.get("b").unwrap(), None);
                        Ok::<_, String>(computed.fetch_add(1, Ordering::Relaxed))
                    });
                    assert_eq!(value.unwrap(), 0);
                });
            }
        });
        assert_eq!(computed.into_inner(), 1);
        let failed = values.get_or_try_set("b", LONG, || Err("no value"));
        assert!(matches!(failed, Err(ComputeError::Failed(reason)) if *reason == "no value"));
        let once = ComputePolicy::new(LONG).once_per_store(LONG);
        assert_eq!(values.get_or_set("b", once, || 7).unwrap(), 7);
        assert_eq!(values.get("b").unwrap(), Some(7));
    });
}

#[test]
fn a_tag_invalidates_its_entries() {
    on_each_store(|store| {
        let pages = store.cache::<String>("pages");
        let tags = pages.tags(["product:42", "mugs"]).unwrap();
        let page = "Mug".to_owned();
        pages.set_tagged("/mugs", &page, LONG, &tags).unwrap();
        assert_eq!(pages.get("/mugs").unwrap(), Some(page));
        pages.invalidate_tag("mugs").unwrap();
        assert_eq!(pages.get("/mugs").unwrap(), None);
    });
}
