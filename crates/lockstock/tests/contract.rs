//! What a lock promises, on every kind of store.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use lockstock::{Acquired, Store};
use lockstock_testkit::{Proxy, Redis};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

mod kit;

use kit::{LEASE, PATIENCE, SHORT, busy, held, lock, on_each_store};

#[tokio::test]
async fn one_holds_the_others_hear_for_how_long() {
    on_each_store(async |store| {
        let lock = lock(&store, "product-update-lock-42", LEASE);
        let guard = held(&lock).await;
        let answer = busy(&lock).await;
        assert!(!answer.is_kept());
        let left = answer.retry_after().unwrap();
        assert!(left <= LEASE && left > LEASE / 2, "{left:?}");
        let other = store.lock("product-update-lock-43").lease(LEASE).unwrap();
        held(&other).await.release().await.unwrap();
        guard.release().await.unwrap();
        held(&lock).await.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_release_lets_the_next_one_in() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let guard = held(&lock).await;
        let waiting = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire_within(PATIENCE).await }
        });
        sleep(Duration::from_millis(30)).await;
        guard.release().await.unwrap();
        let next = timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
        assert!(matches!(next, Acquired::Held(_)));
    })
    .await;
}

#[tokio::test]
async fn keep_tells_at_once_those_who_wait_in_vain() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let guard = held(&lock).await;
        let waiting = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire_within(LEASE / 2).await }
        });
        sleep(Duration::from_millis(30)).await;
        guard.keep().await.unwrap();
        // Its wait is 10 s, and this is not a matter of speed.
        let told = timeout(LEASE / 4, waiting).await.unwrap().unwrap().unwrap();
        let Acquired::Busy(told) = told else {
            panic!("{told:?}")
        };
        assert!(told.is_kept());
        assert!(told.retry_after().unwrap() > LEASE / 2);
        assert!(busy(&lock).await.is_kept());
    })
    .await;
}

#[tokio::test]
async fn who_can_outlive_a_kept_lock_gets_it_when_its_lease_ends() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", SHORT);
        held(&lock).await.keep().await.unwrap();
        let begun = Instant::now();
        let next = lock.acquire_within(PATIENCE).await.unwrap();
        assert!(matches!(next, Acquired::Held(_)));
        assert!(begun.elapsed() >= SHORT / 2, "{:?}", begun.elapsed());
    })
    .await;
}

#[tokio::test]
async fn a_holder_that_vanished_frees_the_lock_with_its_lease() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", SHORT);
        // As a crash: no release, no drop.
        std::mem::forget(held(&lock).await);
        let next = timeout(PATIENCE, lock.acquire()).await.unwrap().unwrap();
        next.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_lost_lock_says_so() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", SHORT);
        let first = held(&lock).await;
        let mut second = lock.acquire().await.unwrap();
        assert!(first.remaining().is_zero(), "it knew before the store did");
        assert!(first.release().await.unwrap_err().is_lost());
        second.renew().await.unwrap();
        let third = lock.acquire().await.unwrap();
        assert!(second.extend(LEASE).await.unwrap_err().is_lost());
        assert!(second.keep().await.unwrap_err().is_lost());
        assert!(!third.remaining().is_zero());
        third.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_lock_that_the_store_forgot_is_lost_though_its_lease_has_not_ended() {
    let redis = Redis::start();
    let store = Store::connect(&redis.url()).await.unwrap();
    let lock = lock(&store, "a", LEASE);
    let forgotten = held(&lock).await;
    redis.command(&["FLUSHALL"]).unwrap();
    let next = held(&lock).await;
    assert!(next.fence() > forgotten.fence());
    assert!(forgotten.release().await.unwrap_err().is_lost());
    assert!(
        busy(&lock).await.retry_after().is_some(),
        "the next holder's is untouched"
    );
    next.release().await.unwrap();
}

#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_again() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let store = Store::connect(&format!("redis://{}/0", proxy.address()))
        .await
        .unwrap();
    let lock = lock(&store, "a", LEASE);
    for _ in 0..5 {
        proxy.reset_next_reply();
        let guard = held(&lock).await;
        proxy.reset_next_reply();
        guard.release().await.unwrap();
        let guard = held(&lock).await;
        proxy.reset_next_reply();
        guard.keep().await.unwrap();
        redis.command(&["DEL", "a"]).unwrap();
    }
    assert_eq!(redis.command(&["EXISTS", "a"]), Ok("0".to_owned()));
}

