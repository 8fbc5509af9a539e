//! Semaphores, read-write locks and several names at once, on every kind of store.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use harness::{
    BRIEF, LEASE, SHORT, TIMEOUT, busy, got, held, lock, on_each_store, queued, settle, waiting,
};
use lockstock::{Acquired, Lock, LockKind, Store};
use rand::RngExt;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep_until, timeout};

fn permits(store: &Store, permits: u32, lease: Duration) -> Lock {
    store.semaphore("uploads", permits).lease(lease).unwrap()
}

fn taking(store: &Store, taken: u32, permits: u32) -> Lock {
    let semaphore = store.semaphore("uploads", permits).take(taken);
    semaphore.lease(LEASE).unwrap()
}

fn reader(store: &Store, lease: Duration) -> Lock {
    store.read_lock("catalog").lease(lease).unwrap()
}

fn writer(store: &Store, lease: Duration) -> Lock {
    store.write_lock("catalog").lease(lease).unwrap()
}

#[tokio::test]
async fn a_semaphore_has_as_many_holders_as_permits() {
    on_each_store(async |store| {
        let lock = permits(&store, 3, LEASE);
        let mut guards = vec![held(&lock).await, held(&lock).await, held(&lock).await];
        let answer = busy(&lock).await;
        assert!(!answer.is_kept());
        let remaining = answer.retry_after().unwrap();
        assert!(remaining <= LEASE && remaining > LEASE / 2, "{remaining:?}");
        let fences = guards.iter().map(lockstock::Guard::fence);
        assert!(fences.is_sorted_by(|one, next| one < next), "in order");
        guards.pop().unwrap().release().await.unwrap();
        guards.push(held(&lock).await);
        busy(&lock).await;
        for guard in guards {
            guard.release().await.unwrap();
        }
        assert!(
            store
                .semaphore("uploads", 0)
                .lease(LEASE)
                .unwrap_err()
                .is_invalid()
        );
    })
    .await;
}

