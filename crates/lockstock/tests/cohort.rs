//! Hand-over of a lock inside a process, without a request to Redis, and its bounds.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use harness::{BRIEF, LEASE, SHORT, TIMEOUT, connect, got, queue_heads, settle, waiting};
use lockstock::{Acquired, Lock, Store};
use lockstock_testkit::Redis;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

async fn store(redis: &Redis) -> Store {
    connect(&redis.url()).await
}

fn hot(store: &Store, lease: Duration) -> Lock {
    store.lock("hot").lease(lease).unwrap()
}

async fn queued(redis: &Redis, count: usize) {
    queue_heads(redis, "hot", count).await;
}

/// Returns how many scripts Redis has run.
fn scripts(redis: &Redis) -> u64 {
    let stats = redis.command(&["INFO", "commandstats"]).unwrap();
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn local_handover_takes_almost_no_commands() {
    let redis = Redis::start();
    let store = store(&redis).await;
    let (inside, last) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let before = scripts(&redis);
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let lock = hot(&store, LEASE);
        let (inside, last) = (inside.clone(), last.clone());
        tasks.spawn(async move {
            for _ in 0..500 {
                let guard = lock.acquire().await.unwrap();
                assert!(!inside.swap(true, Ordering::SeqCst), "two at once");
                let fence = guard.fence();
                assert!(last.swap(fence, Ordering::SeqCst) < fence, "fences rise");
                assert!(guard.remaining() > LEASE * 8 / 10);
                inside.store(false, Ordering::SeqCst);
                guard.release().await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let per_holder = (scripts(&redis) - before) as f64 / 8000.0;
    assert!(per_holder < 0.5, "{per_holder} commands per holder");
    assert_eq!(redis.command(&["EXISTS", "hot"]), Ok("0".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn local_handover_delays_another_process_by_a_few_milliseconds_at_most() {
    let redis = Redis::start();
    let (busy, other) = (store(&redis).await, store(&redis).await);
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let (lock, stop, served) = (hot(&busy, LEASE), stop.clone(), served.clone());
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let guard = lock.acquire().await.unwrap();
                served.fetch_add(1, Ordering::Relaxed);
                guard.release().await.unwrap();
            }
        });
    }
    for _ in 0..50 {
        let (before, lock) = (served.load(Ordering::Relaxed), hot(&other, LEASE));
        let guard = timeout(TIMEOUT, lock.acquire()).await.unwrap().unwrap();
        let overtook = served.load(Ordering::Relaxed) - before;
        // Includes the waiters before it, and all that are served while its request is in flight.
        assert!(overtook < 20_000, "{overtook} were served before it");
        guard.release().await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
}

#[tokio::test]
async fn local_waiters_do_not_overtake_an_earlier_waiter_of_another_process() {
    let redis = Redis::start();
    let (here, there) = (store(&redis).await, store(&redis).await);
    let guard = hot(&here, LEASE).acquire().await.unwrap();
    let first = waiting(&hot(&here, LEASE));
    // Redis learns of a local waiter from the release, together with how long it has waited.
    // The order is exact up to the latency of that request.
    sleep(BRIEF).await;
    let second = waiting(&hot(&there, LEASE));
    queued(&redis, 1).await;
    let third = waiting(&hot(&here, LEASE));
    settle(&here).await;
    guard.release().await.unwrap();
    let one = got(first).await;
    sleep(Duration::from_millis(20)).await;
    assert!(!second.is_finished() && !third.is_finished());
    one.release().await.unwrap();
    let two = got(second).await;
    assert!(!third.is_finished());
    two.release().await.unwrap();
    got(third).await.release().await.unwrap();
}

#[tokio::test]
async fn local_waiters_acquire_when_the_lease_of_a_hung_holder_ends() {
    let redis = Redis::start();
    let store = store(&redis).await;
    std::mem::forget(hot(&store, SHORT).acquire().await.unwrap());
    let long = hot(&store, LEASE);
    let waiters = [waiting(&long), waiting(&long), waiting(&long)];
    for waiter in waiters {
        got(waiter).await.release().await.unwrap();
    }
}

#[tokio::test]
async fn waiters_follow_a_deadline_that_moves() {
    let redis = Redis::start();
    let store = store(&redis).await;
    let lock = hot(&store, LEASE);
    let mut guard = lock.acquire().await.unwrap();
    let waiter = waiting(&lock);
    settle(&store).await;
    let deadline = guard.deadline();
    guard.extend(Duration::from_millis(1)).await.unwrap();
    assert!(guard.deadline() >= deadline);
    redis.command(&["PEXPIRE", "hot", "20000"]).unwrap();
    guard.renew().await.unwrap();
    let remaining_ms = redis.command(&["PTTL", "hot"]).unwrap();
    assert!(remaining_ms.parse::<i64>().unwrap() > 20_000);
    assert!(!waiter.is_finished());
    std::mem::forget(guard);
    redis.command(&["DEL", "hot"]).unwrap();
    waiter.abort();
    // The aborted waiter blocks no later request.
    let answer = timeout(TIMEOUT, lock.try_acquire()).await.unwrap();
    match answer.unwrap() {
        Acquired::Held(guard) => guard.release().await.unwrap(),
        Acquired::Busy(busy) => panic!("{busy:?}"),
    }
}

#[tokio::test]
async fn each_lease_in_a_local_queue_is_honoured() {
    let redis = Redis::start();
    let store = store(&redis).await;
    let first = hot(&store, LEASE).acquire().await.unwrap();
    let short = waiting(&hot(&store, SHORT));
    let longer = waiting(&hot(&store, LEASE * 2));
    settle(&store).await;
    first.release().await.unwrap();
    let short = got(short).await;
    assert!(short.remaining() <= SHORT);
    let deadline = short.deadline();
    // It hangs: its own lease counts, and not that of the holder before.
    std::mem::forget(short);
    let longer = got(longer).await;
    assert!(Instant::now() >= deadline && longer.remaining() > LEASE);
    longer.release().await.unwrap();
}

#[tokio::test]
async fn a_crash_after_a_long_lease_delays_the_next_waiter_only_by_its_own_lease() {
    let redis = Redis::start();
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(store(&redis).await);
    }
    let long = hot(&stores[0], LEASE).acquire().await.unwrap();
    let mut waiters = Vec::new();
    // The second one crashes.
    for (n, lease) in [LEASE, SHORT, LEASE].into_iter().enumerate() {
        waiters.push(waiting(&hot(&stores[n + 1], lease)));
        queued(&redis, n + 1).await;
    }
    long.release().await.unwrap();
    let mut waiters = waiters.into_iter();
    got(waiters.next().unwrap()).await.release().await.unwrap();
    // The waiter behind it knows only of the long lease before.
    std::mem::forget(got(waiters.next().unwrap()).await);
    got(waiters.next().unwrap()).await.release().await.unwrap();
}

#[tokio::test]
async fn a_queue_head_that_is_not_polled_is_skipped_when_the_lease_ends() {
    let redis = Redis::start();
    let (here, there) = (store(&redis).await, store(&redis).await);
    let holder = hot(&there, BRIEF).acquire().await.unwrap();
    let short = hot(&here, SHORT);
    let mut front = Box::pin(short.acquire());
    // In the queue of Redis, aware of the reply, and polled no more.
    let asleep = async {
        queued(&redis, 1).await;
        settle(&here).await;
        settle(&here).await;
    };
    tokio::select! {
        biased;
        acquired = &mut front => panic!("{acquired:?}"),
        () = asleep => {}
    }
    let behind = waiting(&hot(&here, LEASE));
    settle(&here).await;
    holder.release().await.unwrap();
    got(behind).await.release().await.unwrap();
    drop(front);
}

#[tokio::test]
async fn a_queue_head_that_never_reads_its_reply_is_skipped() {
    let redis = Redis::start();
    let here = Store::connect_within(&redis.url(), BRIEF).await.unwrap();
    let short = hot(&here, SHORT);
    let mut front = Box::pin(short.acquire());
    tokio::select! {
        biased;
        acquired = &mut front => panic!("{acquired:?}"),
        // Its request is on the way, and it is polled no more.
        () = async {} => {}
    }
    let behind = waiting(&hot(&here, LEASE));
    got(behind).await.release().await.unwrap();
    drop(front);
    here.drain().await;
}

/// Several names at once: the race is in the last milliseconds of each wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_that_races_with_a_release_has_one_outcome() {
    const NAMES: u64 = 4;
    let redis = Arc::new(Redis::start());
    let store = store(&redis).await;
    let mut races = JoinSet::new();
    for name in 0..NAMES {
        let (redis, store) = (redis.clone(), store.clone());
        races.spawn(async move {
            let key = format!("hot-{name}");
            let lock = store.lock(&key).lease(LEASE).unwrap();
            for round in (name..300).step_by(NAMES as usize) {
                let guard = lock.acquire().await.unwrap();
                let waiter = tokio::spawn({
                    let lock = lock.clone();
                    let wait = Duration::from_millis(10);
                    async move { lock.acquire_within(wait).await.unwrap() }
                });
                sleep(Duration::from_micros(7000 + round % 60 * 100)).await;
                guard.release().await.unwrap();
                match waiter.await.unwrap() {
                    Acquired::Held(guard) => {
                        let value = redis.command(&["GET", &key]).unwrap();
                        assert!(value.starts_with("lockstock:"), "{round}: '{value}'");
                        guard.release().await.unwrap();
                    }
                    Acquired::Busy(_) => {
                        store.drain().await;
                        let next = timeout(TIMEOUT, lock.acquire()).await;
                        let guard = next.expect("it is free").unwrap();
                        guard.release().await.unwrap();
                    }
                }
            }
        });
    }
    races.join_all().await;
}

#[tokio::test]
async fn local_waiters_ask_again_after_the_connection_broke() {
    let redis = Redis::start();
    let store = store(&redis).await;
    let lock = hot(&store, LEASE);
    for _ in 0..20 {
        let guard = lock.acquire().await.unwrap();
        let waiter = waiting(&lock);
        tokio::task::yield_now().await;
        redis
            .command(&["CLIENT", "KILL", "TYPE", "pubsub"])
            .unwrap();
        guard.release().await.unwrap();
        let guard = got(waiter).await;
        assert!(guard.remaining() > LEASE / 2);
        guard.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_lock_handed_to_a_cancelled_waiter_moves_on() {
    let redis = Redis::start();
    let store = store(&redis).await;
    for _ in 0..20 {
        let guard = hot(&store, LEASE).acquire().await.unwrap();
        let first = waiting(&hot(&store, LEASE));
        let second = waiting(&hot(&store, LEASE));
        tokio::task::yield_now().await;
        // On one thread: each waiter is aborted between its notification and its next poll.
        guard.release().await.unwrap();
        let head = got(first).await;
        let passed = waiting(&hot(&store, LEASE));
        tokio::task::yield_now().await;
        drop(head);
        second.abort();
        passed.abort();
        let _ = (second.await, passed.await);
        store.drain().await;
        assert_eq!(redis.command(&["EXISTS", "hot"]), Ok("0".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fences_rise_while_the_clock_is_behind() {
    let redis = Redis::start();
    let store = store(&redis).await;
    let ahead = 4_102_444_800_000_000_u64;
    let clock = ahead.to_string();
    redis.command(&["SET", "lockstock:clock", &clock]).unwrap();
    let last = Arc::new(AtomicU64::new(ahead));
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let (store, last) = (store.clone(), last.clone());
        tasks.spawn(async move {
            for n in 0..200 {
                // Only the leases that are left to end are short.
                let lease = match n % 50 {
                    47 => Duration::from_millis(10),
                    48 => Duration::from_millis(50),
                    _ => LEASE,
                };
                let guard = hot(&store, lease).acquire().await.unwrap();
                let fence = guard.fence();
                assert!(
                    last.swap(fence, Ordering::SeqCst) < fence,
                    "{n}: fences rise"
                );
                match n % 50 {
                    // A crash, with the local hand-over that it was part of.
                    47 => std::mem::forget(guard),
                    // A lease this short may have ended before.
                    48 => {
                        let kept = guard.keep().await;
                        assert!(kept.is_ok() || kept.unwrap_err().is_lost());
                    }
                    49 => drop(guard),
                    _ => guard.release().await.unwrap(),
                }
            }
        });
    }
    tasks.join_all().await;
}
