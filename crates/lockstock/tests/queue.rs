//! Waiters on Redis: served in order and notified by push, over several processes. To Redis a
//! store is a process: it has connections and a channel of its own.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

#[path = "queue/frozen.rs"]
mod frozen;
mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use harness::{BRIEF, LEASE, TIMEOUT, connect, got, held, queue_heads, until, waiting};
use lockstock::{Acquired, Lock, LockKind, Store};
use lockstock_testkit::{Proxy, Redis};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const QUEUE: &str = "lockstock:{hot}:queue";

async fn stores(redis: &Redis, count: usize) -> Vec<Store> {
    let mut stores = Vec::new();
    for _ in 0..count {
        stores.push(connect(&redis.url()).await);
    }
    stores
}

fn hot(store: &Store) -> Lock {
    store.lock("hot").lease(LEASE).unwrap()
}

async fn queued(redis: &Redis, count: usize) {
    queue_heads(redis, "hot", count).await;
}

fn leaves_nothing(redis: &Redis) {
    assert_eq!(redis.command(&["EXISTS", "hot", QUEUE]), Ok("0".to_owned()));
}

#[tokio::test]
async fn processes_are_served_in_order_of_arrival() {
    let redis = Redis::start();
    let stores = stores(&redis, 6).await;
    let guard = held(&hot(&stores[0])).await;
    let mut waiters = Vec::new();
    for (n, store) in stores[1..].iter().enumerate() {
        waiters.push(waiting(&hot(store)));
        queued(&redis, n + 1).await;
    }
    let mut last = guard.fence();
    guard.release().await.unwrap();
    for (n, waiter) in waiters.into_iter().enumerate() {
        let guard = got(waiter).await;
        assert!(guard.fence() > last);
        assert!(guard.deadline() <= Instant::now() + LEASE);
        assert!(guard.remaining() > LEASE / 2, "{:?}", guard.remaining());
        last = guard.fence();
        queued(&redis, 4 - n).await;
        guard.release().await.unwrap();
    }
    leaves_nothing(&redis);
}

#[tokio::test]
async fn idle_waiters_send_nothing() {
    let redis = Redis::start();
    let stores = stores(&redis, 4).await;
    let guard = held(&hot(&stores[0])).await;
    let waiters = stores
        .iter()
        .flat_map(|store| (0..250).map(|_| waiting(&hot(store))))
        .collect::<Vec<_>>();
    queued(&redis, 4).await;
    let commands = || {
        let stats = redis.command(&["INFO", "commandstats"]).unwrap();
        let line = stats
            .lines()
            .find(|line| line.starts_with("cmdstat_evalsha"));
        line.unwrap_or_default().to_owned()
    };
    let before = commands();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(commands(), before, "a thousand waiters, and no command");
    for waiter in waiters {
        waiter.abort();
    }
    drop(guard);
    for store in &stores {
        store.drain().await;
    }
    leaves_nothing(&redis);
}

#[tokio::test]
async fn waiters_of_a_dead_process_are_skipped() {
    let redis = Redis::start();
    let stores = stores(&redis, 2).await;
    let guard = held(&hot(&stores[0])).await;
    // As a killed process leaves them.
    for n in 0..3 {
        let member = format!("dead:60000:-1:1:x:{n:032x}");
        redis
            .command(&["ZADD", QUEUE, &n.to_string(), &member])
            .unwrap();
    }
    let waiter = waiting(&hot(&stores[1]));
    queued(&redis, 4).await;
    guard.release().await.unwrap();
    got(waiter).await.release().await.unwrap();
    leaves_nothing(&redis);
}

#[tokio::test]
async fn the_queue_head_follows_a_crashed_holder() {
    let redis = Redis::start();
    let stores = stores(&redis, 4).await;
    let brief = stores[0].lock("hot").lease(BRIEF).unwrap();
    std::mem::forget(held(&brief).await);
    let mut waiters = Vec::new();
    for (n, store) in stores[1..].iter().enumerate() {
        waiters.push(waiting(&hot(store)));
        queued(&redis, n + 1).await;
    }
    for waiter in waiters {
        got(waiter).await.release().await.unwrap();
    }
}

