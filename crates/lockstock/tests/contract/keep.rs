//! Keeping a lock for the rest of its lease, and the waiters of a kept lock.

use lockstock::Lock;

use super::*;

#[tokio::test]
async fn keep_rejects_impatient_waiters_at_once() {
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
async fn a_patient_waiter_acquires_a_kept_lock_when_its_lease_ends() {
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
async fn a_shorter_lease_of_the_next_holder_wakes_the_waiters_behind_it() {
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

/// Ends long after a timely rejection, and before the lease.
const WAIT: Duration = Duration::from_secs(60);

async fn is_rejected_at_once(lock: &Lock) {
    let answer = timeout(PATIENCE, lock.acquire_within(WAIT)).await;
    match answer.expect("rejected before the wait ends").unwrap() {
        Acquired::Busy(busy) => assert!(busy.is_kept()),
        Acquired::Held(guard) => panic!("{guard:?}"),
    }
}

#[tokio::test]
async fn a_late_impatient_waiter_is_rejected_behind_a_patient_one() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE * 30);
        held(&lock).await.keep().await.unwrap();
        is_rejected_at_once(&lock).await;
        let patient = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire().await }
        });
        // Lets it join the queue before the next one arrives.
        tokio::task::yield_now().await;
        store.ping().await.unwrap();
        is_rejected_at_once(&lock).await;
        assert!(!patient.is_finished());
        patient.abort();
    })
    .await;
}
