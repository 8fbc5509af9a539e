//! Entries that are invalidated together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstock::{Cache, ComputePolicy, Store};
use lockstock_testkit::Redis;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::{LEASE, TIMEOUT, connect, on_each_store};
use crate::{Gate, LONG, not_called, pages};

fn tagged(tags: &[&str]) -> ComputePolicy {
    // A caller that waits for an earlier computation fails its test.
    ComputePolicy::new(LONG).tags(tags).max_wait(2 * TIMEOUT)
}

async fn set(pages: &Cache<String>, key: &str, tags: &[&str]) {
    let tags = pages.tags(tags).await.unwrap();
    pages
        .set_tagged(key, &key.to_owned(), LONG, &tags)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_invalidated_tag_removes_its_entries_and_no_others() {
    on_each_store(async |store| {
        let pages = pages(&store);
        set(&pages, "ab", &["a", "b"]).await;
        set(&pages, "b", &["b"]).await;
        set(&pages, "c", &["c"]).await;
        set(&pages, "none", &[]).await;
        let other = store.cache::<String>("others");
        set(&other, "a", &["a"]).await;
        let present = async || {
            let mut present = Vec::new();
            for key in ["ab", "b", "c", "none"] {
                present.extend(pages.get(key).await.unwrap());
            }
            present
        };
        assert_eq!(present().await, ["ab", "b", "c", "none"]);
        pages.invalidate_tag("a").await.unwrap();
        assert_eq!(present().await, ["b", "c", "none"]);
        pages.invalidate_tag("b").await.unwrap();
        assert_eq!(present().await, ["c", "none"]);
        let many = pages.get_many(["ab", "c", "none"]).await.unwrap();
        assert_eq!(many, [None, Some("c".to_owned()), Some("none".to_owned())]);
        // Another namespace has tags of its own, another version has the same.
        assert_eq!(other.get("a").await.unwrap().as_deref(), Some("a"));
        pages.clone().version(2).invalidate_tag("c").await.unwrap();
        assert_eq!(present().await, ["none"]);
        set(&pages, "ab", &["a", "b"]).await;
        assert_eq!(present().await, ["ab", "none"]);
    })
    .await;
}

#[tokio::test]
async fn a_value_loaded_before_the_invalidation_is_a_miss() {
    on_each_store(async |store| {
        let pages = pages(&store);
        let tags = pages.tags(["a"]).await.unwrap();
        let loaded = "before".to_owned();
        pages.invalidate_tag("a").await.unwrap();
        pages
            .set_tagged("/mugs", &loaded, LONG, &tags)
            .await
            .unwrap();
        assert_eq!(pages.get("/mugs").await.unwrap(), None);
        // Another use of the tag does not make it valid.
        set(&pages, "/bowls", &["a"]).await;
        assert_eq!(pages.get("/mugs").await.unwrap(), None);
        let after = pages.get_or_set("/mugs", tagged(&["a"]), async || "after".to_owned());
        assert_eq!(after.await.unwrap(), "after");
    })
    .await;
}

#[tokio::test]
async fn a_computation_that_began_before_the_invalidation_is_not_shared() {
    on_each_store(async |store| {
        let (pages, gate) = (pages(&store), Gate::new());
        let first = tokio::spawn({
            let (pages, gate) = (pages.clone(), gate.clone());
            async move {
                let compute = async || gate.pass("before".to_owned()).await;
                let policy = tagged(&["a", "b"]);
                pages.get_or_set("/mugs", policy, compute).await.unwrap()
            }
        });
        gate.begun().await;
        pages.invalidate_tag("b").await.unwrap();
        // It does not wait for the first one.
        let after = async || "after".to_owned();
        let second = pages.get_or_set("/mugs", tagged(&["a", "b"]), after);
        let second = timeout(TIMEOUT, second).await.expect("not shared");
        assert_eq!(second.unwrap(), "after");
        gate.open();
        assert_eq!(first.await.unwrap(), "before");
        let third = pages.get_or_set("/mugs", tagged(&["a", "b"]), async || not_called().await);
        assert_eq!(third.await.unwrap(), "after");
    })
    .await;
}

#[tokio::test]
async fn a_value_computed_during_the_invalidation_is_a_miss() {
    on_each_store(async |store| {
        for policy in [tagged(&["a"]), tagged(&["a"]).once_per_store(LEASE)] {
            let pages = pages(&store);
            let compute = async || {
                pages.invalidate_tag("a").await.unwrap();
                "before".to_owned()
            };
            let page = pages.get_or_set("/mugs", policy, compute).await;
            assert_eq!(page.unwrap(), "before");
            assert_eq!(pages.get("/mugs").await.unwrap(), None);
        }
    })
    .await;
}

#[tokio::test]
async fn an_entry_without_the_tags_of_the_caller_is_computed_again() {
    on_each_store(async |store| {
        let pages = pages(&store);
        pages
            .set("/mugs", &"untagged".to_owned(), LONG)
            .await
            .unwrap();
        let compute = async || "tagged".to_owned();
        let page = pages.get_or_set("/mugs", tagged(&["a"]), compute).await;
        assert_eq!(page.unwrap(), "tagged");
        // A caller without tags checks those of the entry.
        let page = pages.get_or_set("/mugs", LONG, async || not_called().await);
        assert_eq!(page.await.unwrap(), "tagged");
        pages.invalidate_tag("a").await.unwrap();
        let page = pages.get_or_set("/mugs", LONG, async || "plain".to_owned());
        assert_eq!(page.await.unwrap(), "plain");
    })
    .await;
}

#[tokio::test]
async fn tags_that_do_not_fit_are_rejected() {
    on_each_store(async |store| {
        let pages = pages(&store);
        assert!(pages.tags([""]).await.unwrap_err().is_invalid());
        assert!(
            pages
                .tags(["x".repeat(1025)])
                .await
                .unwrap_err()
                .is_invalid()
        );
        let many = (0..65).map(|n| n.to_string());
        assert!(pages.tags(many).await.unwrap_err().is_invalid());
        assert!(pages.invalidate_tag("").await.unwrap_err().is_invalid());
        let of_others = store.cache::<String>("others").tags(["a"]).await.unwrap();
        let value = String::new();
        let set = pages.set_tagged("a", &value, LONG, &of_others);
        assert!(set.await.unwrap_err().is_invalid());
        let bytes: Vec<u8> = (0..=255).collect();
        let tags = pages.tags([&bytes]).await.unwrap();
        pages
            .set_tagged("a", &"1".to_owned(), LONG, &tags)
            .await
            .unwrap();
        assert!(pages.get("a").await.unwrap().is_some());
        pages.invalidate_tag(&bytes).await.unwrap();
        assert_eq!(pages.get("a").await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn a_lost_token_is_a_miss_and_stays_one() {
    let redis = Redis::start();
    let pages = pages(&connect(&redis.url()).await);
    let token = "lockstock:tag:pages:a";
    let no_string = "redis.call('DEL', KEYS[1]) redis.call('RPUSH', KEYS[1], 'a')";
    for lose in [
        &["DEL", token][..],
        &["SET", token, "no token"],
        &["EVAL", no_string, "1", token],
    ] {
        set(&pages, "/mugs", &["a"]).await;
        assert!(pages.get("/mugs").await.unwrap().is_some());
        redis.command(lose).unwrap();
        assert_eq!(pages.get("/mugs").await.unwrap(), None);
        set(&pages, "/bowls", &["a"]).await;
        assert!(pages.get("/bowls").await.unwrap().is_some());
        assert_eq!(pages.get("/mugs").await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_token_lives_as_long_as_its_entries() {
    let redis = Redis::start();
    let pages = pages(&connect(&redis.url()).await);
    let pttl = |key: &str| {
        redis
            .command(&["PTTL", key])
            .unwrap()
            .parse::<i64>()
            .unwrap()
    };
    let tags = pages.tags(["a"]).await.unwrap();
    let days = Duration::from_secs(10 * 24 * 3600);
    pages
        .set_tagged("a", &String::new(), days, &tags)
        .await
        .unwrap();
    assert!(pttl("lockstock:tag:pages:a") >= pttl("lockstock:cache:pages:1:a"));
    let before = pttl("lockstock:tag:pages:a");
    // An entry that expires earlier leaves it as it is.
    set(&pages, "b", &["a"]).await;
    assert!(before - pttl("lockstock:tag:pages:a") < 60_000);
    let tags = pages.tags(["a"]).await.unwrap();
    let never = lockstock::Ttl::Never;
    pages
        .set_tagged("a", &String::new(), never, &tags)
        .await
        .unwrap();
    assert_eq!(pttl("lockstock:tag:pages:a"), -1);
}

/// The source of the values is a number that only rises. A reader must not get a number from before
/// the last invalidation that had returned when the read began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_returns_what_was_loaded_before_an_invalidation() {
    let redis = Redis::start();
    let mut stores = Vec::new();
    for _ in 0..3 {
        stores.push(connect(&redis.url()).await);
    }
    race(&stores).await;
    let memory = Store::memory();
    race(&[memory.clone(), memory]).await;
}

async fn race(stores: &[Store]) {
    const ROUNDS: u64 = 300;
    let source = Arc::new(AtomicU64::new(0));
    let invalidated = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for (number, store) in stores.iter().enumerate() {
        for reader in 0..3 {
            let (store, numbers) = (store.clone(), store.cache::<u64>("numbers"));
            let (source, invalidated) = (source.clone(), invalidated.clone());
            tasks.spawn(async move {
                while invalidated.load(Ordering::SeqCst) < ROUNDS {
                    let expected = invalidated.load(Ordering::SeqCst);
                    let load = async || {
                        let loaded = source.load(Ordering::SeqCst);
                        // So long that an invalidation may overtake the write.
                        for _ in 0..loaded % 3 {
                            store.ping().await.unwrap();
                            tokio::task::yield_now().await;
                        }
                        loaded
                    };
                    let read = match reader {
                        0 => numbers.get("n").await.unwrap(),
                        1 => Some(numbers.get_or_set("n", tagged(&["t"]), load).await.unwrap()),
                        _ => {
                            let tags = numbers.tags(["t"]).await.unwrap();
                            let loaded = load().await;
                            numbers.set_tagged("n", &loaded, LONG, &tags).await.unwrap();
                            None
                        }
                    };
                    if let Some(read) = read {
                        assert!(read >= expected, "store {number}: {read} after {expected}");
                    }
                }
            });
        }
    }
    let numbers = stores[0].cache::<u64>("numbers");
    for round in 1..=ROUNDS {
        source.store(round, Ordering::SeqCst);
        numbers.invalidate_tag("t").await.unwrap();
        invalidated.store(round, Ordering::SeqCst);
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
}
