//! Who comes to a lock that is kept for longer than it can wait hears so at once, whoever else
//! waits for it in the same process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use lockstock::{Acquired, Lock, Store};
use lockstock_testkit::Redis;
use tokio::time::timeout;

const LEASE: Duration = Duration::from_secs(600);
/// Long enough to be told from "at once", and in vain.
const WAIT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(20);

async fn is_told_at_once(lock: &Lock) {
    let told = timeout(PATIENCE, lock.acquire_within(WAIT)).await;
    match told.expect("not when the wait is over").unwrap() {
        Acquired::Busy(busy) => assert!(busy.is_kept()),
        Acquired::Held(guard) => panic!("{guard:?}"),
    }
}

async fn behind_a_patient_waiter(store: Store) {
    let lock = store.lock("a").lease(LEASE).unwrap();
    lock.acquire().await.unwrap().keep().await.unwrap();
    is_told_at_once(&lock).await;
    let patient = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await }
    });
    // Lets it take its place before the next one comes.
    tokio::task::yield_now().await;
    store.ping().await.unwrap();
    is_told_at_once(&lock).await;
    assert!(!patient.is_finished());
    patient.abort();
}

#[tokio::test]
async fn who_comes_late_hears_so_behind_a_patient_waiter_in_memory() {
    behind_a_patient_waiter(Store::memory()).await;
}

#[tokio::test]
async fn who_comes_late_hears_so_behind_a_patient_waiter_on_redis() {
    let redis = Redis::start();
    behind_a_patient_waiter(Store::connect(&redis.url()).await.unwrap()).await;
}