#[tokio::test]
async fn waiters_for_a_permit_are_served_in_order() {
    on_each_store(async |store| {
        let lock = permits(&store, 2, LEASE);
        let (one, two) = (held(&lock).await, held(&lock).await);
        let mut waiters = vec![waiting(&lock)];
        queued(&store, 1).await;
        for _ in 0..3 {
            waiters.push(waiting(&lock));
            settle(&store).await;
        }
        one.release().await.unwrap();
        let first = got(waiters.remove(0)).await;
        // A newcomer does not overtake the others.
        busy(&lock).await;
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
        two.release().await.unwrap();
        let second = got(waiters.remove(0)).await;
        assert!(second.fence() > first.fence());
        first.release().await.unwrap();
        second.release().await.unwrap();
        for waiter in waiters {
            got(waiter).await.release().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn several_permits_are_taken_and_given_back_together() {
    on_each_store(async |store| {
        let (one, three) = (taking(&store, 1, 4), taking(&store, 3, 4));
        let (large, small) = (held(&three).await, held(&one).await);
        busy(&one).await;
        let locks = store.locks().await.unwrap();
        let listed = locks[0].holders.iter().map(|holder| holder.permits);
        assert_eq!(listed.sum::<u32>(), 4);
        assert_eq!(locks[0].holders.len(), 2);
        small.release().await.unwrap();
        // One is free, three are needed: none is taken.
        busy(&three).await;
        held(&one).await.release().await.unwrap();
        large.release().await.unwrap();
        let all = [held(&three).await, held(&one).await];
        let taken = store.force_release(LockKind::Semaphore, "uploads", None);
        assert!(taken.await.unwrap());
        held(&taking(&store, 4, 4)).await.release().await.unwrap();
        drop(all);
        for wrong in [0, 5] {
            let error = store.semaphore("uploads", 4).take(wrong).lease(LEASE);
            assert!(error.unwrap_err().is_invalid());
        }
        assert!(
            store
                .lock("a")
                .take(2)
                .lease(LEASE)
                .unwrap_err()
                .is_invalid()
        );
        assert!(store.lock("a").take(1).lease(LEASE).is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_request_for_several_permits_does_not_starve_behind_small_ones() {
    on_each_store(async |store| {
        let (one, three) = (taking(&store, 1, 3), taking(&store, 3, 3));
        let (first, second) = (held(&one).await, held(&one).await);
        let large = waiting(&three);
        let locks = queued(&store, 1).await;
        assert_eq!(locks[0].waiters[0].permits, 3);
        // One permit is free, and is left free for the waiter.
        busy(&one).await;
        let small = waiting(&one);
        queued(&store, 2).await;
        first.release().await.unwrap();
        busy(&one).await;
        assert!(!large.is_finished() && !small.is_finished());
        second.release().await.unwrap();
        let large = got(large).await;
        assert!(!small.is_finished());
        large.release().await.unwrap();
        got(small).await.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn several_permits_are_renewed_and_end_together() {
    on_each_store(async |store| {
        let all = store.semaphore("uploads", 3).take(3).lease(BRIEF).unwrap();
        let one = permits(&store, 3, LEASE);
        let guard = held(&all).await;
        let first_deadline = guard.deadline();
        guard.extend(LEASE).await.unwrap();
        sleep_until(first_deadline + BRIEF / 10).await;
        busy(&one).await;
        guard.renew().await.unwrap();
        std::mem::forget(guard);
        let next = taking(&store, 3, 3);
        let next = timeout(TIMEOUT, next.acquire()).await.unwrap().unwrap();
        next.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_permit_of_a_crashed_holder_is_free_when_its_lease_ends() {
    on_each_store(async |store| {
        let crashed = held(&permits(&store, 2, SHORT)).await;
        let deadline = crashed.deadline();
        std::mem::forget(crashed);
        let lock = permits(&store, 2, LEASE);
        std::mem::forget(lock.acquire().await.unwrap());
        let guard = timeout(TIMEOUT, lock.acquire()).await.unwrap().unwrap();
        assert!(Instant::now() >= deadline);
        // The other permit is still held.
        busy(&lock).await;
        guard.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_permit_is_renewed_kept_and_lost_like_a_lock() {
    on_each_store(async |store| {
        let lock = permits(&store, 1, BRIEF);
        let guard = held(&lock).await;
        let first_deadline = guard.deadline();
        guard.extend(LEASE).await.unwrap();
        sleep_until(first_deadline + BRIEF / 10).await;
        busy(&lock).await;
        guard.renew().await.unwrap();
        let deadline = guard.deadline();
        guard.keep().await.unwrap();
        busy(&lock).await;
        let guard = timeout(TIMEOUT, lock.acquire()).await.unwrap().unwrap();
        assert!(Instant::now() >= deadline);
        timeout(TIMEOUT, guard.lost())
            .await
            .expect("its lease ends");
        assert!(guard.release().await.unwrap_err().is_lost());
        held(&permits(&store, 1, LEASE))
            .await
            .release()
            .await
            .unwrap();
    })
    .await;
}

#[tokio::test]
async fn readers_share_and_a_writer_is_exclusive() {
    on_each_store(async |store| {
        let (read, write) = (reader(&store, LEASE), writer(&store, LEASE));
        let readers = [held(&read).await, held(&read).await, held(&read).await];
        busy(&write).await;
        for guard in readers {
            guard.release().await.unwrap();
        }
        let guard = held(&write).await;
        busy(&read).await;
        busy(&write).await;
        guard.release().await.unwrap();
        held(&read).await.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn readers_do_not_overtake_a_waiting_writer_and_follow_it_together() {
    on_each_store(async |store| {
        let (read, write) = (reader(&store, LEASE), writer(&store, LEASE));
        let first = held(&read).await;
        let waiting_writer = waiting(&write);
        queued(&store, 1).await;
        busy(&read).await;
        let readers = [waiting(&read), waiting(&read), waiting(&read)];
        settle(&store).await;
        assert!(readers.iter().all(|reader| !reader.is_finished()));
        first.release().await.unwrap();
        let writes = got(waiting_writer).await;
        assert!(readers.iter().all(|reader| !reader.is_finished()));
        writes.release().await.unwrap();
        let mut reads = Vec::new();
        for reader in readers {
            reads.push(got(reader).await);
        }
        for guard in reads {
            assert!(guard.remaining() > LEASE / 2);
            guard.release().await.unwrap();
        }
        held(&write).await.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_writer_that_times_out_unblocks_the_readers_behind_it() {
    on_each_store(async |store| {
        let (read, write) = (reader(&store, LEASE), writer(&store, LEASE));
        let first = held(&read).await;
        let impatient = tokio::spawn(async move { write.acquire_within(BRIEF).await });
        queued(&store, 1).await;
        let reader = waiting(&read);
        settle(&store).await;
        let answer = impatient.await.unwrap().unwrap();
        assert!(matches!(answer, Acquired::Busy(_)), "{answer:?}");
        got(reader).await.release().await.unwrap();
        first.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn lock_kinds_do_not_share_names() {
    on_each_store(async |store| {
        let locks = [
            store.lock("a").lease(LEASE).unwrap(),
            store.semaphore("a", 1).lease(LEASE).unwrap(),
            store.write_lock("a").lease(LEASE).unwrap(),
        ];
        for lock in &locks {
            std::mem::forget(held(lock).await);
        }
        for lock in &locks {
            busy(lock).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_never_exceed_the_permits_under_cancellation() {
    on_each_store(async |store| {
        let inside = Arc::new(AtomicI64::new(0));
        let mut tasks = JoinSet::new();
        for task in 0..16 {
            let weight = task % 3 + 1;
            let (lock, inside) = (taking(&store, weight, 3), inside.clone());
            let weight = i64::from(weight);
            tasks.spawn(async move {
                for n in 0..40 {
                    let limit = Duration::from_micros(rand::rng().random_range(0..3000));
                    let Ok(guard) = timeout(limit, lock.acquire()).await else {
                        continue;
                    };
                    let guard = guard.unwrap();
                    assert!(inside.fetch_add(weight, Ordering::SeqCst) + weight <= 3);
                    yield_now().await;
                    inside.fetch_sub(weight, Ordering::SeqCst);
                    match n % 3 {
                        0 => guard.release().await.unwrap(),
                        1 => drop(guard.release()),
                        _ => drop(guard),
                    }
                }
            });
        }
        tasks.join_all().await;
        store.drain().await;
        let lock = permits(&store, 3, LEASE);
        let all = [held(&lock).await, held(&lock).await, held(&lock).await];
        drop(all);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_and_writers_never_overlap() {
    on_each_store(async |store| {
        // A reader adds 1, a writer subtracts 1000.
        let inside = Arc::new(AtomicI64::new(0));
        let mut tasks = JoinSet::new();
        for n in 0..12 {
            let (store, inside) = (store.clone(), inside.clone());
            tasks.spawn(async move {
                for _ in 0..30 {
                    let (lock, weight) = match n % 4 {
                        0 => (writer(&store, LEASE), -1000),
                        _ => (reader(&store, LEASE), 1),
                    };
                    let guard = lock.acquire().await.unwrap();
                    let before = inside.fetch_add(weight, Ordering::SeqCst);
                    assert!(before >= 0 && (weight > 0 || before == 0), "{before}");
                    yield_now().await;
                    inside.fetch_sub(weight, Ordering::SeqCst);
                    guard.release().await.unwrap();
                }
            });
        }
        tasks.join_all().await;
    })
    .await;
}

#[tokio::test]
async fn a_deadline_of_a_writer_is_never_later_than_the_end_in_the_store() {
    on_each_store(async |store| {
        let write = writer(&store, Duration::from_millis(3));
        let mut last = None;
        for _ in 0..100 {
            let guard = write.acquire().await.unwrap();
            let now = Instant::now();
            let overlaps = last.is_some_and(|deadline| deadline > now);
            assert!(!overlaps, "two writers at once");
            last = Some(guard.deadline());
            std::mem::forget(guard);
        }
    })
    .await;
}

#[tokio::test]
async fn lock_all_acquires_all_names_or_none() {
    on_each_store(async |store| {
        let cart = store.lock_all(["b", "a", "c", "a"]).lease(LEASE).unwrap();
        let other = held(&lock(&store, "c", LEASE)).await;
        assert!(matches!(
            cart.try_acquire().await.unwrap(),
            Acquired::Busy(_)
        ));
        held(&lock(&store, "a", LEASE))
            .await
            .release()
            .await
            .unwrap();
        other.release().await.unwrap();
        let guards = cart.acquire().await.unwrap();
        for name in ["a", "b", "c"] {
            busy(&lock(&store, name, LEASE)).await;
            assert!(guards.fence_of(name).is_some());
        }
        assert_eq!(guards.fence_of("d"), None);
        assert!(guards.remaining() > LEASE / 2);
        assert_eq!(guards.run(async { 42 }).await.unwrap(), 42);
        guards.release().await.unwrap();
        held(&lock(&store, "b", LEASE))
            .await
            .release()
            .await
            .unwrap();
        let none: [&str; 0] = [];
        assert!(store.lock_all(none).lease(LEASE).unwrap_err().is_invalid());
        assert!(store.lock_all([""]).lease(LEASE).unwrap_err().is_invalid());
    })
    .await;
}

#[tokio::test]
async fn lock_all_renews_acquired_locks_while_it_waits_for_the_rest() {
    on_each_store(async |store| {
        let last = held(&lock(&store, "z", LEASE)).await;
        let cart = store.lock_all(["a", "z"]).lease(BRIEF).unwrap();
        let waiter = tokio::spawn(async move { cart.acquire().await.unwrap() });
        let a = lock(&store, "a", LEASE);
        let fence_of_a = async || {
            let info = store.lock_info(LockKind::Lock, "a").await.unwrap();
            info.map(|info| info.holders[0].fence)
        };
        let fence = loop {
            match fence_of_a().await {
                Some(fence) => break fence,
                None => yield_now().await,
            }
        };
        // Longer than its lease, and still the same grant.
        sleep_until(Instant::now() + BRIEF * 8 / 5).await;
        busy(&a).await;
        assert_eq!(fence_of_a().await, Some(fence));
        let released_at = Instant::now();
        last.release().await.unwrap();
        let guards = timeout(TIMEOUT, waiter).await.unwrap().unwrap();
        // All leases were renewed after the wait.
        assert!(guards.deadline() >= released_at + BRIEF * 4 / 5);
        timeout(TIMEOUT, guards.lost())
            .await
            .expect("their lease ends");
        assert!(guards.release().await.unwrap_err().is_lost());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_multi_locks_never_deadlock() {
    on_each_store(async |store| {
        let done = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for n in 0..12_usize {
            let (store, done) = (store.clone(), done.clone());
            tasks.spawn(async move {
                for round in 0..20 {
                    let mut names = ["a", "b", "c", "d"];
                    names.rotate_left((n + round) % 4);
                    let cart = store.lock_all(&names[..2 + n % 3]).lease(LEASE).unwrap();
                    let guards = cart.acquire().await.unwrap();
                    match n % 2 {
                        0 => guards.release().await.unwrap(),
                        _ => drop(guards),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        timeout(TIMEOUT, tasks.join_all()).await.unwrap();
        assert_eq!(done.load(Ordering::Relaxed), 240);
    })
    .await;
}
