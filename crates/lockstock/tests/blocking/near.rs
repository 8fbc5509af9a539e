use std::time::{Duration, Instant};

use lockstock::NearCache;
use lockstock_testkit::Redis;

use super::harness::TIMEOUT;
use super::{on_each_store, open};

const LONG: Duration = Duration::from_secs(3600);

fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < TIMEOUT, "{what}: not within {TIMEOUT:?}");
    }
}

#[test]
fn a_read_after_a_write_returns_what_was_written() {
    on_each_store(|store| {
        let settings = NearCache::new(1024 * 1024);
        let values = store.cache::<u32>("values").near(settings);
        let plain = store.cache::<u32>("values");
        for n in 0..100 {
            values.set("a", &n, LONG).unwrap();
            assert_eq!(values.get("a").unwrap(), Some(n));
            // Through the same store, without a near cache.
            plain.set("a", &(1000 + n), LONG).unwrap();
            assert_eq!(values.get("a").unwrap(), Some(1000 + n));
            plain.set_many([("a", n)], LONG).unwrap();
            assert_eq!(values.get_many(["a"]).unwrap(), [Some(n)]);
        }
        plain.delete("a").unwrap();
        assert_eq!(values.get("a").unwrap(), None);
    });
}

#[test]
fn copies_are_read_without_a_command_until_another_client_writes() {
    let redis = Redis::start();
    let settings = NearCache::new(1024 * 1024);
    let values = open(&redis.url()).cache::<u32>("values").near(settings);
    let theirs = open(&redis.url()).cache::<u32>("values");
    theirs.set("a", &1, LONG).unwrap();
    let hits = || {
        let stats = redis.command(&["INFO", "stats"]).unwrap();
        let line = stats
            .lines()
            .find(|line| line.starts_with("keyspace_hits:"));
        line.unwrap().to_owned()
    };
    until("copies", || {
        let before = hits();
        for _ in 0..10 {
            assert_eq!(values.get("a").unwrap(), Some(1));
        }
        hits() == before
    });
    theirs.set("a", &2, LONG).unwrap();
    until("the invalidation", || values.get("a").unwrap() == Some(2));
}
