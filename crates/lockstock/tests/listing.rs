//! Listing of locks with their holders and waiters, and forced release, on every kind of store.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod harness;

use std::time::{Duration, SystemTime};

use harness::{
    BRIEF, LEASE, SHORT, TIMEOUT, busy, connect, got, held, lock, on_each_store, queued, settle,
    waiting,
};
use lockstock::{Access, LockInfo, LockKind, Store};
use lockstock_testkit::{Proxy, Redis};
use tokio::time::{Instant, sleep, timeout};

/// Returns the only lock of the store.
async fn only(store: &Store) -> LockInfo {
    let mut locks = store.locks().await.unwrap();
    assert_eq!(locks.len(), 1, "{locks:?}");
    locks.remove(0)
}

#[tokio::test]
async fn a_store_without_locks_lists_none() {
    on_each_store(async |store| {
        assert_eq!(store.locks().await.unwrap(), []);
        held(&lock(&store, "a", LEASE))
            .await
            .release()
            .await
            .unwrap();
        assert_eq!(store.locks().await.unwrap(), []);
        std::mem::forget(held(&lock(&store, "a", SHORT)).await);
        let expired = async {
            while !store.locks().await.unwrap().is_empty() {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(TIMEOUT, expired).await.expect("its lease ends");
        let none = store.lock_info(LockKind::Lock, "a").await.unwrap();
        assert_eq!(none, None);
        let invalid = store.lock_info(LockKind::Lock, "").await.unwrap_err();
        assert!(invalid.is_invalid());
    })
    .await;
}

#[tokio::test]
async fn a_holder_is_listed_with_client_token_fence_and_remaining_lease() {
    on_each_store(async |store| {
        let before = SystemTime::now();
        let guard = held(&lock(&store, "a", LEASE)).await;
        // Less than the slack below: in memory only the monotonic clock advances by this.
        sleep(Duration::from_millis(2)).await;
        let seen = only(&store).await;
        assert_eq!((seen.kind, &*seen.name), (LockKind::Lock, &b"a"[..]));
        assert_eq!(seen.waiters, []);
        let holder = &seen.holders[0];
        assert_eq!(seen.holders.len(), 1);
        assert_eq!(holder.id.client_id(), Some(store.client_id()));
        assert!(!holder.id.is_foreign());
        let token = holder.id.to_string();
        assert_eq!(token.len(), 32);
        assert!(token.starts_with(&store.client_id().to_string()));
        assert_eq!(holder.fence, Some(guard.fence()));
        assert_eq!(holder.access, Access::Exclusive);
        let acquired_at = holder.acquired_at.unwrap();
        let slack = Duration::from_millis(5);
        assert!(
            acquired_at >= before - slack && acquired_at <= seen.observed_at,
            "{holder:?}"
        );
        let remaining = holder.remaining.unwrap();
        assert!(remaining < LEASE && remaining > LEASE / 2, "{remaining:?}");
        assert!(!holder.kept);
        guard.keep().await.unwrap();
        let kept = &only(&store).await.holders[0];
        assert!(kept.kept);
        assert_eq!((kept.id, kept.fence), (holder.id, holder.fence));
        let info = store.lock_info(LockKind::Lock, "a").await.unwrap().unwrap();
        assert_eq!(info.holders[0].id, holder.id);
        assert_eq!(
            store.lock_info(LockKind::Semaphore, "a").await.unwrap(),
            None
        );
    })
    .await;
}

#[tokio::test]
async fn waiters_are_listed_in_order_with_their_timeouts() {
    on_each_store(async |store| {
        let uploads = store.semaphore("uploads", 1).lease(LEASE).unwrap();
        let guard = held(&uploads).await;
        let first = waiting(&uploads);
        queued(&store, 1).await;
        let other = store.semaphore("uploads", 1).lease(SHORT).unwrap();
        let wait = TIMEOUT * 4;
        let second = tokio::spawn(async move { other.acquire_within(wait).await });
        let seen = queued(&store, 2).await.remove(0);
        assert_eq!(seen.kind, LockKind::Semaphore);
        assert_eq!(seen.holders[0].access, Access::Permit);
        assert_eq!(seen.holders[0].id.client_id(), Some(store.client_id()));
        let [one, two] = &seen.waiters[..] else {
            panic!("{seen:?}");
        };
        assert_eq!((one.timeout_in, one.lease), (None, LEASE));
        let timeout_in = two.timeout_in.unwrap();
        assert!(timeout_in <= wait && timeout_in > wait / 2, "{two:?}");
        assert_eq!((two.client_id, two.lease), (store.client_id(), SHORT));
        assert!(one.waited >= two.waited && one.waited < TIMEOUT);
        guard.release().await.unwrap();
        got(first).await.release().await.unwrap();
        drop(second.await.unwrap().unwrap());
        store.drain().await;
        assert_eq!(store.locks().await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn readers_and_a_waiting_writer_are_distinguished() {
    on_each_store(async |store| {
        let read = store.read_lock("catalog").lease(LEASE).unwrap();
        let write = store.write_lock("catalog").lease(LEASE).unwrap();
        let readers = [held(&read).await, held(&read).await];
        let writer = waiting(&write);
        let seen = queued(&store, 1).await.remove(0);
        assert_eq!(seen.kind, LockKind::ReadWrite);
        let reads = seen.holders.iter().map(|holder| holder.access);
        assert!(reads.eq([Access::Read, Access::Read]), "{seen:?}");
        assert_eq!(seen.waiters[0].access, Access::Exclusive);
        for reader in readers {
            reader.release().await.unwrap();
        }
        let writer = got(writer).await;
        assert_eq!(only(&store).await.holders[0].access, Access::Exclusive);
        writer.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn names_of_any_bytes_are_listed_unchanged() {
    on_each_store(async |store| {
        let names: [&[u8]; 9] = [
            b"a",
            b"a b\r\n\0",
            b"a{tag}b",
            b"a{}b",
            b"a}b",
            b"lockstock:x",
            b"lockstock:{a}:queue",
            "재고".as_bytes(),
            &[0xff, 0xfe],
        ];
        let mut guards = Vec::new();
        for name in names {
            guards.push(held(&store.lock(name).lease(LEASE).unwrap()).await);
            guards.push(held(&store.semaphore(name, 1).lease(LEASE).unwrap()).await);
            guards.push(held(&store.write_lock(name).lease(LEASE).unwrap()).await);
        }
        let listed = store.locks().await.unwrap();
        let listed = listed.iter().map(|lock| (lock.kind, &*lock.name));
        let mut all = Vec::from(names);
        all.sort_unstable();
        let all = all.into_iter();
        let all = all.flat_map(|name| LockKind::ALL.map(|kind| (kind, name)));
        assert_eq!(listed.collect::<Vec<_>>(), all.collect::<Vec<_>>());
        for guard in guards {
            guard.release().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn force_release_grants_the_next_waiter_a_higher_fence() {
    on_each_store(async |store| {
        let hour = lock(&store, "a", Duration::from_secs(3600));
        let lost = hour.acquire().await.unwrap();
        let next = waiting(&hour);
        // On Redis it is in the local queue, which is not listed.
        settle(&store).await;
        assert!(
            store
                .force_release(LockKind::Lock, "a", None)
                .await
                .unwrap()
        );
        let next = got(next).await;
        assert!(next.fence() > lost.fence());
        assert!(lost.renew().await.unwrap_err().is_lost());
        assert!(lost.release().await.unwrap_err().is_lost());
        assert_eq!(only(&store).await.holders[0].fence, Some(next.fence()));
        next.release().await.unwrap();
        assert!(
            !store
                .force_release(LockKind::Lock, "a", None)
                .await
                .unwrap()
        );
    })
    .await;
}

#[tokio::test]
async fn force_release_frees_a_kept_lock() {
    on_each_store(async |store| {
        let hour = lock(&store, "a", Duration::from_secs(3600));
        let guard = held(&hour).await;
        let fence = guard.fence();
        guard.keep().await.unwrap();
        assert!(busy(&hour).await.is_kept());
        let waiter = waiting(&hour);
        queued(&store, 1).await;
        assert!(
            store
                .force_release(LockKind::Lock, "a", None)
                .await
                .unwrap()
        );
        let guard = got(waiter).await;
        assert!(guard.fence() > fence);
        guard.release().await.unwrap();
        assert_eq!(store.locks().await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn force_release_of_one_holder_spares_its_successor() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let seen = {
            let _guard = held(&lock).await;
            only(&store).await.holders[0].id
        };
        store.drain().await;
        let guard = held(&lock).await;
        let forced = store.force_release(LockKind::Lock, "a", Some(seen)).await;
        assert!(!forced.unwrap(), "another grant holds the lock now");
        guard.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn force_release_frees_one_permit_or_all() {
    on_each_store(async |store| {
        let uploads = store.semaphore("uploads", 2).lease(LEASE).unwrap();
        let one = held(&uploads).await;
        let first = only(&store).await.holders[0].id;
        let two = held(&uploads).await;
        let waiter = waiting(&uploads);
        queued(&store, 1).await;
        let force = |holder| store.force_release(LockKind::Semaphore, "uploads", holder);
        assert!(force(Some(first)).await.unwrap());
        let three = got(waiter).await;
        assert!(one.release().await.unwrap_err().is_lost());
        assert_eq!(only(&store).await.holders.len(), 2);
        assert!(force(None).await.unwrap());
        for guard in [two, three] {
            assert!(guard.release().await.unwrap_err().is_lost());
        }
        assert_eq!(store.locks().await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn force_release_of_readers_grants_the_writer() {
    on_each_store(async |store| {
        let read = store.read_lock("catalog").lease(LEASE).unwrap();
        let write = store.write_lock("catalog").lease(LEASE).unwrap();
        let readers = [held(&read).await, held(&read).await];
        let writer = waiting(&write);
        queued(&store, 1).await;
        let forced = store.force_release(LockKind::ReadWrite, "catalog", None);
        assert!(forced.await.unwrap());
        got(writer).await.release().await.unwrap();
        for reader in readers {
            assert!(reader.release().await.unwrap_err().is_lost());
        }
    })
    .await;
}

#[tokio::test]
async fn each_process_lists_its_queue_head_and_is_served_in_order() {
    let redis = Redis::start();
    let [one, two, three] = {
        let url = redis.url();
        let connect = async || Store::connect(&url).await.unwrap();
        [connect().await, connect().await, connect().await]
    };
    let guard = held(&lock(&one, "a", LEASE)).await;
    let first = waiting(&lock(&two, "a", LEASE));
    queued(&one, 1).await;
    let behind = waiting(&lock(&two, "a", LEASE));
    let second = waiting(&lock(&three, "a", LEASE));
    let seen = queued(&three, 2).await.remove(0);
    let processes = seen.waiters.iter().map(|waiter| waiter.client_id);
    assert!(processes.eq([two.client_id(), three.client_id()]));
    assert_eq!(seen.holders[0].id.client_id(), Some(one.client_id()));
    assert!(
        three
            .force_release(LockKind::Lock, "a", None)
            .await
            .unwrap()
    );
    drop(guard);
    got(first).await.release().await.unwrap();
    // Either of them may be the first.
    let pass = async |waiter| got(waiter).await.release().await.unwrap();
    tokio::join!(pass(behind), pass(second));
}

#[tokio::test]
async fn force_release_of_a_hung_holder_unblocks_its_local_waiters() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let operator = connect(&redis.url()).await;
    let hour = lock(&store, "a", Duration::from_secs(3600));
    let hung = hour.acquire().await.unwrap();
    let behind = [waiting(&hour), waiting(&hour)];
    settle(&store).await;
    assert_eq!(only(&operator).await.waiters, [], "they wait locally");
    let forced = operator.force_release(LockKind::Lock, "a", None);
    assert!(forced.await.unwrap());
    for waiter in behind {
        let guard = got(waiter).await;
        assert!(guard.fence() > hung.fence());
        guard.release().await.unwrap();
    }
    assert!(hung.release().await.unwrap_err().is_lost());
}

#[tokio::test]
async fn a_foreign_holder_is_listed_while_a_waiter_exists_and_can_be_released() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let set = |value: &str, expiry: &[&str]| {
        let words = [&["SET", "a", value, "NX"], expiry].concat();
        assert_eq!(redis.command(&words).unwrap(), "OK");
    };
    set("f2b8d6", &["PX", "600000"]);
    assert_eq!(store.locks().await.unwrap(), [], "a key like any other");
    let waiter = waiting(&lock(&store, "a", LEASE));
    let seen = queued(&store, 1).await.remove(0);
    let holder = &seen.holders[0];
    assert!(holder.id.is_foreign());
    assert!(holder.id.to_string().starts_with("foreign:"));
    assert_eq!(holder.id.client_id(), None);
    assert_eq!(
        (holder.fence, holder.acquired_at, holder.kept),
        (None, None, false)
    );
    let remaining = holder.remaining.unwrap();
    assert!(
        remaining <= Duration::from_secs(600) && remaining > Duration::from_secs(300),
        "{remaining:?}"
    );
    let force = async |holder| {
        let forced = store.force_release(LockKind::Lock, "a", holder).await;
        forced.unwrap()
    };
    assert!(force(Some(holder.id)).await);
    got(waiter).await.release().await.unwrap();
    // A foreign lock without an expiry.
    set("0c57aa", &[]);
    let info = store.lock_info(LockKind::Lock, "a").await.unwrap().unwrap();
    assert_eq!(info.holders[0].remaining, None);
    assert!(!force(Some(holder.id)).await, "that holder is gone");
    assert!(force(None).await);
    held(&lock(&store, "a", LEASE))
        .await
        .release()
        .await
        .unwrap();
}

#[tokio::test]
async fn locks_are_listed_among_other_keys_and_nothing_is_changed() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let fill = "for i = 1, 3000 do
        redis.call('SET', 'cache:' .. i, string.rep('x', 100))
        redis.call('ZADD', 'lockstock:ranking:' .. i, i, i)
        if i <= 300 then redis.call('RPUSH', 'list:' .. i, i) end
        if i <= 300 then redis.call('SET', 'lockstock:{' .. i .. '}:queue', 'lockstock:held:') end
    end";
    redis.command(&["EVAL", fill, "0"]).unwrap();
    let mut guards = Vec::new();
    for n in 0..300 {
        guards.push(held(&lock(&store, &format!("lock-{n:03}"), LEASE)).await);
    }
    let waiter = waiting(&lock(&store, "lock-007", LEASE));
    queued(&store, 1).await;
    let changes = || {
        let info = redis.command(&["INFO", "persistence"]).unwrap();
        let mut lines = info.lines();
        let changes = lines.find(|line| line.starts_with("rdb_changes_since_last_save:"));
        changes.unwrap().to_owned()
    };
    let before = changes();
    let locks = store.locks().await.unwrap();
    let names = locks.iter().map(|lock| String::from_utf8_lossy(&lock.name));
    let names = names.collect::<Vec<_>>();
    assert!(names.is_sorted());
    assert_eq!(names.len(), 300, "{names:?}");
    assert_eq!(changes(), before);
    drop(guards);
    drop(got(waiter).await);
    store.drain().await;
}

#[tokio::test]
async fn a_key_of_a_wrong_type_hides_no_other_lock() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let guards = [held(&lock(&store, "a", LEASE)).await];
    redis.command(&["SET", "lockstock:{a}:queue", "x"]).unwrap();
    redis.command(&["RPUSH", "b", "x"]).unwrap();
    redis
        .command(&["ZADD", "lockstock:{b}:queue", "1", "of a version to come"])
        .unwrap();
    let seen = store.locks().await.unwrap();
    let names = seen.iter().map(|lock| &*lock.name);
    assert!(names.eq([b"a", b"b"]), "{seen:?}");
    assert!(seen[1].holders[0].id.is_foreign());
    let error = store.force_release(LockKind::Lock, "b", None).await;
    assert!(error.unwrap_err().to_string().contains("WRONGTYPE"));
    drop(guards);
    store.drain().await;
}

#[tokio::test]
async fn a_timed_out_waiter_is_not_listed() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let now = redis.command(&["TIME"]).unwrap();
    let seconds = now.lines().next().unwrap();
    let member = "0123456789abcdef:1000:1000:1:x:0123456789abcdef0123456789abcdef";
    let place = |age: u64| {
        let arrived = seconds.parse::<u64>().unwrap() - age;
        let arrived = format!("{arrived}000000");
        redis.command(&["ZADD", "lockstock:{a}:queue", &arrived, member])
    };
    place(60).unwrap();
    assert_eq!(store.locks().await.unwrap(), []);
}

#[tokio::test]
async fn listing_an_unresponsive_store_times_out() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let url = format!("redis://{}/0", proxy.address());
    let store = Store::connect_within(&url, BRIEF).await.unwrap();
    redis.pause();
    let listed = timeout(TIMEOUT, store.locks()).await.unwrap();
    assert!(listed.unwrap_err().is_unavailable());
    redis.resume();
    // The first reply after the pause may be the end of the connection.
    let begun = Instant::now();
    while let Err(error) = store.locks().await {
        assert!(begun.elapsed() < TIMEOUT, "{error}");
    }
    proxy.cut();
    assert!(store.locks().await.unwrap_err().is_unavailable());
}

#[tokio::test]
async fn a_search_within_a_budget_reports_that_it_is_not_complete() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let _guard = held(&lock(&store, "a", LEASE)).await;
    let all = store.locks_among(1).await.unwrap();
    assert_eq!((all.locks.len(), all.is_complete), (1, true));
    let fill = "for i = 1, 20000 do redis.call('SET', 'page:' .. i, 'x') end";
    redis.command(&["EVAL", fill, "0"]).unwrap();
    let some = store.locks_among(5000).await.unwrap();
    assert!(!some.is_complete);
    let all = store.locks_among(1_000_000).await.unwrap();
    assert_eq!((all.locks.len(), all.is_complete), (1, true));
}