#[tokio::test]
async fn keep_rejects_impatient_waiters_of_every_process_and_leaves_the_others() {
    let redis = Redis::start();
    let stores = stores(&redis, 3).await;
    let long = LEASE * 10;
    let lock = stores[0].lock("hot").lease(long).unwrap();
    let guard = held(&lock).await;
    let mut losers = JoinSet::new();
    for store in &stores {
        for _ in 0..10 {
            let lock = hot(store);
            losers.spawn(async move { lock.acquire_within(LEASE).await });
        }
    }
    queued(&redis, 3).await;
    let patient = waiting(&hot(&stores[1]));
    harness::settle(&stores[1]).await;
    guard.keep().await.unwrap();
    for answer in timeout(TIMEOUT, losers.join_all()).await.unwrap() {
        let Acquired::Busy(busy) = answer.unwrap() else {
            panic!("it is kept")
        };
        assert!(busy.is_kept());
    }
    assert!(!patient.is_finished());
    // Spares the test the wait for the end of the lease.
    let forced = stores[0].force_release(LockKind::Lock, "hot", None);
    assert!(forced.await.unwrap());
    got(patient).await.release().await.unwrap();
}

#[tokio::test]
async fn a_waiter_asks_again_after_its_connection_broke() {
    let redis = Redis::start();
    let stores = stores(&redis, 2).await;
    for kind in ["normal", "pubsub", "normal", "pubsub"] {
        let guard = held(&hot(&stores[0])).await;
        let waiter = waiting(&hot(&stores[1]));
        queued(&redis, 1).await;
        redis.command(&["CLIENT", "KILL", "TYPE", kind]).unwrap();
        // If no notification arrives, the waiter finds the lock free when it asks again.
        guard.release().await.unwrap();
        got(waiter).await.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_waiter_fails_when_its_store_goes_down_and_leaves_no_trace() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let holder = &stores(&redis, 1).await[0];
    let url = format!("redis://{}/0", proxy.address());
    let far = Store::connect_within(&url, BRIEF * 2).await.unwrap();
    let guard = held(&hot(holder)).await;
    let waiter = tokio::spawn({
        let lock = hot(&far);
        async move { lock.acquire().await }
    });
    queued(&redis, 1).await;
    proxy.cut();
    let answer = timeout(TIMEOUT, waiter).await.unwrap().unwrap();
    assert!(answer.unwrap_err().is_unavailable());
    proxy.pass();
    far.drain().await;
    guard.release().await.unwrap();
    leaves_nothing(&redis);
}

#[tokio::test]
async fn a_waiter_asks_again_after_redis_lost_the_queue() {
    let redis = Redis::start();
    let stores = stores(&redis, 2).await;
    let brief = stores[0].lock("hot").lease(BRIEF).unwrap();
    std::mem::forget(held(&brief).await);
    let waiter = waiting(&hot(&stores[1]));
    queued(&redis, 1).await;
    redis.restart();
    got(waiter).await.release().await.unwrap();
}

#[tokio::test]
async fn after_a_flush_an_operator_makes_the_waiters_ask_again() {
    let redis = Redis::start();
    let stores = stores(&redis, 2).await;
    let forgotten = held(&hot(&stores[0])).await;
    let waiter = waiting(&hot(&stores[1]));
    queued(&redis, 1).await;
    redis.command(&["FLUSHALL"]).unwrap();
    // Otherwise it would ask when the lease would have ended.
    let kill = ["CLIENT", "KILL", "TYPE", "pubsub"];
    redis.command(&kill).unwrap();
    let next = got(waiter).await;
    assert!(next.fence() > forgotten.fence());
    next.release().await.unwrap();
    assert!(forgotten.release().await.unwrap_err().is_lost());
}

#[tokio::test]
async fn a_waiter_follows_a_foreign_holder_that_notifies_no_waiter() {
    let redis = Redis::start();
    let store = &stores(&redis, 1).await[0];
    redis.command(&["SET", "hot", "their-token"]).unwrap();
    let waiter = waiting(&hot(store));
    queued(&redis, 1).await;
    redis.command(&["DEL", "hot"]).unwrap();
    got(waiter).await.release().await.unwrap();
}

#[tokio::test]
async fn a_newcomer_does_not_overtake_the_waiters_of_a_free_lock() {
    let redis = Redis::start();
    let stores = stores(&redis, 3).await;
    let brief = stores[0].lock("hot").lease(BRIEF).unwrap();
    std::mem::forget(held(&brief).await);
    let waiter = waiting(&hot(&stores[1]));
    queued(&redis, 1).await;
    // Free from here on. The waiter notices when the lease would have ended.
    redis.command(&["DEL", "hot"]).unwrap();
    let newcomer = hot(&stores[2]).try_acquire().await.unwrap();
    assert!(matches!(newcomer, Acquired::Busy(_)), "{newcomer:?}");
    got(waiter).await.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn cancellation_in_several_processes_leaves_nothing_behind() {
    let redis = Redis::start();
    let stores = stores(&redis, 3).await;
    let mut tasks = JoinSet::new();
    for (n, store) in stores.iter().enumerate() {
        for task in 0..4 {
            let lock = hot(store);
            tasks.spawn(async move {
                for round in 0..250_u64 {
                    let steps = async {
                        let guard = lock.acquire().await.unwrap();
                        tokio::task::yield_now().await;
                        if round % 2 == 0 {
                            guard.release().await.unwrap();
                        }
                    };
                    let limit_us = (round * 131 + task * 17 + n as u64 * 7) % 3000;
                    let _ = timeout(Duration::from_micros(limit_us), steps).await;
                }
            });
        }
    }
    timeout(TIMEOUT, tasks.join_all()).await.unwrap();
    for store in &stores {
        store.drain().await;
    }
    leaves_nothing(&redis);
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_exclusive_and_none_stalls() {
    let redis = Redis::start();
    let stores = stores(&redis, 4).await;
    let inside = Arc::new(AtomicUsize::new(0));
    let last = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for store in &stores {
        for _ in 0..4 {
            let (lock, inside, last) = (hot(store), inside.clone(), last.clone());
            tasks.spawn(async move {
                for _ in 0..250 {
                    let guard = lock.acquire().await.unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                    assert!(last.swap(guard.fence(), Ordering::SeqCst) < guard.fence());
                    inside.fetch_sub(1, Ordering::SeqCst);
                    guard.release().await.unwrap();
                }
            });
        }
    }
    let begun = Instant::now();
    timeout(TIMEOUT * 3 / 2, tasks.join_all())
        .await
        .expect("none stalls");
    println!("4000 hand-overs in {:?}", begun.elapsed());
}

/// Starts a proxy of `redis` that can drop all traffic of its oldest connections without
/// closing them: of as many as the returned number.
async fn swallowing(redis: &Redis) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}/0", listener.local_addr().unwrap());
    let upstream = redis.address();
    let swallowed = Arc::new(AtomicUsize::new(0));
    let switch = swallowed.clone();
    tokio::spawn(async move {
        for number in 1.. {
            let (mut near, _) = listener.accept().await.unwrap();
            let switch = switch.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(upstream).await.unwrap();
                let (mut from_near, mut from_far) = ([0; 4096], [0; 4096]);
                loop {
                    tokio::select! {
                        read = near.read(&mut from_near) => match read {
                            Ok(length @ 1..) if switch.load(Ordering::SeqCst) < number => {
                                far.write_all(&from_near[..length]).await.unwrap();
                            }
                            Ok(1..) => {}
                            _ => return,
                        },
                        read = far.read(&mut from_far) => match read {
                            Ok(length @ 1..) if switch.load(Ordering::SeqCst) < number => {
                                near.write_all(&from_far[..length]).await.unwrap();
                            }
                            Ok(1..) => {}
                            _ => return,
                        },
                    }
                }
            });
        }
    });
    (url, swallowed)
}