#[tokio::test]
async fn a_grant_that_nobody_heard_of_is_given_back() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let url = format!("redis://{}/0", proxy.address());
    let store = Store::connect_within(&url, SHORT).await.unwrap();
    let lock = lock(&store, "a", LEASE);
    held(&lock).await.release().await.unwrap();
    redis.command(&["DEL", "lockstock:clock"]).unwrap();
    proxy.drop_replies();
    assert!(lock.try_acquire().await.unwrap_err().is_unavailable());
    let fence = redis.command(&["EXISTS", "lockstock:clock"]);
    assert_eq!(fence, Ok("1".to_owned()), "it was granted");
    proxy.cut();
    proxy.pass();
    store.drain().await;
    assert_eq!(redis.command(&["EXISTS", "a"]), Ok("0".to_owned()));
}

#[tokio::test]
async fn renew_starts_the_lease_again_and_extend_adds_to_it() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let mut guard = held(&lock).await;
        guard.extend(LEASE).await.unwrap();
        assert!(guard.remaining() > LEASE && guard.remaining() <= LEASE * 2);
        let left = busy(&lock).await.retry_after().unwrap();
        assert!(left > LEASE && left <= LEASE * 2, "{left:?}");
        guard.renew().await.unwrap();
        assert!(guard.remaining() <= LEASE);
        let left = busy(&lock).await.retry_after().unwrap();
        assert!(left <= LEASE && left > LEASE / 2, "{left:?}");
        assert!(
            guard
                .extend(lockstock::MAX_LEASE)
                .await
                .unwrap_err()
                .is_invalid()
        );
        guard.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn fences_rise_and_deadlines_are_honest() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let mut last = 0;
        for _ in 0..200 {
            let asked = Instant::now();
            let guard = held(&lock).await;
            assert!(guard.fence() > last);
            assert!(guard.deadline() <= Instant::now() + LEASE);
            assert!(guard.deadline() >= asked);
            last = guard.fence();
            guard.release().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn fences_do_not_go_back_when_redis_forgets_everything() {
    let redis = Redis::start();
    let store = Store::connect(&redis.url()).await.unwrap();
    let lock = lock(&store, "a", LEASE);
    let mut last = 0;
    for forget in [
        &["FLUSHALL"][..],
        &["DEL", "lockstock:clock"],
        &["SCRIPT", "FLUSH"],
    ] {
        for _ in 0..50 {
            let guard = held(&lock).await;
            assert!(guard.fence() > last);
            last = guard.fence();
            guard.release().await.unwrap();
        }
        redis.command(forget).unwrap();
    }
    // Restored from an older copy: the counter stands far behind what was given out.
    redis.command(&["SET", "lockstock:clock", "17"]).unwrap();
    let guard = held(&lock).await;
    assert!(guard.fence() > last);
    guard.release().await.unwrap();
    // The server's clock was ahead once, and was set back.
    let ahead = 4_102_444_800_000_000_u64;
    redis
        .command(&["SET", "lockstock:clock", &ahead.to_string()])
        .unwrap();
    for n in 1..50 {
        let guard = held(&lock).await;
        assert_eq!(guard.fence(), ahead + n);
        guard.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_dropped_guard_gives_the_lock_back() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        drop(held(&lock).await);
        let next = timeout(LEASE / 2, lock.acquire()).await.unwrap().unwrap();
        drop(next);
        store.drain().await;
        held(&lock).await.release().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_anywhere_nothing_is_left_behind() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        for n in 0..2000_u64 {
            let steps = async {
                let guard = lock.acquire().await.unwrap();
                let guard = if n % 3 == 0 {
                    guard.release().await.unwrap();
                    lock.acquire().await.unwrap()
                } else {
                    guard
                };
                drop(guard);
            };
            // Anywhere between "not even asked" and "given back".
            let _ = timeout(Duration::from_micros(n * 7 % 600), steps).await;
        }
        store.drain().await;
        let free = timeout(LEASE / 2, lock.acquire()).await;
        free.expect("the lock is free")
            .unwrap()
            .release()
            .await
            .unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time_in_the_order_of_their_fences() {
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
        timeout(PATIENCE, tasks.join_all()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_wait_shorter_than_any_pause_still_waits() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", SHORT / 10);
        std::mem::forget(held(&lock).await);
        // The lease ends 20 ms from now, and there is as long a wait again behind that.
        let next = lock.acquire_within(SHORT).await.unwrap();
        assert!(matches!(next, Acquired::Held(_)));
    })
    .await;
}

#[tokio::test]
async fn waiters_of_one_process_are_served_in_the_order_they_came() {
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
            // On a current-thread runtime this lets the task just spawned reach its place.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
        guard.release().await.unwrap();
        timeout(PATIENCE, tasks.join_all()).await.unwrap();
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
async fn what_can_never_work_is_an_error_before_anything_is_sent() {
    on_each_store(async |store| {
        for lease in [
            Duration::ZERO,
            Duration::from_micros(999),
            Duration::from_secs(86_401),
        ] {
            let refused = store.lock("a").lease(lease).unwrap_err();
            assert!(refused.is_invalid(), "{refused}");
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
        let refused = Store::connect(url).await.unwrap_err();
        assert!(
            refused.is_invalid() || refused.is_unavailable(),
            "{url}: {refused}"
        );
    }
}

#[tokio::test]
async fn others_may_hold_the_same_name_with_their_own_means() {
    let redis = Redis::start();
    let store = Store::connect(&redis.url()).await.unwrap();
    let lock = lock(&store, "shared", LEASE);
    // As redis-py, django-redis and rslock take a lock.
    redis
        .command(&["SET", "shared", "their-token", "NX", "PX", "60000"])
        .unwrap();
    let answer = busy(&lock).await;
    assert!(!answer.is_kept());
    assert!(answer.retry_after().unwrap() > LEASE);
    redis.command(&["SET", "shared", "their-token"]).unwrap();
    assert_eq!(busy(&lock).await.retry_after(), None, "it never expires");
    redis.command(&["DEL", "shared"]).unwrap();
    let guard = held(&lock).await;
    let theirs = redis.command(&["SET", "shared", "their-token", "NX", "PX", "60000"]);
    assert_ne!(theirs, Ok("OK".to_owned()), "and ours keeps them out");
    guard.release().await.unwrap();
    assert_eq!(redis.command(&["EXISTS", "shared"]), Ok("0".to_owned()));
}

#[tokio::test]
async fn a_store_that_is_down_is_unavailable_never_busy_and_comes_back() {
    let redis = Redis::start();
    let store = Store::connect(&redis.url()).await.unwrap();
    let lock = lock(&store, "a", LEASE);
    let guard = held(&lock).await;
    redis.kill();
    assert!(lock.try_acquire().await.unwrap_err().is_unavailable());
    assert!(
        lock.acquire_within(LEASE)
            .await
            .unwrap_err()
            .is_unavailable()
    );
    assert!(guard.release().await.unwrap_err().is_unavailable());
    assert!(store.ping().await.unwrap_err().is_unavailable());
    redis.restart();
    held(&lock).await.release().await.unwrap();
    let nobody = format!("redis://127.0.0.1:{}/0", lockstock_testkit::free_port());
    assert!(Store::connect(&nobody).await.unwrap_err().is_unavailable());
}

#[tokio::test]
async fn work_is_stopped_when_the_lock_is_lost() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", SHORT);
        let guard = held(&lock).await;
        assert_eq!(guard.run(async { 42 }).await.unwrap(), 42);
        let stopped = guard.run(std::future::pending::<()>()).await;
        assert!(stopped.unwrap_err().is_lost());
        assert!(guard.remaining().is_zero());
        // It was lost before the store let the next one in.
        lock.acquire().await.unwrap().release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_renewed_lock_outlives_its_lease_but_not_its_cap() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", SHORT);
        let guard = held(&lock).await.auto_renew(SHORT * 4);
        let lost = guard.lost();
        sleep(SHORT * 2).await;
        busy(&lock).await;
        assert!(!guard.remaining().is_zero());
        timeout(PATIENCE, lost).await.expect("the cap ends it");
        let next = timeout(PATIENCE, lock.acquire()).await.unwrap().unwrap();
        assert!(guard.release().await.unwrap_err().is_lost());
        next.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_renewal_ends_with_its_guard() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", SHORT);
        let forever = Duration::from_secs(3600);
        held(&lock)
            .await
            .auto_renew(forever)
            .release()
            .await
            .unwrap();
        drop(held(&lock).await.auto_renew(forever));
        let kept = timeout(PATIENCE, lock.acquire()).await.unwrap().unwrap();
        kept.auto_renew(forever).keep().await.unwrap();
        // Kept for the rest of its lease, and not renewed for ever.
        timeout(PATIENCE, lock.acquire())
            .await
            .unwrap()
            .unwrap()
            .release()
            .await
            .unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_renewal_that_finds_the_lock_gone_says_so_at_once() {
    let redis = Redis::start();
    let store = Store::connect(&redis.url()).await.unwrap();
    let lock = lock(&store, "a", Duration::from_secs(3));
    let guard = held(&lock).await.auto_renew(Duration::from_secs(3600));
    redis.command(&["DEL", "a"]).unwrap();
    timeout(Duration::from_secs(2), guard.lost())
        .await
        .expect("before the lease ends");
    assert!(guard.remaining().is_zero());
}

#[tokio::test]
async fn a_shorter_lease_of_the_next_holder_wakes_those_behind_it() {
    on_each_store(async |store| {
        let first = held(&lock(&store, "a", LEASE)).await;
        let brief = lock(&store, "a", SHORT);
        let next = tokio::spawn(async move { brief.acquire().await.unwrap().keep().await });
        sleep(Duration::from_millis(30)).await;
        let behind = lock(&store, "a", LEASE);
        let last = tokio::spawn(async move { behind.acquire().await });
        sleep(Duration::from_millis(30)).await;
        first.release().await.unwrap();
        next.await.unwrap().unwrap();
        // It believes in 20 s, and is told of 200 ms.
        let last = timeout(LEASE / 2, last).await.expect("woken").unwrap();
        last.unwrap().release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_was_called_is_carried_out_though_nobody_waits_for_it() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        drop(held(&lock).await.release());
        store.drain().await;
        drop(held(&lock).await.keep());
        store.drain().await;
        assert!(busy(&lock).await.is_kept());
    })
    .await;
}

#[tokio::test]
async fn a_waiter_told_busy_leaves_no_trace_in_the_queue() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let near = Store::connect(&redis.url()).await.unwrap();
    let far = Store::connect(&format!("redis://{}/0", proxy.address()))
        .await
        .unwrap();
    held(&lock(&near, "a", Duration::from_secs(2)))
        .await
        .keep()
        .await
        .unwrap();
    proxy.delay(Duration::from_millis(40));
    // Long enough when it is sent, too short when the answer comes.
    let left = redis
        .command(&["PTTL", "a"])
        .unwrap()
        .parse::<u64>()
        .unwrap();
    let wait = Duration::from_millis(left + 15);
    let answer = lock(&far, "a", LEASE).acquire_within(wait).await.unwrap();
    if let Acquired::Busy(_) = answer {
        assert_eq!(
            redis.command(&["EXISTS", "lockstock:{a}:queue"]),
            Ok("0".to_owned())
        );
    }
    drop(answer);
    far.drain().await;
    let _ = timeout(PATIENCE, lock(&near, "a", LEASE).acquire())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_handshake_refused_for_a_while_is_tried_again() {
    let redis = Redis::start();
    let acl = |words: &[&str]| redis.command(&[&["ACL", "SETUSER", "shop"], words].concat());
    acl(&["on", ">pw", "~*", "&*", "+@all"]).unwrap();
    let url = format!("redis://shop:pw@{}/0", redis.address());
    let store = Store::connect(&url).await.unwrap();
    held(&lock(&store, "a", LEASE))
        .await
        .release()
        .await
        .unwrap();
    for _ in 0..3 {
        // Ends its connections, and answers WRONGPASS to new ones.
        acl(&["off"]).unwrap();
        redis.command(&["CLIENT", "KILL", "USER", "shop"]).unwrap();
        let refused = lock(&store, "a", LEASE).try_acquire().await;
        assert!(refused.unwrap_err().is_unavailable());
        acl(&["on"]).unwrap();
        let begun = Instant::now();
        while store.ping().await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "down for good");
            sleep(Duration::from_millis(10)).await;
        }
    }
    store.drain().await;
    held(&lock(&store, "a", LEASE))
        .await
        .release()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_by_itself_does_not_undo_one_by_hand() {
    on_each_store(async |store| {
        for n in 0..60 {
            let lock = lock(&store, &format!("n{n}"), SHORT);
            let mut guard = held(&lock).await.auto_renew(PATIENCE);
            sleep(SHORT / 3 - Duration::from_micros(n * 40)).await;
            guard.extend(LEASE).await.unwrap();
            sleep(SHORT / 20).await;
            assert!(guard.remaining() > LEASE / 2);
            let left = busy(&lock).await.retry_after().unwrap();
            assert!(
                left + Duration::from_millis(2) >= guard.remaining(),
                "{left:?}"
            );
            guard.release().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_shortened_lease_is_believed_whatever_becomes_of_the_answer() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", SHORT);
        let mut guard = held(&lock).await;
        guard.extend(LEASE).await.unwrap();
        let _ = timeout(Duration::ZERO, guard.renew()).await;
        assert!(guard.remaining() <= SHORT);
    })
    .await;
}
