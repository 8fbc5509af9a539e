//! A lock that is kept for the rest of its lease, and the waiters of such a lock.

use std::time::Duration;

use lockstock::{Acquired, Lock};
use tokio::time::{Instant, timeout};

use super::harness::{
    BRIEF, LEASE, TIMEOUT, busy, held, lock, on_each_store, queued, settle, waiting,
};

/// Ends long after a timely rejection ([`TIMEOUT`]), and before [`LONG`].
const WAIT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(600);

/// Waits for at most [`WAIT`].
async fn is_rejected_at_once(lock: &Lock) {
    let answer = timeout(TIMEOUT, lock.acquire_within(WAIT)).await;
    match answer.expect("rejected before the wait ends").unwrap() {
        Acquired::Busy(busy) => {
            assert!(busy.is_kept());
            assert!(busy.retry_after().unwrap() > LONG / 2);
        }
        Acquired::Held(guard) => panic!("{guard:?}"),
    }
}

#[tokio::test]
async fn keep_rejects_impatient_waiters_at_once() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LONG);
        let guard = held(&lock).await;
        let waiter = tokio::spawn({
            let lock = lock.clone();
            async move { is_rejected_at_once(&lock).await }
        });
        settle(&store).await;
        assert!(!waiter.is_finished());
        guard.keep().await.unwrap();
        waiter.await.unwrap();
        assert!(busy(&lock).await.is_kept());
    })
    .await;
}

#[tokio::test]
async fn a_late_impatient_waiter_is_rejected_behind_a_patient_one() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LONG);
        held(&lock).await.keep().await.unwrap();
        is_rejected_at_once(&lock).await;
        let patient = waiting(&lock);
        queued(&store, 1).await;
        is_rejected_at_once(&lock).await;
        assert!(!patient.is_finished());
        patient.abort();
    })
    .await;
}

#[tokio::test]
async fn a_patient_waiter_acquires_a_kept_lock_when_its_lease_ends() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", BRIEF);
        let guard = held(&lock).await;
        let deadline = guard.deadline();
        guard.keep().await.unwrap();
        let next = lock.acquire_within(TIMEOUT).await.unwrap();
        assert!(matches!(next, Acquired::Held(_)));
        assert!(Instant::now() >= deadline);
    })
    .await;
}

#[tokio::test]
async fn a_shorter_lease_of_the_next_holder_wakes_the_waiters_behind_it() {
    on_each_store(async |store| {
        let first = held(&lock(&store, "a", LEASE)).await;
        let brief = lock(&store, "a", BRIEF);
        let next = tokio::spawn(async move { brief.acquire().await.unwrap().keep().await });
        settle(&store).await;
        let last = waiting(&lock(&store, "a", LEASE));
        settle(&store).await;
        first.release().await.unwrap();
        next.await.unwrap().unwrap();
        // The lease that it first waited for is longer than the timeout.
        let last = timeout(TIMEOUT, last).await.expect("notified").unwrap();
        last.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_keep_and_a_release_that_are_not_polled_delay_no_drain() {
    on_each_store(async |store| {
        let (kept, released) = (lock(&store, "a", LONG), lock(&store, "b", LONG));
        let (keep, release) = (held(&kept).await.keep(), held(&released).await.release());
        let drained = timeout(TIMEOUT, store.drain()).await;
        drained.expect("nothing runs in the background");
        keep.await.unwrap();
        release.await.unwrap();
        assert!(busy(&kept).await.is_kept());
    })
    .await;
}
