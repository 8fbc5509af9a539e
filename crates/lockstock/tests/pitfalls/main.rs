//! The known pitfalls of distributed locks, by number, each with the tests that rule it out.
//! A pitfall that a test of another file rules out names that test.
//!
//! | pitfall | what goes wrong | tests elsewhere |
//! |---|---|---|
//! | 1 | a lock without a lease, or with one rounded to zero, never ends | `contract/main.rs` `invalid_arguments_are_rejected_before_a_request_is_sent` |
//! | 2 | a zero wait is not one try, a short wait is none | `contract/main.rs` `a_short_wait_outlasts_a_shorter_lease`, `contract/main.rs` `a_wait_of_milliseconds_outlasts_a_shorter_lease_in_memory` |
//! | 3 | extending, replacing and restarting a lease share one name | `contract/lease.rs` `renew_restarts_the_lease_and_extend_adds_to_it` |
//! | 4 | the token is forgotten before the reply to the release | `contract/cancellation.rs` `release_and_keep_complete_after_their_futures_are_dropped` |
//! | 5 | the lease counts from the reply, or from a failed attempt | |
//! | 6 | Redis deletes expired keys late, or only on access | |
//! | 7 | a message published without a subscriber is lost | `queue.rs` `a_waiter_asks_again_after_its_connection_broke`, `queue.rs` `a_waiter_asks_again_after_redis_lost_the_queue` |
//! | 8 | a reply that never arrived was a grant | `contract/outages.rs` `a_grant_whose_reply_was_lost_is_released` |
//! | 9 | a repeated request takes effect twice | `contract/outages.rs` `a_request_whose_reply_was_lost_is_sent_again` |
//! | 10 | an error of the server counts as "busy", or as "granted" | `pitfalls/rejections.rs` `pitfall_10_scripts_flushed`, `pitfalls/rejections.rs` `pitfall_10_readonly`, `pitfalls/rejections.rs` `pitfall_10_loading`, `pitfalls/rejections.rs` `pitfall_10_oom`, `pitfalls/rejections.rs` `pitfall_10_noauth`, `pitfalls/rejections.rs` `pitfall_10_moved` |
//! | 11 | Redis evicts the lock | |
//! | 12 | automatic renewal outlives its lock | `contract/renewal.rs` `auto_renewal_ends_with_its_guard` |
//! | 13 | the fence is minted after the grant, and a stale holder gets the higher one | `contract/main.rs` `holders_are_exclusive_and_in_fence_order`, `queue.rs` `processes_are_exclusive_and_none_stalls` |
//! | 14 | a renewal wakes the waiters | |
//! | 15 | a release wakes every waiter | `queue.rs` `idle_waiters_send_nothing` |

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

#[path = "../harness/mod.rs"]
mod harness;
mod rejections;

use std::time::Duration;

use harness::{BRIEF, LEASE, SHORT, TIMEOUT, busy, got, held, queue_heads, until, waiting};
use lockstock::{Acquired, Guard, Lock, Store};
use lockstock_testkit::{Proxy, Redis};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

fn lock(store: &Store, lease: Duration) -> Lock {
    store.lock("a").lease(lease).unwrap()
}

async fn connect(redis: &Redis) -> Store {
    harness::connect(&redis.url()).await
}

/// Connects over a network that can be broken.
async fn connect_far(redis: &Redis) -> (Store, Proxy) {
    let proxy = Proxy::start(redis.address());
    let store = harness::connect(&format!("redis://{}/0", proxy.address())).await;
    (store, proxy)
}

fn number(redis: &Redis, words: &[&str]) -> i64 {
    redis.command(words).unwrap().parse().unwrap()
}

async fn queued(redis: &Redis, count: usize) {
    queue_heads(redis, "a", count).await;
}

