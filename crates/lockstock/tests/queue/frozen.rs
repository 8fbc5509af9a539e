//! Waiters whose processes are frozen, and the confirmation that bounds what they cost.

use std::time::Duration;

use lockstock::Store;
use lockstock_testkit::{Proxy, Redis};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::harness::{self, BRIEF, LEASE, connect, got, held, waiting};
use super::{QUEUE, hot, leaves_nothing, queued, stores};

#[tokio::test]
async fn frozen_waiters_cost_the_next_one_a_second_each_and_not_a_lease() {
    let redis = Redis::start();
    let stores = stores(&redis, 2).await;
    let guard = held(&hot(&stores[0])).await;
    let _frozen = frozen_waiters(&redis, 3).await;
    let waiter = waiting(&hot(&stores[1]));
    queued(&redis, 4).await;
    guard.release().await.unwrap();
    // Before the ends of three leases, and of one.
    got(waiter).await.release().await.unwrap();
    leaves_nothing(&redis);
}

#[tokio::test]
async fn a_frozen_waiter_that_goes_on_has_kept_its_place() {
    let redis = Redis::start();
    let stores = stores(&redis, 3).await;
    let proxy = Proxy::start(redis.address());
    let frozen = connect(&format!("redis://{}/0", proxy.address())).await;
    let guard = held(&hot(&stores[0])).await;
    let mut waiters = Vec::new();
    for (n, store) in [&frozen, &stores[1], &stores[2]].into_iter().enumerate() {
        waiters.push(waiting(&hot(store)));
        queued(&redis, n + 1).await;
    }
    let [first, second, third] = <[_; 3]>::try_from(waiters).unwrap();
    // Since then Redis has not heard of the waiters.
    sleep(BRIEF).await;
    proxy.stall();
    guard.release().await.unwrap();
    let guard = got(second).await;
    proxy.pass();
    queued(&redis, 2).await;
    let queue = redis.command(&["ZRANGE", QUEUE, "0", "-1"]).unwrap();
    assert!(
        queue.starts_with(&frozen.client_id().to_string()),
        "{queue}"
    );
    guard.release().await.unwrap();
    // In any order: on a busy machine the confirmation may be late.
    let release = async |waiter| got(waiter).await.release().await.unwrap();
    tokio::join!(release(first), release(third));
    leaves_nothing(&redis);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_that_is_cancelled_while_it_confirms_leaves_nothing_behind() {
    let redis = Redis::start();
    let stores = stores(&redis, 2).await;
    let mut holders = Vec::new();
    let mut waiters = Vec::new();
    for n in 0..64_u64 {
        let name = |store: &Store| store.lock(format!("n{n}")).lease(LEASE).unwrap();
        holders.push(held(&name(&stores[0])).await);
        let waiting = name(&stores[1]);
        // The grant arrives, and its confirmation is on the way, at different moments.
        let limit = BRIEF + Duration::from_millis(200) + Duration::from_micros(n * 150);
        waiters.push(tokio::spawn(async move {
            if let Ok(guard) = timeout(limit, waiting.acquire()).await {
                assert!(guard.unwrap().remaining() > LEASE / 2);
            }
        }));
    }
    sleep(BRIEF + Duration::from_millis(200)).await;
    for holder in holders {
        holder.release().await.unwrap();
    }
    for waiter in waiters {
        waiter.await.unwrap();
    }
    for store in &stores {
        store.drain().await;
    }
    for locks_and_queues in ["n*", "lockstock:{*"] {
        let left = redis.command(&["KEYS", locks_and_queues]);
        assert_eq!(left, Ok(String::new()));
    }
}

#[tokio::test]
async fn a_permit_of_a_frozen_waiter_goes_to_the_next_one() {
    let redis = Redis::start();
    let stores = stores(&redis, 2).await;
    let permits = |store: &Store| store.semaphore("s", 2).lease(LEASE).unwrap();
    let (one, two) = (
        held(&permits(&stores[0])).await,
        held(&permits(&stores[0])).await,
    );
    let mut frozen = TcpStream::connect(redis.address()).await.unwrap();
    let subscribe = b"SUBSCRIBE lockstock:wake:00000000000000aa\r\n";
    frozen.write_all(subscribe).await.unwrap();
    frozen.read_exact(&mut [0; 16]).await.unwrap();
    for n in 1..=2 {
        let member = format!("00000000000000aa:60000:-1:1:s2:{n:032x}");
        let queue = ["ZADD", "lockstock:{s}:permits-queue", "1", &member];
        redis.command(&queue).unwrap();
    }
    let waiter = waiting(&permits(&stores[1]));
    harness::queued(&stores[0], 3).await;
    one.release().await.unwrap();
    two.release().await.unwrap();
    got(waiter).await.release().await.unwrap();
}

#[tokio::test]
async fn a_waiter_of_any_age_gets_its_whole_lease_by_a_hand_over() {
    let redis = Redis::start();
    let stores = stores(&redis, 2).await;
    for age in [Duration::ZERO, BRIEF + Duration::from_millis(100)] {
        let guard = held(&hot(&stores[0])).await;
        let waiter = waiting(&hot(&stores[1]));
        queued(&redis, 1).await;
        sleep(age).await;
        guard.release().await.unwrap();
        let guard = got(waiter).await;
        assert!(guard.remaining() > LEASE / 2, "{:?}", guard.remaining());
        let remaining_ms = redis.command(&["PTTL", "hot"]).unwrap();
        let remaining = Duration::from_millis(remaining_ms.parse().unwrap());
        assert!(remaining > LEASE / 2, "{remaining:?}");
        assert!(guard.deadline() <= Instant::now() + remaining + BRIEF);
        guard.release().await.unwrap();
    }
    leaves_nothing(&redis);
}

/// Queues as many waiters as in processes that are frozen: they stay subscribed, and do nothing.
async fn frozen_waiters(redis: &Redis, count: u64) -> Vec<TcpStream> {
    let mut frozen = Vec::new();
    for n in 0..count {
        let mut process = TcpStream::connect(redis.address()).await.unwrap();
        let subscribe = format!("SUBSCRIBE lockstock:wake:{n:016x}\r\n");
        process.write_all(subscribe.as_bytes()).await.unwrap();
        process.read_exact(&mut [0; 16]).await.unwrap();
        frozen.push(process);
        let member = format!("{n:016x}:{}:-1:1:x:{n:032x}", LEASE.as_millis());
        // They arrived before all others.
        let joined = redis.command(&["ZADD", QUEUE, &(n + 1).to_string(), &member]);
        joined.unwrap();
    }
    frozen
}
