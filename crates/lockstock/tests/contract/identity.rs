//! A holder whose identity its application has chosen.

use std::time::Duration;

use lockstock::{HolderId, LockKind};
use tokio::time::{sleep, timeout};

use super::harness::{LEASE, TIMEOUT, busy, held, lock, on_each_store};

const ID: &str = "00112233445566778899aabbccddeeff";

fn id() -> HolderId {
    ID.parse().unwrap()
}

#[tokio::test]
async fn the_holder_has_the_chosen_identity() {
    on_each_store(async |store| {
        let any = lock(&store, "a", LEASE);
        let chosen = any.clone().held_as(id()).unwrap();
        for is_waited_for in [false, true] {
            let before = held(&any).await;
            let fence = before.fence();
            let guard = if is_waited_for {
                let (acquired, released) = tokio::join!(chosen.acquire(), before.release());
                released.unwrap();
                acquired.unwrap()
            } else {
                before.release().await.unwrap();
                held(&chosen).await
            };
            assert_eq!(guard.id().to_string(), ID);
            assert!(guard.fence() > fence);
            let info = store.lock_info(LockKind::Lock, "a").await.unwrap().unwrap();
            assert_eq!(info.holders.len(), 1);
            assert_eq!(info.holders[0].id, id());
            busy(&any).await;
            guard.extend(LEASE).await.unwrap();
            guard.release().await.unwrap();
        }
        // The next holder has one of its own.
        assert_ne!(held(&any).await.id(), id());
        store.drain().await;
        held(&chosen).await.keep().await.unwrap();
        assert!(busy(&any).await.is_kept());
    })
    .await;
}

#[tokio::test]
async fn the_next_holder_in_this_process_does_not_have_it() {
    on_each_store(async |store| {
        let any = lock(&store, "a", LEASE);
        let chosen = any.clone().held_as(id()).unwrap();
        for _ in 0..20 {
            let guard = held(&chosen).await;
            let (next, released) = tokio::join!(any.acquire(), guard.release());
            released.unwrap();
            let next = next.unwrap();
            assert_ne!(next.id(), id());
            let forced = store.force_release(LockKind::Lock, "a", Some(id())).await;
            assert!(!forced.unwrap());
            next.release().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn it_releases_the_lock() {
    on_each_store(async |store| {
        let any = lock(&store, "a", LEASE);
        let guard = held(&any.clone().held_as(id()).unwrap()).await;
        let forced = store.force_release(LockKind::Lock, "a", Some(id())).await;
        assert!(forced.unwrap());
        let next = held(&any).await;
        assert!(guard.release().await.unwrap_err().is_lost());
        next.release().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_acquire_leaves_no_lock() {
    on_each_store(async |store| {
        let any = lock(&store, "a", LEASE);
        let chosen = any.clone().held_as(id()).unwrap();
        for n in 0..300_u64 {
            let acquired = chosen.acquire();
            tokio::select! {
                guard = acquired => drop(guard.unwrap()),
                () = sleep(Duration::from_micros(n * 5)) => {}
            }
        }
        store.drain().await;
        let next = timeout(TIMEOUT, any.acquire()).await.expect("it is free");
        next.unwrap().release().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn permits_readers_and_foreign_holders_have_no_chosen_identity() {
    on_each_store(async |store| {
        for other in [
            store.semaphore("s", 2),
            store.read_lock("rw"),
            store.write_lock("rw"),
        ] {
            let refused = other.lease(LEASE).unwrap().held_as(id());
            assert!(refused.unwrap_err().is_invalid());
        }
    })
    .await;
    for text in [
        "",
        "0",
        "foreign:0011223344556677",
        &ID[1..],
        "g0112233445566778899aabbccddeeff",
    ] {
        assert!(text.parse::<HolderId>().unwrap_err().is_invalid(), "{text}");
    }
}