#[tokio::test]
async fn pitfall_01_a_lock_key_always_has_an_expiry() {
    let redis = Redis::start();
    let store = connect(&redis).await;
    let lock = lock(&store, LEASE);
    let expires_within = |max: Duration| {
        let remaining_ms = number(&redis, &["PTTL", "a"]);
        assert!(
            remaining_ms > 0 && remaining_ms <= max.as_millis() as i64,
            "{remaining_ms}"
        );
    };
    let guard = held(&lock).await;
    expires_within(LEASE);
    guard.extend(Duration::from_millis(1)).await.unwrap();
    expires_within(LEASE);
    guard.extend(LEASE).await.unwrap();
    expires_within(LEASE * 2);
    guard.renew().await.unwrap();
    expires_within(LEASE);
    for never in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        // With any result.
        let _ = guard.extend(never).await;
        expires_within(LEASE);
        let error = store.lock("a").lease(never).unwrap_err();
        assert!(error.is_invalid(), "{error}");
    }
    guard.keep().await.unwrap();
    expires_within(LEASE);
}

#[tokio::test]
async fn pitfall_02_a_zero_wait_is_one_try_and_a_maximum_wait_is_a_wait() {
    let redis = Redis::start();
    for store in [connect(&redis).await, Store::memory()] {
        let lock = lock(&store, LEASE);
        let Acquired::Held(guard) = lock.acquire_within(Duration::ZERO).await.unwrap() else {
            panic!("it was free")
        };
        let again = lock.acquire_within(Duration::ZERO).await.unwrap();
        assert!(matches!(again, Acquired::Busy(_)), "{again:?}");
        let waiter = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire_within(Duration::MAX).await.unwrap() }
        });
        guard.release().await.unwrap();
        let next = timeout(TIMEOUT, waiter).await.unwrap().unwrap();
        assert!(matches!(next, Acquired::Held(_)), "{next:?}");
        drop(next);
        store.drain().await;
    }
}

#[tokio::test]
async fn pitfall_03_extend_adds_and_renew_restarts() {
    let redis = Redis::start();
    for store in [connect(&redis).await, Store::memory()] {
        let lock = lock(&store, LEASE);
        let guard = held(&lock).await;
        guard.extend(LEASE).await.unwrap();
        guard.extend(LEASE).await.unwrap();
        assert!(guard.remaining() > LEASE * 2, "added each time");
        guard.renew().await.unwrap();
        assert!(guard.remaining() <= LEASE, "restarted");
        assert!(busy(&lock).await.retry_after().unwrap() <= LEASE);
        guard.release().await.unwrap();
    }
}

#[tokio::test]
async fn pitfall_04_an_unanswered_release_completes_after_the_outage() {
    let redis = Redis::start();
    let (far, proxy) = connect_far(&redis).await;
    let guard = held(&lock(&far, LEASE)).await;
    proxy.cut();
    assert!(guard.release().await.unwrap_err().is_unavailable());
    busy(&lock(&connect(&redis).await, LEASE)).await;
    proxy.pass();
    timeout(TIMEOUT, far.drain())
        .await
        .expect("long before the lease ends");
    held(&lock(&connect(&redis).await, LEASE))
        .await
        .release()
        .await
        .unwrap();
}

/// Not from the reply, and not from a failed attempt: the deadline is never later than the
/// expiry in Redis, and not much earlier.
#[tokio::test]
async fn pitfall_05_the_lease_counts_from_the_request() {
    let redis = Redis::start();
    let (far, proxy) = connect_far(&redis).await;
    let honest = |guard: &Guard| {
        let remaining_ms = number(&redis, &["PTTL", "a"]) as u64;
        let expiry = Instant::now() + Duration::from_millis(remaining_ms + 1);
        assert!(
            guard.deadline() <= expiry,
            "{:?}",
            guard.deadline() - expiry
        );
        assert!(guard.remaining() > LEASE / 2, "{:?}", guard.remaining());
    };
    let lock = lock(&far, LEASE);
    proxy.delay(SHORT);
    let guard = held(&lock).await;
    honest(&guard);
    guard.renew().await.unwrap();
    honest(&guard);
    guard.extend(SHORT).await.unwrap();
    honest(&guard);
    proxy.pass();
    guard.release().await.unwrap();
    proxy.reset_next_reply();
    let guard = held(&lock).await;
    honest(&guard);
    guard.release().await.unwrap();
}

