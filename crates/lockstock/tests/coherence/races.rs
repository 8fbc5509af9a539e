//! The races between a read, a write and its invalidation, one at a time, and the ends of a copy.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use lockstock::{Cache, DEFAULT_MAX_STALENESS, Integer, NearCache, Raw, Store, Ttl};
use lockstock_testkit::{Cluster, Proxy, Redis, Sentinel};
use tokio::time::{Instant, sleep};

use crate::harness::{SHORT, TIMEOUT, connect, on_each_store, until};

const LONG: Duration = Duration::from_secs(3600);
/// More than the tests need.
const BYTES: usize = 1024 * 1024;

/// The rights that docs/operations.md lists for a user, and the one that near caches need.
const RIGHTS: &str = include_str!("../../../../docs/acl.txt");
const TRACKING: &str = "+client|tracking";

/// The key in the store of `a`.
const KEY: &str = "lockstock:cache:values:1:a";

type Values = Cache<Bytes, Raw>;

fn plain(store: &Store) -> Values {
    store.cache("values").codec(Raw)
}

fn near(store: &Store) -> Values {
    plain(store).near(NearCache::new(BYTES))
}

/// A server, a proxy in front of it, a reader with a near cache behind the proxy, and a writer of
/// another client.
struct Race {
    redis: Redis,
    proxy: Proxy,
    store: Store,
    reader: Values,
    writer: Values,
}

impl Race {
    /// The tracked connection of the reader is open, the other is not.
    async fn new() -> Self {
        let redis = Redis::start();
        let proxy = Proxy::start(redis.address());
        let url = format!("redis://{}/0", proxy.address());
        let store = Store::open_within(&url, TIMEOUT).unwrap();
        let reader = near(&store);
        let writer = plain(&connect(&redis.url()).await);
        set(&writer, "1").await;
        assert_eq!(get(&reader).await, "1");
        Self {
            redis,
            proxy,
            store,
            reader,
            writer,
        }
    }

    /// Waits until the server has sent `bytes` on a connection whose replies are held.
    async fn held(&self, bytes: &[u8]) {
        let is_held = || {
            let held = self.proxy.held_replies();
            held.windows(bytes.len()).any(|part| part == bytes)
        };
        until("the server has sent", is_held).await;
    }