#[tokio::test]
async fn a_connection_that_loses_all_traffic_is_replaced() {
    let redis = Redis::start();
    let (url, swallowed) = swallowing(&redis).await;
    let store = Store::connect_within(&url, BRIEF).await.unwrap();
    held(&hot(&store)).await.release().await.unwrap();
    swallowed.store(1, Ordering::SeqCst);
    assert!(
        hot(&store)
            .try_acquire()
            .await
            .unwrap_err()
            .is_unavailable()
    );
    let begun = Instant::now();
    while store.ping().await.is_err() {
        assert!(begun.elapsed() < TIMEOUT, "no new connection");
    }
    // The new connection receives notifications, too.
    store.drain().await;
    let guard = held(&hot(&stores(&redis, 1).await[0])).await;
    let waiter = waiting(&hot(&store));
    queued(&redis, 1).await;
    guard.release().await.unwrap();
    got(waiter).await.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_never_overtakes_its_request() {
    // A call that is sent again may arrive after later calls.
    let redis = Redis::start();
    let store = &stores(&redis, 1).await[0];
    let mut tasks = JoinSet::new();
    for n in 0..64 {
        let lock = store.lock(format!("n{n}")).lease(LEASE).unwrap();
        tasks.spawn(async move {
            for round in 0..60 {
                let limit = Duration::from_micros((n * 7 + round * 13) % 900);
                if let Ok(guard) = timeout(limit, lock.acquire()).await {
                    guard.unwrap().release().await.unwrap();
                }
            }
        });
    }
    for _ in 0..40 {
        redis.command(&["SCRIPT", "FLUSH"]).unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    tasks.join_all().await;
    store.drain().await;
    assert_eq!(redis.command(&["KEYS", "n*"]), Ok(String::new()));
}

#[tokio::test]
async fn a_pattern_subscriber_is_not_mistaken_for_a_waiter() {
    let redis = Redis::start();
    let stores = stores(&redis, 2).await;
    let mut monitor = TcpStream::connect(redis.address()).await.unwrap();
    monitor.write_all(b"PSUBSCRIBE *\r\n").await.unwrap();
    let mut subscribed = [0; 16];
    monitor.read_exact(&mut subscribed).await.unwrap();
    let guard = held(&hot(&stores[0])).await;
    let member = format!("dead:60000:-1:1:x:{:032x}", 1);
    redis.command(&["ZADD", QUEUE, "1", &member]).unwrap();
    let waiter = waiting(&hot(&stores[1]));
    queued(&redis, 2).await;
    guard.release().await.unwrap();
    got(waiter).await.release().await.unwrap();
}

#[tokio::test]
async fn a_stale_waiter_on_a_promoted_replica_is_skipped() {
    let redis = Redis::start();
    let stores = stores(&redis, 2).await;
    let guard = held(&hot(&stores[0])).await;
    let impatient = hot(&stores[1]);
    let member = async {
        queued(&redis, 1).await;
        redis.command(&["ZRANGE", QUEUE, "0", "-1"]).unwrap()
    };
    let (waited, member) = tokio::join!(impatient.acquire_within(BRIEF), member);
    assert!(matches!(waited.unwrap(), Acquired::Busy(_)));
    // As on a replica that was promoted before it learned that the waiter left. The wait is
    // made endless: a wait that is over is skipped anyway.
    let mut fields: Vec<_> = member.split(':').collect();
    let wait_ms: u128 = fields[2].parse().unwrap();
    assert!(wait_ms <= BRIEF.as_millis(), "{member}");
    fields[2] = "-1";
    let endless = fields.join(":");
    redis.command(&["ZADD", QUEUE, "1", &endless]).unwrap();
    let patient = waiting(&hot(&stores[0]));
    queued(&redis, 2).await;
    guard.release().await.unwrap();
    got(patient).await.release().await.unwrap();
}

#[tokio::test]
async fn a_dropped_store_closes_its_connections() {
    let redis = Redis::start();
    let clients = || {
        let list = redis.command(&["CLIENT", "LIST"]).unwrap();
        list.lines().count()
    };
    let before = clients();
    let store = Store::connect(&redis.url()).await.unwrap();
    let impatient = hot(&store);
    let guard = held(&hot(&store)).await;
    assert!(matches!(
        impatient
            .acquire_within(Duration::from_millis(20))
            .await
            .unwrap(),
        Acquired::Busy(_)
    ));
    let waiter = waiting(&hot(&store));
    harness::settle(&store).await;
    waiter.abort();
    drop((guard, impatient));
    store.drain().await;
    assert!(clients() > before);
    drop(store);
    until("closed connections", || clients() <= before).await;
}
