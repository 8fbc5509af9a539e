//! Automatic renewal.

use std::time::Duration;

use futures_util::future::join_all;
use lockstock_testkit::Redis;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::harness::{BRIEF, LEASE, SHORT, TIMEOUT, busy, connect, held, lock, on_each_store};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn auto_renewal_outlives_the_lease_but_not_its_cap() {
    on_each_store(async |store| {
        let brief = lock(&store, "a", BRIEF);
        let guard = held(&brief).await;
        let first_deadline = guard.deadline();
        let guard = guard.auto_renew(BRIEF * 5 / 2);
        sleep_until(first_deadline + BRIEF / 10).await;
        busy(&brief).await;
        assert!(!guard.remaining().is_zero());
        timeout(TIMEOUT, guard.lost()).await.expect("capped");
        let next = lock(&store, "a", LEASE);
        let next = timeout(TIMEOUT, next.acquire()).await.unwrap().unwrap();
        assert!(guard.release().await.unwrap_err().is_lost());
        next.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn auto_renewal_follows_a_rest_that_was_made_shorter() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let guard = held(&lock).await.auto_renew(HOUR);
        // Its next renewal would come later than the end of this.
        guard.set_remaining(BRIEF).await.unwrap();
        let renewed = async {
            while guard.remaining() <= BRIEF {
                sleep(BRIEF / 100).await;
            }
        };
        timeout(TIMEOUT, renewed).await.expect("renewed");
        assert!(guard.remaining() > LEASE / 2);
        guard.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn auto_renewal_ends_with_its_guard() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", BRIEF);
        let released = held(&lock).await.auto_renew(HOUR);
        released.release().await.unwrap();
        drop(held(&lock).await.auto_renew(HOUR));
        let kept = timeout(TIMEOUT, lock.acquire()).await.unwrap().unwrap();
        kept.auto_renew(HOUR).keep().await.unwrap();
        // Kept for the rest of its lease, and not renewed.
        let next = timeout(TIMEOUT, lock.acquire()).await.unwrap().unwrap();
        drop(next);
        store.drain().await;
    })
    .await;
}

#[tokio::test]
async fn auto_renewal_reports_a_lost_lock_before_its_deadline() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let guard = held(&lock(&store, "a", BRIEF * 4)).await.auto_renew(HOUR);
    let deadline = guard.deadline();
    redis.command(&["DEL", "a"]).unwrap();
    // Renewed after a third of the lease.
    let lost = timeout_at(deadline, guard.lost()).await;
    lost.expect("reported before the lease ends");
    assert!(guard.remaining().is_zero());
}

/// Extends each lock by hand just when its first automatic renewal is due.
#[tokio::test(flavor = "multi_thread")]
async fn auto_renewal_does_not_undo_a_manual_extension() {
    let lease = BRIEF * 4;
    on_each_store(async |store| {
        let mut extensions = JoinSet::new();
        for n in 0..60_u64 {
            let store = store.clone();
            extensions.spawn(async move {
                let lock = lock(&store, &format!("n{n}"), lease);
                let guard = held(&lock).await.auto_renew(HOUR);
                let lead = Duration::from_micros(n * 40);
                sleep_until(Instant::now() + lease / 3 - lead).await;
                guard.extend(LEASE).await.unwrap();
                // Lets a renewal that was in flight take effect.
                store.ping().await.unwrap();
                sleep(Duration::from_millis(10)).await;
                assert!(guard.remaining() > LEASE / 2);
                let remaining = busy(&lock).await.retry_after().unwrap();
                assert!(
                    remaining + Duration::from_millis(2) >= guard.remaining(),
                    "{remaining:?}"
                );
                guard.release().await.unwrap();
            });
        }
        extensions.join_all().await;
    })
    .await;
}

#[tokio::test]
async fn a_lock_is_renewed_from_inside_its_work() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let guard = held(&lock).await;
        let work = guard.run(async {
            guard.extend(LEASE).await.unwrap();
            assert!(guard.remaining() > LEASE);
            guard.renew().await.unwrap();
            guard.remaining()
        });
        assert!(work.await.unwrap() <= LEASE);
        guard.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn each_of_several_concurrent_extensions_counts() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", LEASE);
        let guard = held(&lock).await;
        for extended in join_all((0..9).map(|_| guard.extend(LEASE))).await {
            extended.unwrap();
        }
        assert!(guard.remaining() > LEASE * 9);
        assert!(busy(&lock).await.retry_after().unwrap() > LEASE * 9);
        // In the order of the calls: the second one adds to a whole lease.
        let (renewed, extended) = tokio::join!(guard.renew(), guard.extend(LEASE));
        renewed.and(extended).unwrap();
        assert!(guard.remaining() > LEASE && guard.remaining() <= LEASE * 2);
        guard.release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_lock_that_was_reported_lost_is_not_revived_by_a_renewal() {
    on_each_store(async |store| {
        let lock = lock(&store, "a", SHORT);
        let guard = held(&lock).await;
        guard.lost().await;
        // The store may have it for some more milliseconds.
        assert!(guard.renew().await.unwrap_err().is_lost());
        assert!(guard.extend(LEASE).await.unwrap_err().is_lost());
        assert!(guard.remaining().is_zero());
        assert!(guard.release().await.unwrap_err().is_lost());
    })
    .await;
}