    /// Drops the copy of the reader.
    async fn forget(&self) {
        set(&self.writer, "1").await;
        while is_copied(&self.reader).await {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Returns the value, as soon as the store is available.
async fn get(values: &Values) -> String {
    let begun = Instant::now();
    let value = loop {
        match values.get("a").await {
            Ok(value) => break value,
            Err(error) => assert!(
                error.is_unavailable() && begun.elapsed() < TIMEOUT,
                "{error}"
            ),
        }
    };
    value.map_or("none".to_owned(), |value| {
        String::from_utf8(value.to_vec()).unwrap()
    })
}

async fn set(values: &Values, value: &'static str) {
    let begun = Instant::now();
    while let Err(error) = values.set("a", &value.into(), LONG).await {
        assert!(
            error.is_unavailable() && begun.elapsed() < TIMEOUT,
            "{error}"
        );
    }
}

/// Returns whether a read returns at once. A read from the store waits for a reply, and is dropped
/// here.
async fn is_copied(values: &Values) -> bool {
    let mut read = pin!(values.get("a"));
    poll_fn(|context| Poll::Ready(read.as_mut().poll(context).is_ready())).await
}

/// Waits until a value is copied. A pulse has to be there first, and a read may lose its copy to an
/// invalidation of another key.
async fn copied(values: &Values) {
    let begun = Instant::now();
    while !is_copied(values).await {
        assert!(begun.elapsed() < TIMEOUT, "no copy");
        get(values).await;
        sleep(Duration::from_millis(1)).await;
    }
}

/// Reads until the value is `expected`, and some times more. Fails on a read that began more than
/// the bound after `written_at` and returned anything else, and on one that returned anything else
/// after the expected value.
async fn becomes(values: &Values, expected: &str, written_at: Instant) {
    let mut news = 0;
    while news < 20 {
        let begun = Instant::now();
        let is_new = get(values).await == expected;
        let may_be_old = begun <= written_at + DEFAULT_MAX_STALENESS;
        assert!(is_new || may_be_old, "a copy was read after the bound");
        assert!(is_new || news == 0, "an earlier value was read again");
        news += usize::from(is_new);
        sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until the reader has followed a failover, and the value is `expected`. From then on no
/// earlier value is read.
async fn follows(values: &Values, expected: &str) {
    let begun = Instant::now();
    while get(values).await != expected {
        assert!(begun.elapsed() < TIMEOUT, "the old value is still read");
        sleep(Duration::from_millis(1)).await;
    }
    becomes(values, expected, Instant::now()).await;
}

#[tokio::test]
async fn a_write_between_send_and_answer() {
    let race = Race::new().await;
    // The reply and the invalidation arrive together: the reader sees both at once.
    race.forget().await;
    race.proxy.hold_replies();
    let (reader, writer) = (&race.reader, &race.writer);
    let read = async { get(reader).await };
    let write = async {
        race.held(b"$1\r\n1\r\n").await;
        set(writer, "2").await;
        race.held(b"invalidate").await;
        race.proxy.pass();
    };
    let (read, ()) = tokio::join!(read, write);
    assert_eq!(read, "1", "the read began before the write");
    assert_eq!(get(reader).await, "2");
}

#[tokio::test]
async fn our_own_write_then_read() {
    let race = Race::new().await;
    let (reader, other_handle) = (&race.reader, plain(&race.store));
    copied(reader).await;
    // The invalidation does not arrive. The write has a connection of its own.
    race.proxy.hold_replies();
    set(&other_handle, "2").await;
    assert!(!is_copied(reader).await);
    race.proxy.pass();
    assert_eq!(get(reader).await, "2");

    let counters = race.store.cache::<i64>("values").codec(Integer);
    for other in 0..6 {
        copied(reader).await;
        match other {
            0 => assert!(reader.replace("a", &"3".into(), LONG).await.unwrap()),
            1 => assert_eq!(counters.incr("a", 1, LONG).await.unwrap(), 4),
            2 => assert!(reader.touch("a", LONG).await.unwrap()),
            3 => assert!(reader.persist("a").await.unwrap()),
            4 => assert!(reader.delete("a").await.unwrap()),
            _ => assert!(reader.add("a", &"5".into(), LONG).await.unwrap()),
        }
        let expected = ["3", "4", "4", "4", "none", "5"][other];
        assert_eq!(get(reader).await, expected);
    }
}

#[tokio::test]
async fn a_write_whose_caller_is_gone_drops_the_copy_too() {
    let race = Race::new().await;
    let other_handle = plain(&race.store);
    set(&other_handle, "1").await;
    copied(&race.reader).await;
    race.proxy.hold_replies();
    {
        let value = Bytes::from("2");
        let mut write = pin!(other_handle.set("a", &value, LONG));
        let sent = poll_fn(|context| Poll::Ready(write.as_mut().poll(context).is_pending())).await;
        assert!(sent);
        race.held(b"+OK").await;
    }
    assert!(!is_copied(&race.reader).await);
    race.proxy.pass();
    assert_eq!(get(&race.reader).await, "2");
}

#[tokio::test]
async fn a_lost_push_connection() {
    let race = Race::new().await;
    let (reader, writer) = (&race.reader, &race.writer);
    copied(reader).await;
    race.proxy.cut();
    set(writer, "2").await;
    let written_at = Instant::now();
    race.proxy.pass();
    becomes(reader, "2", written_at).await;

    // Without an end that the reader could notice, and with a reply on the way.
    copied(reader).await;
    race.proxy.forget();
    set(writer, "3").await;
    let written_at = Instant::now();
    becomes(reader, "3", written_at).await;

    race.forget().await;
    race.proxy.hold_replies();
    let write = async {
        race.held(b"$1\r\n1\r\n").await;
        set(writer, "4").await;
        race.proxy.cut();
        race.proxy.pass();
    };
    tokio::join!(get(reader), write);
    assert_eq!(get(reader).await, "4");
}

#[tokio::test]
async fn a_flushdb() {
    let race = Race::new().await;
    let (reader, writer) = (&race.reader, &race.writer);
    copied(reader).await;
    race.redis.command(&["FLUSHDB"]).unwrap();
    becomes(reader, "none", Instant::now()).await;
    // That there is no value is copied too.
    copied(reader).await;
    set(writer, "1").await;
    becomes(reader, "1", Instant::now()).await;

    race.forget().await;
    race.proxy.hold_replies();
    let flush = async {
        race.held(b"$1\r\n1\r\n").await;
        race.redis.command(&["FLUSHDB"]).unwrap();
        race.held(b"invalidate").await;
        race.proxy.pass();
    };
    let (read, ()) = tokio::join!(get(reader), flush);
    assert_eq!(read, "1", "the read began before the flush");
    assert_eq!(get(reader).await, "none");
}

#[tokio::test]
async fn a_server_that_stands_still_ends_the_copies_within_the_bound() {
    let race = Race::new().await;
    copied(&race.reader).await;
    race.redis.pause();
    let paused_at = Instant::now();
    loop {
        let begun = Instant::now();
        let is_copied = is_copied(&race.reader).await;
        if begun > paused_at + DEFAULT_MAX_STALENESS {
            assert!(!is_copied, "a copy was read after the bound");
            break;
        }
        sleep(Duration::from_millis(1)).await;
    }
    race.redis.resume();
    assert_eq!(get(&race.reader).await, "1");
    copied(&race.reader).await;
}

#[tokio::test]
async fn a_copy_ends_with_the_value() {
    let race = Race::new().await;
    let (reader, writer) = (&race.reader, &race.writer);
    copied(reader).await;
    // Redis notices the end of this value late: no command looks at it.
    writer.set("a", &"2".into(), SHORT).await.unwrap();
    let written_at = Instant::now();
    loop {
        let begun = Instant::now();
        let value = get(reader).await;
        // Redis counts whole milliseconds.
        let may_live = begun <= written_at + SHORT + Duration::from_millis(1);
        assert!(may_live || value != "2", "a copy outlived its value");
        if value == "none" {
            break;
        }
        assert!(written_at.elapsed() < TIMEOUT, "it is still {value}");
        sleep(Duration::from_millis(1)).await;
    }
    // A longer or a shorter time to live is noticed too.
    writer.set("a", &"3".into(), LONG).await.unwrap();
    becomes(reader, "3", Instant::now()).await;
    copied(reader).await;
    writer.touch("a", Duration::from_millis(1)).await.unwrap();
    becomes(reader, "none", Instant::now()).await;
}

#[tokio::test]
async fn a_copy_ends_with_the_ttl_of_the_near_cache() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let values = plain(&store).near(NearCache::new(BYTES).ttl(SHORT));
    values.set("a", &"1".into(), Ttl::Never).await.unwrap();
    copied(&values).await;
    let copied_at = Instant::now();
    loop {
        let begun = Instant::now();
        let is_copied = is_copied(&values).await;
        if begun > copied_at + SHORT {
            assert!(!is_copied);
            break;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn copies_need_no_more_than_their_bytes_and_large_values_have_none() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let values = near(&store);
    let large = Bytes::from(vec![b'x'; BYTES / 2]);
    values.set("a", &large, LONG).await.unwrap();
    for _ in 0..20 {
        assert_eq!(values.get("a").await.unwrap().as_ref(), Some(&large));
        assert!(!is_copied(&values).await);
    }
    set(&values, "1").await;
    copied(&values).await;
}

#[tokio::test]
async fn without_the_permission_to_track_every_read_is_one_of_the_store() {
    let redis = Redis::start();
    let mut user = vec!["ACL", "SETUSER", "shop", "on", ">pw"];
    let rights = RIGHTS.split_whitespace();
    user.extend(rights.filter(|&right| right != TRACKING));
    redis.command(&user).unwrap();
    let store = connect(&redis.url_as("shop", "pw")).await;
    let values = near(&store);
    set(&values, "1").await;
    for _ in 0..3 {
        assert_eq!(get(&values).await, "1");
        assert!(!is_copied(&values).await);
    }
    redis
        .command(&["ACL", "SETUSER", "shop", TRACKING])
        .unwrap();
    copied(&values).await;
}

#[tokio::test]
async fn valkey_invalidates_copies_too() {
    let Some(valkey) = Redis::start_valkey() else {
        println!("NOT TESTED on Valkey: there is none");
        return;
    };
    let reader = near(&connect(&valkey.url()).await);
    let writer = plain(&connect(&valkey.url()).await);
    set(&writer, "1").await;
    copied(&reader).await;
    set(&writer, "2").await;
    becomes(&reader, "2", Instant::now()).await;
    copied(&reader).await;
    valkey.command(&["FLUSHDB"]).unwrap();
    becomes(&reader, "none", Instant::now()).await;
}

#[tokio::test]
async fn every_store_has_the_same_values_with_and_without_copies() {
    on_each_store(async |store| {
        let (near, plain) = (near(&store), plain(&store));
        for (writer, value) in [(&near, "1"), (&plain, "2"), (&near, "3"), (&plain, "4")] {
            for key in ["{a}", "b", "c", "d"] {
                let value = Bytes::from(value);
                writer.set(key, &value, LONG).await.unwrap();
                for reader in [&near, &plain, &near] {
                    assert_eq!(reader.get(key).await.unwrap().as_ref(), Some(&value));
                }
            }
        }
        let counters = store.cache::<i64>("values").codec(Integer);
        assert_eq!(counters.incr("b", 1, LONG).await.unwrap(), 5);
        assert_eq!(near.get("b").await.unwrap().as_deref(), Some(&b"5"[..]));
        // A value that is no string is reported as by a read of the store.
        assert!(near.delete("b").await.unwrap());
        assert_eq!(near.get("b").await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn after_a_failover_no_copy_of_the_old_master_is_read() {
    let sentinel = Sentinel::start();
    let reader = near(&Store::connect(&sentinel.url()).await.unwrap());
    let writer = plain(&Store::connect(&sentinel.url()).await.unwrap());
    set(&writer, "1").await;
    copied(&reader).await;
    sentinel.await_copied();
    let new = sentinel.fail_over();
    // To the new master: the old one may still accept writes, which are lost then.
    let write = |server, value| sentinel.node(server).command(&["SET", KEY, value]);
    write(new, "2").unwrap();
    follows(&reader, "2").await;

    // The old master stands still, and breaks no connection.
    sentinel.await_copied();
    copied(&reader).await;
    sentinel.pause_master();
    let new = sentinel.await_failover(new);
    write(new, "3").unwrap();
    follows(&reader, "3").await;
    copied(&reader).await;
}

#[tokio::test]
async fn after_a_slot_has_moved_no_copy_of_the_old_node_is_read() {
    let cluster = Cluster::start();
    let reader = near(&Store::connect(&cluster.url()).await.unwrap());
    let writer = plain(&Store::connect(&cluster.url()).await.unwrap());
    set(&writer, "1").await;
    copied(&reader).await;
    let from = cluster.owner(KEY);
    let to = cluster.masters().into_iter().find(|&node| node != from);
    cluster.move_slot(Cluster::slot(KEY), to.unwrap());
    set(&writer, "2").await;
    becomes(&reader, "2", Instant::now()).await;
    copied(&reader).await;

    // Its new owner stands still, and a replica takes over.
    cluster.await_copied(to.unwrap());
    cluster.node(to.unwrap()).pause();
    cluster.await_failover(to.unwrap());
    set(&writer, "3").await;
    follows(&reader, "3").await;
    copied(&reader).await;
}
