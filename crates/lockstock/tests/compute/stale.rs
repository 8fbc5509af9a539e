//! Values that are returned after their time to live, and values that are computed before it ends.

use std::time::Duration;

use lockstock::{ComputePolicy, Ttl};
use tokio::time::sleep;

use crate::harness::{LEASE, on_each_store};
use crate::{Gate, LONG, SHORTEST, is_past, not_called, not_called_either, pages};

fn soon_stale() -> ComputePolicy {
    ComputePolicy::new(SHORTEST).stale_for(LONG)
}

#[tokio::test]
async fn a_stale_value_is_returned_while_one_caller_computes() {
    on_each_store(async |store| {
        for once_per_store in [false, true] {
            let (pages, gate) = (pages(&store), Gate::new());
            let old = async || "old".to_owned();
            pages.get_or_set("/mugs", soon_stale(), old).await.unwrap();
            is_past(&pages, "/mugs").await;
            let policy = match once_per_store {
                true => ComputePolicy::new(LONG)
                    .stale_for(LONG)
                    .once_per_store(LEASE),
                false => ComputePolicy::new(LONG).stale_for(LONG),
            };
            let refresh = tokio::spawn({
                let (pages, gate, policy) = (pages.clone(), gate.clone(), policy.clone());
                async move {
                    let compute = async || gate.pass("new".to_owned()).await;
                    pages.get_or_set("/mugs", policy, compute).await.unwrap()
                }
            });
            gate.begun().await;
            for _ in 0..3 {
                let other = pages.get_or_set("/mugs", policy.clone(), async || not_called().await);
                assert_eq!(other.await.unwrap(), "old");
            }
            // Only a call that can compute returns it.
            assert_eq!(pages.get("/mugs").await.unwrap(), None);
            gate.open();
            assert_eq!(refresh.await.unwrap(), "new");
            let after = pages.get_or_set("/mugs", policy, async || not_called().await);
            assert_eq!(after.await.unwrap(), "new");
            assert_eq!(pages.get("/mugs").await.unwrap().as_deref(), Some("new"));
            pages.delete("/mugs").await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_failed_refresh_returns_the_stale_value() {
    on_each_store(async |store| {
        let pages = pages(&store);
        let old = async || "old".to_owned();
        pages.get_or_set("/mugs", soon_stale(), old).await.unwrap();
        is_past(&pages, "/mugs").await;
        let fails = async || Err("no database");
        let refresh = pages.get_or_try_set("/mugs", soon_stale(), fails).await;
        assert_eq!(refresh.unwrap(), "old");
        // The next caller tries again.
        let new = async || "new".to_owned();
        let refresh = pages.get_or_set("/mugs", soon_stale(), new).await;
        assert_eq!(refresh.unwrap(), "new");
    })
    .await;
}

#[tokio::test]
async fn a_value_beyond_the_bound_of_the_caller_is_a_miss() {
    on_each_store(async |store| {
        let pages = pages(&store);
        let old = async || "old".to_owned();
        pages.get_or_set("/mugs", soon_stale(), old).await.unwrap();
        is_past(&pages, "/mugs").await;
        let fails = async || Err("no database");
        let strict = pages.get_or_try_set("/mugs", LONG, fails).await;
        assert_eq!(strict.unwrap_err().failed(), Some(&"no database"));
    })
    .await;
}

#[tokio::test]
async fn the_store_keeps_a_value_for_the_stale_time() {
    on_each_store(async |store| {
        let pages = pages(&store);
        let policy = ComputePolicy::new(LONG).stale_for(LONG);
        let compute = async || "mug".to_owned();
        pages.get_or_set("/mugs", policy, compute).await.unwrap();
        match pages.ttl("/mugs").await.unwrap() {
            Some(Ttl::After(ttl)) => assert!(ttl > LONG && ttl <= 2 * LONG, "{ttl:?}"),
            other => panic!("{other:?}"),
        }
    })
    .await;
}

#[tokio::test]
async fn an_early_refresh_is_one_computation() {
    on_each_store(async |store| {
        let (pages, gate) = (pages(&store), Gate::new());
        // So large that each call is early.
        let policy = ComputePolicy::new(LONG).early_refresh(1e30);
        let compute = async || {
            sleep(Duration::from_millis(1)).await;
            "old".to_owned()
        };
        pages
            .get_or_set("/mugs", policy.clone(), compute)
            .await
            .unwrap();
        let refresh = tokio::spawn({
            let (pages, gate, policy) = (pages.clone(), gate.clone(), policy.clone());
            async move {
                let compute = async || gate.pass("new".to_owned()).await;
                pages.get_or_set("/mugs", policy, compute).await.unwrap()
            }
        });
        gate.begun().await;
        let other = pages.get_or_set("/mugs", policy, async || not_called().await);
        assert_eq!(other.await.unwrap(), "old");
        // Without the option no value is early.
        let plain = pages.get_or_try_set("/mugs", LONG, async || not_called_either().await);
        assert_eq!(plain.await.unwrap(), "old");
        assert_eq!(pages.get("/mugs").await.unwrap().as_deref(), Some("old"));
        gate.open();
        assert_eq!(refresh.await.unwrap(), "new");
    })
    .await;
}
