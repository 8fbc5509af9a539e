//! Automatic renewal.

use super::*;

#[tokio::test]
async fn auto_renewal_outlives_the_lease_but_not_its_cap() {
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
async fn auto_renewal_ends_with_its_guard() {
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
async fn auto_renewal_reports_a_lost_lock_before_its_deadline() {
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

#[tokio::test(flavor = "multi_thread")]
async fn auto_renewal_does_not_undo_a_manual_extension() {
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
