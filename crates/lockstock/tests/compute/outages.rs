//! Values without their store.

use lockstock::{ComputeError, ComputePolicy};
use lockstock_testkit::{Proxy, Redis};
use tokio::task::JoinSet;

use crate::harness::{LEASE, connect, until};
use crate::{Gate, LONG, pages};

#[tokio::test]
async fn without_its_store_a_value_is_computed() {
    let redis = Redis::start();
    let store = connect(&redis.url()).await;
    let pages = pages(&store);
    let policy = ComputePolicy::new(LONG)
        .stale_for(LONG)
        .once_per_store(LEASE)
        .tags(["a"]);
    redis.kill();
    let compute = async || "mug".to_owned();
    let page = pages.get_or_set("/mugs", policy.clone(), compute).await;
    assert_eq!(page.unwrap(), "mug");
    let fails = async || Err("no database");
    match pages.get_or_try_set("/mugs", policy.clone(), fails).await {
        Err(ComputeError::Failed(error)) => assert_eq!(*error, "no database"),
        other => panic!("{other:?}"),
    }

    redis.restart();
    until("the store is back", || redis.command(&["PING"]).is_ok()).await;
    let compute = async || "bowl".to_owned();
    let page = pages.get_or_set("/mugs", policy, compute).await;
    assert_eq!(page.unwrap(), "bowl");
    assert_eq!(pages.get("/mugs").await.unwrap().as_deref(), Some("bowl"));
}

#[tokio::test]
async fn without_its_store_a_computation_is_shared() {
    let redis = Redis::start();
    let (store, gate) = (connect(&redis.url()).await, Gate::new());
    redis.kill();
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let (pages, gate) = (pages(&store), gate.clone());
        callers.spawn(async move {
            let compute = async || gate.pass("mug".to_owned()).await;
            pages.get_or_set("/mugs", LONG, compute).await.unwrap()
        });
    }
    gate.begun().await;
    // Time for the others to join.
    for _ in 0..20 {
        store.ping().await.unwrap_err();
    }
    assert_eq!(gate.calls(), 1);
    // A caller that joins after the first computation begins another one.
    for _ in 0..20 {
        gate.open();
    }
    for page in callers.join_all().await {
        assert_eq!(page, "mug");
    }
}

#[tokio::test]
async fn a_store_that_fails_during_the_computation_does_not_fail_it() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let store = connect(&format!("redis://{}/0", proxy.address())).await;
    let pages = pages(&store);
    let policy = ComputePolicy::new(LONG).once_per_store(LEASE).tags(["a"]);
    let compute = async || {
        redis.kill();
        "mug".to_owned()
    };
    let page = pages.get_or_set("/mugs", policy, compute).await;
    assert_eq!(page.unwrap(), "mug");
}
