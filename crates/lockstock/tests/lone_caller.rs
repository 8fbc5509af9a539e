//! Operations of a caller that is alone, which carries out its calls itself: they reach Redis however
//! the caller treats the reply.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod harness;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use futures_util::future::FutureExt;
use harness::{LEASE, TIMEOUT, connect};
use lockstock::{Guard, Lock, Store};
use lockstock_testkit::Redis;
use tokio::runtime::Builder;
use tokio::time::timeout;

fn lock(store: &Store) -> Lock {
    store.lock("report").lease(LEASE).unwrap()
}

/// Waits until the lock is free for a client with a connection of its own.
async fn is_free_for_others(redis: &Redis) {
    let other = connect(&redis.url()).await;
    let guard = timeout(TIMEOUT, lock(&other).acquire()).await;
    guard.expect("released").unwrap().release().await.unwrap();
}

/// Waits for a future on a thread without a runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return done;
        }
        thread::park();
    }
}

/// What happens to the server between an acquire and its release.
const EVENTS: [&[&str]; 3] = [
    &["PING"],
    &["SCRIPT", "FLUSH"],
    &["CLIENT", "KILL", "TYPE", "normal"],
];

async fn after_each_event(test: impl AsyncFn(&Redis, Guard)) {
    for event in EVENTS {
        println!("{event:?}");
        let redis = Redis::start();
        let store = connect(&redis.url()).await;
        let guard = lock(&store).acquire().await.unwrap();
        redis.command(event).unwrap();
        test(&redis, guard).await;
        // The next operations of the same client are not behind it.
        let next = timeout(TIMEOUT, lock(&store).acquire()).await;
        next.expect("not blocked").unwrap().release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_is_never_polled_is_carried_out() {
    after_each_event(async |redis, guard| {
        let release = guard.release();
        is_free_for_others(redis).await;
        drop(release);
    })
    .await;
}

#[tokio::test]
async fn a_release_that_is_never_polled_is_carried_out_on_one_thread() {
    after_each_event(async |redis, guard| {
        let release = guard.release();
        is_free_for_others(redis).await;
        drop(release);
    })
    .await;
}

#[tokio::test]
async fn a_release_that_is_dropped_after_one_poll_is_carried_out() {
    after_each_event(async |redis, guard| {
        assert!(guard.release().now_or_never().is_none());
        is_free_for_others(redis).await;
    })
    .await;
}

#[tokio::test]
async fn a_release_that_is_polled_once_and_then_left_is_carried_out() {
    after_each_event(async |redis, guard| {
        let mut release = pin!(guard.release());
        assert!(release.as_mut().now_or_never().is_none());
        is_free_for_others(redis).await;
        // The result is still there.
        release.await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_behind_a_call_that_is_not_polled_are_carried_out() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let guard = lock(&store).acquire().await.unwrap();
    redis.command(&["SCRIPT", "FLUSH"]).unwrap();
    let mut release = pin!(guard.release());
    assert!(release.as_mut().now_or_never().is_none());
    // Each is cancelled, so that it has to leave the queue behind its own request.
    for _ in 0..20 {
        drop(lock(&store).acquire().now_or_never());
    }
    let guard = timeout(TIMEOUT, lock(&store).acquire()).await;
    guard
        .expect("none is left")
        .unwrap()
        .release()
        .await
        .unwrap();
    release.await.unwrap();
    is_free_for_others(&redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_is_released_on_a_thread_without_a_runtime() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let lock = lock(&store);
    let guard = lock.acquire().await.unwrap();
    thread::spawn(|| drop(guard)).join().unwrap();
    is_free_for_others(&redis).await;
    let guard = lock.acquire().await.unwrap();
    let released = thread::spawn(|| block_on(guard.release()));
    let released = tokio::task::spawn_blocking(|| released.join().unwrap());
    released.await.unwrap().unwrap();
    // Begun in the runtime, awaited outside.
    let release = lock.acquire().await.unwrap().release();
    let released = thread::spawn(|| block_on(release));
    let released = tokio::task::spawn_blocking(|| released.join().unwrap());
    released.await.unwrap().unwrap();
    is_free_for_others(&redis).await;
}

#[test]
fn a_guard_outlives_its_runtime() {
    let redis = Redis::start();
    let runtime = || {
        Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let guards = first.block_on(async {
        let store = connect(&redis.url()).await;
        let names = ["dropped", "awaited", "begun"];
        let locks = names.map(|name| store.lock(name).lease(LEASE).unwrap());
        [
            locks[0].acquire().await.unwrap(),
            locks[1].acquire().await.unwrap(),
            locks[2].acquire().await.unwrap(),
        ]
    });
    let [dropped, awaited, begun] = guards;
    redis.pause();
    let begun = {
        let _entered = first.enter();
        begun.release()
    };
    drop(first);
    redis.resume();
    drop(dropped);
    let results = second.block_on(async {
        let awaited = timeout(TIMEOUT, awaited.release()).await;
        [awaited, timeout(TIMEOUT, begun).await]
    });
    for result in results {
        // On the other runtime the client may connect again.
        let result = result.expect("no wait without end");
        assert!(result.is_ok() || result.unwrap_err().is_unavailable());
    }
}
