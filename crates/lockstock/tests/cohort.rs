//! A lock that is passed on inside a process, without asking anybody, and the bounds of that.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lockstock::{Acquired, Guard, Lock, Store};
use lockstock_testkit::Redis;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

const LEASE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(20);

async fn store(redis: &Redis) -> Store {
    Store::connect(&redis.url()).await.unwrap()
}

fn hot(store: &Store, lease: Duration) -> Lock {
    store.lock("hot").lease(lease).unwrap()
}

fn waiting(lock: &Lock) -> JoinHandle<Guard> {
    let lock = lock.clone();
    tokio::spawn(async move { lock.acquire().await.unwrap() })
}

async fn got(waiter: JoinHandle<Guard>) -> Guard {
    timeout(PATIENCE, waiter).await.expect("woken").unwrap()
}

/// The scripts that were run so far.
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
    let each = (scripts(&redis) - before) as f64 / 8000.0;
    assert!(each < 0.5, "{each} commands each");
    assert_eq!(redis.command(&["EXISTS", "hot"]), Ok("0".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn local_handover_delays_another_process_by_a_few_milliseconds_at_most() {
    let redis = Redis::start();
    let (busy, other) = (store(&redis).await, store(&redis).await);
    let stop = Arc::new(AtomicBool::new(false));
    let passed = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let (lock, stop, passed) = (hot(&busy, LEASE), stop.clone(), passed.clone());
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let guard = lock.acquire().await.unwrap();
                passed.fetch_add(1, Ordering::Relaxed);
                guard.release().await.unwrap();
            }
        });
    }
    for _ in 0..50 {
        let (before, lock) = (passed.load(Ordering::Relaxed), hot(&other, LEASE));
        let guard = timeout(PATIENCE, lock.acquire()).await.unwrap().unwrap();
        let over = passed.load(Ordering::Relaxed) - before;
        // Those before it in the queue, and what goes on while its question is under way.
        assert!(over < 20_000, "{over} were served before it");
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
    sleep(Duration::from_millis(50)).await;
    let second = waiting(&hot(&there, LEASE));
    sleep(Duration::from_millis(50)).await;
    let third = waiting(&hot(&here, LEASE));
    sleep(Duration::from_millis(50)).await;
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
    let short = hot(&store, Duration::from_millis(300));
    std::mem::forget(short.acquire().await.unwrap());
    let waiters = [waiting(&short), waiting(&short), waiting(&short)];
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
    sleep(Duration::from_millis(20)).await;
    let left = guard.remaining();
    assert!(guard.extend(Duration::from_millis(1)).await.is_ok());
    assert!(guard.remaining() > left - Duration::from_secs(1));
    redis.command(&["PEXPIRE", "hot", "100"]).unwrap();
    guard.renew().await.unwrap();
    assert!(!waiter.is_finished());
    std::mem::forget(guard);
    redis.command(&["DEL", "hot"]).unwrap();
    waiter.abort();
    // Nobody is in anybody's way afterwards.
    match timeout(PATIENCE, lock.try_acquire())
        .await
        .unwrap()
        .unwrap()
    {
        Acquired::Held(guard) => guard.release().await.unwrap(),
        Acquired::Busy(busy) => panic!("{busy:?}"),
    }
}

#[tokio::test]
async fn each_lease_in_a_local_queue_is_honoured() {
    let redis = Redis::start();
    let store = store(&redis).await;
    let long = hot(&store, LEASE).acquire().await.unwrap();
    let short = waiting(&hot(&store, Duration::from_millis(200)));
    let longer = waiting(&hot(&store, LEASE * 2));
    sleep(Duration::from_millis(20)).await;
    long.release().await.unwrap();
    let short = got(short).await;
    assert!(short.remaining() <= Duration::from_millis(200));
    let ends = short.deadline();
    // It hangs: its own lease counts, not the one before.
    std::mem::forget(short);
    let longer = got(longer).await;
    assert!(Instant::now() >= ends && longer.remaining() > LEASE);
    longer.release().await.unwrap();
}

#[tokio::test]
async fn a_crash_after_a_long_lease_delays_the_next_waiter_only_by_its_own_lease() {
    let redis = Redis::start();
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(store(&redis).await);
    }
    let short = Duration::from_millis(500);
    let long = hot(&stores[0], LEASE).acquire().await.unwrap();
    let mut waiters = Vec::new();
    for store in &stores[1..] {
        waiters.push(waiting(&hot(store, short)));
        sleep(Duration::from_millis(50)).await;
    }
    long.release().await.unwrap();
    let mut waiters = waiters.into_iter();
    got(waiters.next().unwrap()).await.release().await.unwrap();
    // It crashes, and the one behind it has been told of the long lease only.
    std::mem::forget(got(waiters.next().unwrap()).await);
    got(waiters.next().unwrap()).await.release().await.unwrap();
}

#[tokio::test]
async fn a_queue_head_that_is_not_polled_is_skipped() {
    let redis = Redis::start();
    let (here, there) = (store(&redis).await, store(&redis).await);
    let lock = hot(&here, Duration::from_millis(300));
    let holder = hot(&there, Duration::from_secs(1)).acquire().await.unwrap();
    let mut front = Box::pin(lock.acquire());
    // In the queue, and polled no more.
    let polled = timeout(Duration::from_millis(50), &mut front).await;
    assert!(polled.is_err());
    let behind = waiting(&lock);
    sleep(Duration::from_millis(50)).await;
    holder.release().await.unwrap();
    got(behind).await.release().await.unwrap();
    drop(front);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_that_races_with_a_release_has_one_outcome() {
    let redis = Redis::start();
    let store = store(&redis).await;
    for round in 0..300_u64 {
        let guard = hot(&store, LEASE).acquire().await.unwrap();
        let waiter = tokio::spawn({
            let lock = hot(&store, LEASE);
            async move {
                lock.acquire_within(Duration::from_millis(10))
                    .await
                    .unwrap()
            }
        });
        sleep(Duration::from_micros(7000 + round % 60 * 100)).await;
        guard.release().await.unwrap();
        match waiter.await.unwrap() {
            // Ours, as long as nobody else has it.
            Acquired::Held(guard) => {
                let value = redis.command(&["GET", "hot"]).unwrap();
                assert!(value.starts_with("lockstock:"), "{round}: '{value}'");
                guard.release().await.unwrap();
            }
            Acquired::Busy(_) => {
                store.drain().await;
                let next = timeout(LEASE / 2, hot(&store, LEASE).acquire()).await;
                next.expect("nobody has it")
                    .unwrap()
                    .release()
                    .await
                    .unwrap();
            }
        }
    }
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
        // On one thread: it is told, and is gone before it hears.
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
        let (lock, last) = (hot(&store, Duration::from_millis(100)), last.clone());
        tasks.spawn(async move {
            for n in 0..200 {
                let guard = lock.acquire().await.unwrap();
                let fence = guard.fence();
                assert!(
                    last.swap(fence, Ordering::SeqCst) < fence,
                    "{n}: fences rise"
                );
                match n % 50 {
                    // It vanishes, and takes along what it knows of the block.
                    47 => std::mem::forget(guard),
                    48 => guard.keep().await.unwrap(),
                    49 => drop(guard),
                    _ => guard.release().await.unwrap(),
                }
            }
        });
    }
    tasks.join_all().await;
}