/// A waiter receives a grant only after its lease, and has asked again meanwhile: as a paused
/// process does.
#[tokio::test]
async fn pitfall_05_a_grant_received_after_its_lease_is_discarded() {
    let redis = Redis::start();
    let near = connect(&redis).await;
    let (far, proxy) = connect_far(&redis).await;
    let first = held(&lock(&near, BRIEF)).await;
    // The waiter asks again when this lease would have ended.
    let asks_again_at = first.deadline();
    let waiter = waiting(&lock(&far, SHORT));
    queued(&redis, 1).await;
    proxy.stall();
    first.release().await.unwrap();
    // Its grant ends before it receives it, and another holder follows.
    until("the end of its lease", || {
        number(&redis, &["EXISTS", "a"]) == 0
    })
    .await;
    let second = held(&lock(&near, LEASE)).await;
    // Stalled until after it has asked again, which has no visible effect.
    sleep_until(asks_again_at + SHORT).await;
    proxy.pass();
    let fence = second.fence();
    queued(&redis, 1).await;
    second.release().await.unwrap();
    let third = got(waiter).await;
    assert!(
        third.fence() > fence,
        "the fence of the grant that it missed"
    );
    third.release().await.unwrap();
}

#[tokio::test]
async fn pitfall_06_a_lease_ends_without_active_expiry_in_redis() {
    let redis = Redis::start_with(&["--enable-debug-command", "yes"]);
    redis.command(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).unwrap();
    let (one, other) = (connect(&redis).await, connect(&redis).await);
    // As a crash: no release, no drop.
    std::mem::forget(held(&lock(&one, SHORT)).await);
    let waiter = waiting(&lock(&other, LEASE));
    let behind = waiting(&lock(&other, LEASE));
    got(waiter).await.release().await.unwrap();
    got(behind).await.release().await.unwrap();
}

#[tokio::test]
async fn pitfall_07_a_lost_notification_costs_at_most_the_lease() {
    let redis = Redis::start();
    let (one, other) = (connect(&redis).await, connect(&redis).await);
    let guard = held(&lock(&one, BRIEF)).await;
    let waiter = waiting(&lock(&other, LEASE));
    queued(&redis, 1).await;
    // The holder is gone without a notification, and so is the queue.
    redis.command(&["DEL", "a", "lockstock:{a}:queue"]).unwrap();
    got(waiter).await.release().await.unwrap();
    assert!(guard.release().await.unwrap_err().is_lost());
}

#[tokio::test]
async fn pitfall_09_a_repeated_request_is_granted_once() {
    let redis = Redis::start();
    let (far, proxy) = connect_far(&redis).await;
    let near = connect(&redis).await;
    for _ in 0..5 {
        proxy.reset_next_reply();
        let guard = held(&lock(&far, LEASE)).await;
        let stored = number(&redis, &["GET", "lockstock:clock"]) as u64;
        assert!(guard.fence() <= stored, "the fence of the one grant");
        let waiter = waiting(&lock(&near, LEASE));
        queued(&redis, 1).await;
        // A repeated release must not take the lock from the next holder.
        proxy.reset_next_reply();
        guard.release().await.unwrap();
        let next = got(waiter).await;
        far.drain().await;
        busy(&lock(&far, LEASE)).await;
        next.release().await.unwrap();
    }
}

#[tokio::test]
async fn pitfall_11_an_evicted_lock_is_lost_and_fences_still_rise() {
    let redis = Redis::start_with(&["--maxmemory-policy", "allkeys-random"]);
    let store = connect(&redis).await;
    let lock = lock(&store, LEASE);
    let evicted = held(&lock).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    until("the eviction", || {
        // Rejected or not, the command evicts first.
        let _ = redis.command(&["SET", "filler", "x"]);
        number(&redis, &["EXISTS", "a", "lockstock:clock"]) == 0
    })
    .await;
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    let next = held(&lock).await;
    assert!(next.fence() > evicted.fence());
    assert!(evicted.release().await.unwrap_err().is_lost());
    next.release().await.unwrap();
}

