//! Cancellation leaves nothing behind: futures dropped at any point, dropped guards, releases
//! that are not awaited, aborted tasks. Many at once, over several stores; to Redis a store is a
//! process.
//!
//! Leases are far longer than the test, so that anything left behind blocks a waiter until the
//! test times out.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

#[path = "harness/soak.rs"]
mod soak;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstock::{Acquired, Lock, Store};
use lockstock_testkit::Redis;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use soak::{chance, size};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, timeout};

const LEASE: Duration = Duration::from_secs(600);
/// The lease of the name that is kept and is free again only at the end of its lease.
const COOL_DOWN: Duration = Duration::from_millis(20);
/// Longer than anything takes on a busy machine, and shorter than the lease.
const TIMEOUT: Duration = Duration::from_secs(30);

const STORES: usize = 3;
const TASKS: u64 = 8;
const NAMES: [&str; 4] = ["hot", "hot", "b", "c"];
const COOL: &str = "cool";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancellation_leaves_nothing_behind_in_memory() {
    let stores = [Store::memory(), Store::memory(), Store::memory()];
    cancel("memory", &stores, size(20_000, 1_000_000)).await;
    are_all_free(&stores).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancellation_leaves_nothing_behind_on_redis() {
    let redis = Redis::start();
    let mut stores = Vec::new();
    for _ in 0..STORES {
        stores.push(Store::connect_within(&redis.url(), TIMEOUT).await.unwrap());
    }
    cancel("redis", &stores, size(20_000, 1_000_000)).await;

    // Immediately, and not at the end of a lease.
    let keys = |also: &str| {
        let keys = redis.command(&["KEYS", "*"]).unwrap();
        keys.lines()
            .filter(|&key| key != "lockstock:clock" && !key.contains(":ping:"))
            .filter(|key| also.is_empty() || !key.contains(also))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(COOL), [""; 0], "only the clock is left");
    let begun = Instant::now();
    while !keys("").is_empty() {
        assert!(begun.elapsed() < TIMEOUT, "{:?}", keys(""));
        sleep(Duration::from_millis(5)).await;
    }
    are_all_free(&stores).await;

    // One of them sends this command.
    let clients = redis.command(&["CLIENT", "LIST"]).unwrap();
    let clients = clients.trim().lines().count() - 1;
    assert!(clients <= 2 * STORES, "{clients} connections");
    let channels = redis.command(&["PUBSUB", "CHANNELS"]).unwrap();
    assert!(channels.lines().count() <= STORES, "{channels}");
}

/// Each store acquires each lock without a wait.
async fn are_all_free(stores: &[Store]) {
    for name in NAMES {
        for store in stores {
            match lock(store, name).try_acquire().await.unwrap() {
                Acquired::Held(guard) => guard.release().await.unwrap(),
                Acquired::Busy(busy) => panic!("{name}: {busy:?}"),
            }
        }
    }
}

fn lock(store: &Store, name: &str) -> Lock {
    let lease = if name == COOL { COOL_DOWN } else { LEASE };
    store.lock(name).lease(lease).unwrap()
}

/// Cancels `count` times in total.
async fn cancel(test: &str, stores: &[Store], count: u64) {
    let mut chance = chance(test);
    let done = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for store in stores {
        for _ in 0..TASKS {
            let (store, done) = (store.clone(), done.clone());
            let mut chance = StdRng::from_rng(&mut chance);
            tasks.spawn(async move {
                while done.fetch_add(1, Ordering::Relaxed) < count {
                    cancel_once(&store, &mut chance).await;
                }
            });
        }
    }
    let begun = Instant::now();
    let (mut before, mut first_resident) = (0, None);
    while !tasks.is_empty() {
        let all = async {
            while let Some(end) = tasks.join_next().await {
                end.unwrap();
            }
        };
        if timeout(TIMEOUT, all).await.is_ok() {
            break;
        }
        let now = done.load(Ordering::Relaxed);
        assert!(now > before, "{test}: no progress after {now}");
        println!("{test}: {now} of {count} after {:?}", begun.elapsed());
        before = now;
        // By then the process has allocated all the memory that it needs.
        first_resident.get_or_insert_with(resident);
    }
    for store in stores {
        timeout(TIMEOUT, store.drain()).await.expect("drained");
    }
    println!(
        "{test}: {count} cancellations in {:?}, {} MiB in use",
        begun.elapsed(),
        resident() >> 20
    );
    if let Some(first_resident) = first_resident {
        let grown = resident().saturating_sub(first_resident) >> 20;
        assert!(grown < 32, "{grown} MiB more than at the beginning");
    }
}

/// Returns the resident memory of this process in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = statm.split(' ').nth(1).unwrap();
    pages.parse::<u64>().unwrap() * 4096
}

/// Acquires a lock, and is cancelled at a random point from before the request to after the
/// release.
async fn cancel_once(store: &Store, chance: &mut StdRng) {
    let name = match chance.random_range(0..50) {
        0 => COOL,
        _ => NAMES[chance.random_range(0..NAMES.len())],
    };
    let steps = steps(lock(store, name), name == COOL, StdRng::from_rng(chance));
    match chance.random_range(0..8) {
        // Not cancelled, so that the queue moves.
        0 => steps.await,
        // The timer has a resolution of a millisecond: this cancels waiters.
        1 => {
            let limit = Duration::from_millis(chance.random_range(0..5));
            let _ = timeout(limit, steps).await;
        }
        2 => {
            let task = tokio::spawn(steps);
            yield_times(chance.random_range(0..100)).await;
            task.abort();
        }
        // After some polls of the runtime, each of which takes microseconds.
        _ => tokio::select! {
            () = steps => {}
            () = yield_times(chance.random_range(0..200)) => {}
        },
    }
}

async fn yield_times(count: usize) {
    for _ in 0..count {
        yield_now().await;
    }
}

async fn steps(lock: Lock, is_cool: bool, mut chance: StdRng) {
    let acquired = match chance.random_range(0..4) {
        0 => lock.try_acquire().await,
        1 => {
            let wait = Duration::from_micros(chance.random_range(0..3000));
            lock.acquire_within(wait).await
        }
        _ => lock.acquire().await.map(Acquired::Held),
    };
    let Acquired::Held(mut guard) = acquired.unwrap() else {
        return;
    };
    if is_cool {
        // A lease this short may have ended before.
        match chance.random() {
            true => drop(guard.keep().await),
            false => drop(guard.keep()),
        }
        return;
    }
    assert!(!guard.remaining().is_zero());
    match chance.random_range(0..8) {
        0 => guard.renew().await.unwrap(),
        1 => guard.extend(COOL_DOWN).await.unwrap(),
        2 => guard = guard.auto_renew(LEASE),
        3 => guard.run(yield_now()).await.unwrap(),
        _ => {}
    }
    match chance.random_range(0..4) {
        0 => drop(guard),
        1 => drop(guard.release()),
        2 => {
            yield_now().await;
            drop(guard);
        }
        _ => guard.release().await.unwrap(),
    }
}
