//! The guarantees of a lock, on every kind of store.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use lockstock::{Acquired, Store};
use lockstock_testkit::Redis;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

mod cancellation;
mod fences;
#[path = "../harness/mod.rs"]
mod harness;
mod identity;
mod keep;
mod lease;
mod outages;
mod renewal;
mod work;

use harness::{BRIEF, LEASE, TIMEOUT, busy, connect, held, lock, on_each_store, settle};

#[tokio::test]
async fn a_held_lock_is_busy_and_reports_its_remaining_lease() {
    on_each_store(async |store| {
        let lock = lock(&store, "product-update-lock-42", LEASE);
        let guard = held(&lock).await;
        let answer = busy(&lock).await;
        assert!(!answer.is_kept());
        let remaining = answer.retry_after().unwrap();
        assert!(remaining <= LEASE && remaining > LEASE / 2, "{remaining:?}");
        let other = store.lock("product-update-lock-43").lease(LEASE).unwrap();
        held(&other).await.release().await.unwrap();
        guard.release().await.unwrap();
        held(&lock).await.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_release_grants_the_lock_to_the_next_waiter() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let guard = held(&lock).await;
        let waiter = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire_within(TIMEOUT * 2).await }
        });
        settle(&store).await;
        guard.release().await.unwrap();
        let next = timeout(TIMEOUT, waiter).await.expect("notified").unwrap();
        assert!(matches!(next.unwrap(), Acquired::Held(_)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_are_exclusive_and_in_fence_order() {
    on_each_store(async |store| {
        let inside = Arc::new(AtomicUsize::new(0));
        let last = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..16 {
            let lock = lock(&store, "hot", LEASE);
            let (inside, last) = (inside.clone(), last.clone());
            tasks.spawn(async move {
                for _ in 0..25 {
                    let guard = lock.acquire().await.unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                    assert!(last.swap(guard.fence(), Ordering::SeqCst) < guard.fence());
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    guard.release().await.unwrap();
                }
            });
        }
        timeout(TIMEOUT, tasks.join_all()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_short_wait_outlasts_a_shorter_lease() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", BRIEF / 50);
        std::mem::forget(held(&lock).await);
        let next = lock.acquire_within(BRIEF).await.unwrap();
        assert!(matches!(next, Acquired::Held(_)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_of_milliseconds_outlasts_a_shorter_lease_in_memory() {
    let lock = lock(&Store::memory(), "a", Duration::from_millis(2));
    std::mem::forget(held(&lock).await);
    let begun = Instant::now();
    let wait = Duration::from_millis(8);
    let next = lock.acquire_within(wait).await.unwrap();
    assert!(matches!(next, Acquired::Held(_)));
    assert!(begun.elapsed() < wait, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn waiters_of_one_process_are_served_in_order_of_arrival() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let guard = held(&lock).await;
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for n in 0..20 {
            let (lock, order) = (lock.clone(), order.clone());
            tasks.spawn(async move {
                let guard = lock.acquire().await.unwrap();
                order.lock().unwrap().push(n);
                guard.release().await.unwrap();
            });
            // On a current-thread runtime this lets the new task join the local queue.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
        guard.release().await.unwrap();
        timeout(TIMEOUT, tasks.join_all()).await.unwrap();
        assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn names_of_any_bytes_are_different_locks() {
    on_each_store(async |store| {
        let names: &[&[u8]] = &[
            b"a}b",
            b"a{b",
            b"{a}",
            b"a",
            b"{}",
            b"a\0b",
            b"a\r\nb",
            b"\xff",
            b"lockstock:{a}",
            &[b'x'; 1024],
        ];
        let mut guards = Vec::new();
        for name in names {
            guards.push(held(&store.lock(name).lease(LEASE).unwrap()).await);
        }
        for guard in guards {
            guard.release().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn invalid_arguments_are_rejected_before_a_request_is_sent() {
    on_each_store(async |store| {
        for lease in [
            Duration::ZERO,
            Duration::from_micros(999),
            Duration::from_secs(86_401),
        ] {
            let error = store.lock("a").lease(lease).unwrap_err();
            assert!(error.is_invalid(), "{error}");
        }
        assert!(store.lock("").lease(LEASE).unwrap_err().is_invalid());
        assert!(
            store
                .lock([b'x'; 1025])
                .lease(LEASE)
                .unwrap_err()
                .is_invalid()
        );
    })
    .await;
    for url in [
        "",
        "redis",
        "memcached://x",
        "redis://",
        "redis://h:port",
        "file:///x",
    ] {
        let error = Store::connect(url).await.unwrap_err();
        assert!(
            error.is_invalid() || error.is_unavailable(),
            "{url}: {error}"
        );
    }
}

#[tokio::test]
async fn other_libraries_contend_for_the_same_key() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let lock = lock(&store, "shared", LEASE);
    // As redis-py, django-redis and rslock take a lock.
    let expiry = LEASE * 3;
    let expiry_ms = expiry.as_millis().to_string();
    let take = ["SET", "shared", "their-token", "NX", "PX", &expiry_ms];
    redis.command(&take).unwrap();
    let answer = busy(&lock).await;
    assert!(!answer.is_kept());
    let remaining = answer.retry_after().unwrap();
    assert!(remaining <= expiry && remaining > LEASE, "{remaining:?}");
    redis.command(&["SET", "shared", "their-token"]).unwrap();
    assert_eq!(busy(&lock).await.retry_after(), None, "it never expires");
    redis.command(&["DEL", "shared"]).unwrap();
    let guard = held(&lock).await;
    let theirs = redis.command(&take);
    assert_ne!(theirs, Ok("OK".to_owned()), "a lock of Lockstock excludes");
    guard.release().await.unwrap();
    assert_eq!(redis.command(&["EXISTS", "shared"]), Ok("0".to_owned()));
}

#[tokio::test]
async fn debug_shows_names_as_text_and_no_token() {
    on_each_store(async |store| {
        let name = "\u{c0c1}\u{d488} \"42\"";
        let (lock, cart) = (
            lock(&store, name, LEASE),
            store.lock_all(["b\0"]).lease(LEASE).unwrap(),
        );
        let (guard, guards) = (held(&lock).await, cart.acquire().await.unwrap());
        let locks = store.locks().await.unwrap();
        let (id, client_id) = (locks[1].holders[0].id, store.client_id());
        let shown = format!("{lock:?} {guard:?} {:?}", locks[1]);
        assert_eq!(
            shown.matches("\"\u{c0c1}\u{d488} \\\"42\\\"\"").count(),
            3,
            "{shown}"
        );
        assert!(shown.contains(&guard.fence().to_string()), "{shown}");
        let more = format!("{cart:?} {guards:?} {:?}", store.cache::<()>(b"b\xff"));
        assert_eq!(more.matches(r#""b\0""#).count(), 2, "{more}");
        assert!(more.contains(r#":b\xff:1:""#), "{more}");
        let token = id.to_string();
        let (client, attempt) = token.split_at(16);
        assert_eq!(client, client_id.to_string());
        let all = format!("{shown} {more} {id:?} {client_id:?}");
        assert!(all.contains(client) && !all.contains(attempt), "{all}");
        guards.release().await.unwrap();
        guard.release().await.unwrap();
    })
    .await;
}
