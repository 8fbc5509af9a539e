//! What entries look like in the store.

use bytes::Bytes;
use lockstock::{Cache, ComputePolicy, Raw};
use lockstock_testkit::Redis;

use crate::harness::{connect, on_each_store};
use crate::{LONG, SHORTEST, is_past, pages};

/// What an envelope begins with, in the notation of Lua.
const MAGIC: &str = r"\193LS\1";

#[tokio::test]
async fn entries_are_plain_unless_they_need_an_envelope() {
    let redis = Redis::start();
    let pages = pages(&connect(&redis.url()).await);
    let compute = async || "mug".to_owned();
    let get = || {
        redis
            .command(&["GET", "lockstock:cache:pages:1:/mugs"])
            .unwrap()
    };
    pages.get_or_set("/mugs", LONG, compute).await.unwrap();
    assert_eq!(get(), "\"mug\"");
    pages.delete("/mugs").await.unwrap();

    let policy = ComputePolicy::new(LONG).stale_for(LONG);
    pages.get_or_set("/mugs", policy, compute).await.unwrap();
    assert_ne!(get(), "\"mug\"");
    assert_eq!(pages.get("/mugs").await.unwrap().as_deref(), Some("mug"));
}

#[tokio::test]
async fn a_value_that_begins_like_an_envelope_is_returned() {
    on_each_store(async |store| {
        let raw: Cache<Bytes, Raw> = store.cache("raw").codec(Raw);
        for value in [&b"\xC1LS\x01"[..], b"\xC1LS\x01 and more than an envelope"] {
            let value = Bytes::from_static(value);
            raw.set("a", &value, LONG).await.unwrap();
            assert_eq!(raw.get("a").await.unwrap(), Some(value.clone()));
            let compute = async || value.clone();
            assert_eq!(raw.get_or_set("b", LONG, compute).await.unwrap(), value);
            assert_eq!(raw.get("b").await.unwrap(), Some(value));
            raw.delete("b").await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_malformed_entry_is_computed_again() {
    let redis = Redis::start();
    let pages = pages(&connect(&redis.url()).await);
    let key = "lockstock:cache:pages:1:/mugs";
    for (write, is_readable) in [
        (format!("'SET', KEYS[1], '{MAGIC}'"), true),
        (
            format!("'SET', KEYS[1], '{MAGIC}' .. string.rep('x', 100)"),
            true,
        ),
        ("'SET', KEYS[1], '{no JSON'".to_owned(), true),
        ("'RPUSH', KEYS[1], 'a list'".to_owned(), false),
    ] {
        redis.command(&["DEL", key]).unwrap();
        let script = format!("redis.call({write})");
        redis.command(&["EVAL", &script, "1", key]).unwrap();
        let error = pages.get("/mugs").await.unwrap_err();
        assert!(error.is_malformed(), "{write}: {error}, {is_readable}");
        let compute = async || "mug".to_owned();
        let page = pages.get_or_set("/mugs", LONG, compute).await;
        assert_eq!(page.unwrap(), "mug", "{write}");
        assert_eq!(pages.get("/mugs").await.unwrap().as_deref(), Some("mug"));
    }
}

#[tokio::test]
async fn a_hit_is_one_command_and_a_miss_is_two() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let pages = pages(&store);
    let commands = async |key: &str, policy: ComputePolicy| {
        redis.command(&["CONFIG", "RESETSTAT"]).unwrap();
        let compute = async || "mug".to_owned();
        pages.get_or_set(key, policy, compute).await.unwrap();
        // The release of the lock goes on in the background.
        store.drain().await;
        let stats = redis.command(&["INFO", "commandstats"]).unwrap();
        let calls = |command: &str| {
            let line = stats
                .lines()
                .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
            let calls = line.and_then(|line| line.split(',').next());
            calls.map_or(0, |calls| calls.parse().unwrap())
        };
        ["get", "set", "pttl", "evalsha"].map(calls)
    };
    let plain = ComputePolicy::new(LONG);
    assert_eq!(commands("plain", plain.clone()).await, [1, 1, 0, 0]);
    assert_eq!(commands("plain", plain.clone()).await, [1, 0, 0, 0]);
    let stale = plain.clone().stale_for(LONG);
    assert_eq!(commands("stale", stale.clone()).await, [1, 1, 0, 0]);
    assert_eq!(commands("stale", stale).await, [1, 0, 0, 0]);
    let tagged = plain.clone().tags(["a", "b"]);
    commands("tagged", tagged.clone()).await;
    assert_eq!(commands("tagged", tagged).await, [3, 0, 0, 0]);
    // One script acquires the lock, one releases it. The others are counted in scripts too.
    let once = plain.once_per_store(LONG);
    commands("loads the scripts", once.clone()).await;
    let [.., scripts] = commands("once", once.clone()).await;
    assert_eq!(scripts, 2);
    assert_eq!(commands("once", once).await, [1, 0, 0, 0]);
}

#[tokio::test]
async fn with_if_missing_a_value_that_is_written_meanwhile_stays() {
    let redis = Redis::start();
    let pages = pages(&connect(&redis.url()).await);
    // Another client, whose writes do not supersede the computation.
    let others = crate::pages(&connect(&redis.url()).await);
    for (policy, expected) in [
        (ComputePolicy::new(LONG).if_missing(), "written"),
        (ComputePolicy::new(LONG), "computed"),
    ] {
        let compute = async || {
            let written = "written".to_owned();
            others.set("/mugs", &written, LONG).await.unwrap();
            "computed".to_owned()
        };
        let page = pages.get_or_set("/mugs", policy, compute).await.unwrap();
        assert_eq!(page, expected);
        assert_eq!(pages.get("/mugs").await.unwrap().as_deref(), Some(expected));
        pages.delete("/mugs").await.unwrap();
    }
}

#[tokio::test]
async fn with_if_missing_an_entry_that_cannot_be_returned_is_replaced() {
    on_each_store(async |store| {
        let pages = pages(&store);
        let stale = ComputePolicy::new(SHORTEST).stale_for(LONG);
        let old = async || "old".to_owned();
        pages.get_or_set("/mugs", stale, old).await.unwrap();
        is_past(&pages, "/mugs").await;
        // Without a stale time, the stale entry counts as missing, and is there.
        let policy = ComputePolicy::new(LONG).if_missing();
        let new = async || "new".to_owned();
        let page = pages.get_or_set("/mugs", policy, new).await.unwrap();
        assert_eq!(page, "new");
        assert_eq!(pages.get("/mugs").await.unwrap().as_deref(), Some("new"));
    })
    .await;
}

#[tokio::test]
async fn bare_keys_are_those_of_the_store() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let cache = store
        .cache::<String>("any")
        .version(7)
        .codec(Raw)
        .bare_keys();
    let compute = async || "mug".to_owned();
    cache.get_or_set("shop:1:a", LONG, compute).await.unwrap();
    assert_eq!(redis.command(&["GET", "shop:1:a"]).unwrap(), "mug");
}