#[test]
fn pitfall_11_the_docs_name_the_eviction_policy() {
    let docs = include_str!("../../../../docs/guarantees.md");
    assert!(docs.contains("`maxmemory-policy noeviction`"));
}

#[tokio::test]
async fn pitfall_14_a_renewal_notifies_no_waiter() {
    let redis = Redis::start();
    let (one, other) = (connect(&redis).await, connect(&redis).await);
    let guard = held(&lock(&one, LEASE)).await;
    let waiters: Vec<_> = (0..20).map(|_| waiting(&lock(&other, LEASE))).collect();
    queued(&redis, 1).await;
    let before = published(&redis);
    for _ in 0..10 {
        guard.renew().await.unwrap();
    }
    for _ in 0..10 {
        guard.extend(SHORT).await.unwrap();
    }
    assert_eq!(published(&redis), before);
    guard.release().await.unwrap();
    for waiter in waiters {
        got(waiter).await.release().await.unwrap();
    }
}

#[tokio::test]
async fn pitfall_15_a_release_notifies_one_waiter() {
    let redis = Redis::start();
    let one = connect(&redis).await;
    let guard = held(&lock(&one, LEASE)).await;
    let mut waiters = JoinSet::new();
    for process in 1..=4 {
        let store = connect(&redis).await;
        for _ in 0..25 {
            let lock = lock(&store, LEASE);
            waiters.spawn(async move { lock.acquire().await.unwrap() });
        }
        queued(&redis, process).await;
    }
    let before = published(&redis);
    guard.release().await.unwrap();
    let next = timeout(TIMEOUT, waiters.join_next()).await.unwrap();
    assert_eq!(published(&redis), before + 1, "one notification");
    assert!(waiters.try_join_next().is_none(), "one holder");
    drop(next);
    waiters.abort_all();
}

/// Returns how many notifications Redis has published.
fn published(redis: &Redis) -> i64 {
    let stats = redis.command(&["INFO", "commandstats"]).unwrap();
    let calls = |line: &str| {
        let line = line
            .strip_prefix("cmdstat_publish:calls=")
            .or_else(|| line.strip_prefix("cmdstat_spublish:calls="))?;
        line.split(',').next()?.parse::<i64>().ok()
    };
    stats.lines().filter_map(calls).sum()
}

#[test]
fn every_pitfall_has_a_test_and_every_named_test_exists() {
    let this = include_str!("main.rs");
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let is_test = |text: &str, name: &str| {
        let (before, _) = text.split_once(&format!("fn {name}()"))?;
        let attribute = before
            .trim_end_matches("async ")
            .trim_end()
            .lines()
            .last()?;
        let is_one = ["#[test]", "#[tokio::test"]
            .iter()
            .any(|mark| attribute.starts_with(mark));
        is_one.then_some(())
    };
    let rows = this.lines().filter_map(|line| line.strip_prefix("//! | "));
    let rows: Vec<_> = rows
        .filter(|row| row.starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    assert_eq!(rows.len(), 15);
    for (row, pitfall) in rows.iter().zip(1..) {
        let words: Vec<_> = row.split('|').map(str::trim).collect();
        assert_eq!(words[0], pitfall.to_string());
        let mut found = usize::from(this.contains(&format!("fn pitfall_{pitfall:02}_")));
        for named in words[2].split(", ").filter(|named| !named.is_empty()) {
            let (file, name) = named.split_once(' ').unwrap();
            let (file, name) = (file.trim_matches('`'), name.trim_matches('`'));
            let text = std::fs::read_to_string(format!("{tests}/{file}"));
            let text = text.unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(
                is_test(&text, name).is_some(),
                "pitfall {pitfall}: no test {name} in {file}"
            );
            found += 1;
        }
        assert!(found > 0, "pitfall {pitfall} has no test");
    }
}
