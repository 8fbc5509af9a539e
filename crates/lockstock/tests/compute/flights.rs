//! One computation at a time in this process.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstock::{Cache, ComputeError, ComputePolicy, Integer, LockKind, Raw, Store};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::harness::{LEASE, TIMEOUT, on_each_store, settle};
use crate::steps::{run_for, step};
use crate::{Gate, LONG, not_called, not_called_either, pages};

#[tokio::test]
async fn many_callers_share_one_computation() {
    on_each_store(async |store| {
        let gate = Gate::new();
        let mut callers = JoinSet::new();
        for _ in 0..50 {
            // Each through a handle of its own.
            let (pages, gate) = (pages(&store), gate.clone());
            callers.spawn(async move {
                let compute = async || gate.pass("mug".to_owned()).await;
                pages.get_or_set("/mugs", LONG, compute).await.unwrap()
            });
        }
        gate.begun().await;
        settle(&store).await;
        gate.open();
        for page in callers.join_all().await {
            assert_eq!(page, "mug");
        }
        assert_eq!(gate.calls(), 1);
        assert_eq!(
            pages(&store).get("/mugs").await.unwrap().as_deref(),
            Some("mug")
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_caller_computes_again_after_a_computation() {
    on_each_store(async |store| {
        for round in 0..200 {
            let calls = Arc::new(AtomicU64::new(0));
            let mut callers = JoinSet::new();
            for _ in 0..4 {
                let (pages, calls) = (pages(&store), calls.clone());
                callers.spawn(async move {
                    let compute = async || {
                        calls.fetch_add(1, Ordering::SeqCst);
                        String::new()
                    };
                    let key = format!("/{round}");
                    pages.get_or_set(key, LONG, compute).await.unwrap()
                });
            }
            callers.join_all().await;
            assert_eq!(calls.load(Ordering::SeqCst), 1, "round {round}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_failure_reaches_all_waiters_and_is_not_kept() {
    let (pages, gate) = (pages(&Store::memory()), Gate::new());
    let compute = async || gate.pass(Err("no database")).await;
    let mut first = Box::pin(pages.get_or_try_set("/mugs", LONG, compute));
    assert!(step(&mut first).await.is_none());
    let other = || Box::pin(pages.get_or_try_set("/mugs", LONG, async || not_called().await));
    let (mut second, mut third) = (other(), other());
    assert!(step(&mut second).await.is_none() && step(&mut third).await.is_none());
    gate.open();
    let mut errors = Vec::new();
    for outcome in [first.await, second.await, third.await] {
        match outcome {
            Err(ComputeError::Failed(error)) => errors.push(error),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(*errors[0], "no database");
    assert!(errors.iter().all(|error| Arc::ptr_eq(error, &errors[0])));

    let again = pages.get_or_set("/mugs", LONG, async || "mug".to_owned());
    assert_eq!(again.await.unwrap(), "mug");
}

#[tokio::test]
async fn a_waiter_with_another_type_of_error_computes_itself() {
    let (pages, gate) = (pages(&Store::memory()), Gate::new());
    let compute = async || gate.pass(Err("no database")).await;
    let mut first = Box::pin(pages.get_or_try_set("/mugs", LONG, compute));
    assert!(step(&mut first).await.is_none());
    let compute = async || Ok::<_, std::io::Error>("mug".to_owned());
    let mut second = Box::pin(pages.get_or_try_set("/mugs", LONG, compute));
    assert!(step(&mut second).await.is_none());
    gate.open();
    assert!(first.await.unwrap_err().failed().is_some());
    assert_eq!(second.await.unwrap(), "mug");
}

#[tokio::test]
async fn after_a_panic_a_waiter_computes() {
    let (pages, gate) = (pages(&Store::memory()), Gate::new());
    let first = tokio::spawn({
        let (pages, gate) = (pages.clone(), gate.clone());
        async move {
            let compute = async || {
                gate.pass(()).await;
                panic!("as the test wants it")
            };
            pages.get_or_set("/mugs", LONG, compute).await
        }
    });
    gate.begun().await;
    let mut second = Box::pin(pages.get_or_set("/mugs", LONG, async || "mug".to_owned()));
    let third = pages.get_or_set("/mugs", LONG, async || not_called().await);
    let mut third = Box::pin(third);
    assert!(step(&mut second).await.is_none() && step(&mut third).await.is_none());
    gate.open();
    assert!(first.await.unwrap_err().is_panic());
    assert_eq!(second.await.unwrap(), "mug");
    assert_eq!(third.await.unwrap(), "mug");
}

#[tokio::test]
async fn after_a_cancellation_a_waiter_computes() {
    let pages = pages(&Store::memory());
    let call = |gate: &Gate| {
        let (pages, gate) = (pages.clone(), gate.clone());
        Box::pin(async move {
            let compute = async || gate.pass("mug".to_owned()).await;
            pages.get_or_set("/mugs", LONG, compute).await.unwrap()
        })
    };
    let gates = [(); 4].map(|()| Gate::new());
    let mut calls: Vec<_> = gates.iter().map(call).collect();
    for call in &mut calls {
        assert!(step(call).await.is_none());
    }
    let mut last = calls.pop().unwrap();
    let mut third = calls.pop().unwrap();
    // The leader is cancelled, and then the waiter that is notified, before it is polled.
    drop(calls);
    assert!(step(&mut third).await.is_none());
    gates[2].begun().await;
    drop(third);
    assert!(step(&mut last).await.is_none());
    gates[3].open();
    assert_eq!(last.await, "mug");
    assert_eq!(gates.each_ref().map(Gate::calls), [1, 0, 1, 1]);
}

#[tokio::test]
async fn a_cancelled_call_without_waiters_leaves_nothing_behind() {
    let (pages, gate) = (pages(&Store::memory()), Gate::new());
    let compute = async || gate.pass("mug".to_owned()).await;
    let mut first = Box::pin(pages.get_or_set("/mugs", LONG, compute));
    assert!(step(&mut first).await.is_none());
    let waiter = pages.get_or_set("/mugs", LONG, async || not_called().await);
    let mut waiter = Box::pin(waiter);
    assert!(step(&mut waiter).await.is_none());
    drop(first);
    drop(waiter);
    let compute = async || "bowl".to_owned();
    let mut next = Box::pin(pages.get_or_set("/mugs", LONG, compute));
    assert_eq!(step(&mut next).await.unwrap().unwrap(), "bowl");
}

#[tokio::test]
async fn a_call_can_be_cancelled_at_every_await() {
    on_each_store(async |store| {
        let pages = pages(&store);
        let policy = ComputePolicy::new(LONG).stale_for(LONG).tags(["a", "b"]);
        // A lock that is left behind blocks the next call for longer than the timeout.
        let policy = policy.once_per_store(LEASE);
        for polls in 0.. {
            let compute = async || {
                settle(&store).await;
                "mug".to_owned()
            };
            let call = pages.get_or_set("/mugs", policy.clone(), compute);
            if run_for(call, polls).await {
                break;
            }
            let compute = async || "bowl".to_owned();
            let next = pages.get_or_set("/mugs", policy.clone(), compute);
            timeout(TIMEOUT, next).await.expect("not blocked").unwrap();
            pages.delete("/mugs").await.unwrap();
            // So that tokens are created too.
            pages.invalidate_tag("a").await.unwrap();
        }
        store.drain().await;
        assert_eq!(store.locks().await.unwrap().len(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_waiter_computes_itself_when_the_wait_is_over() {
    let (pages, stuck) = (pages(&Store::memory()), Gate::new());
    let compute = async || stuck.pass("late".to_owned()).await;
    let mut first = Box::pin(pages.get_or_set("/mugs", LONG, compute));
    assert!(step(&mut first).await.is_none());

    let policy = ComputePolicy::new(LONG).max_wait(Duration::from_secs(5));
    let call = || pages.get_or_set("/mugs", policy.clone(), async || "mug".to_owned());
    let (second, third) = tokio::join!(call(), call());
    assert_eq!(
        (second.unwrap(), third.unwrap()),
        ("mug".to_owned(), "mug".to_owned())
    );
    // The late value does not replace the later one.
    stuck.open();
    assert_eq!(first.await.unwrap(), "late");
    assert_eq!(pages.get("/mugs").await.unwrap().as_deref(), Some("mug"));
}

#[tokio::test]
async fn a_computation_that_asks_for_its_own_value_is_rejected() {
    let pages = pages(&Store::memory());
    let outer = async || {
        let middle = async || {
            let inner = pages.get_or_set("/mugs", LONG, async || not_called().await);
            inner.await.unwrap_err().to_string()
        };
        pages.get_or_set("/bowls", LONG, middle).await.unwrap()
    };
    let page = pages.get_or_set("/mugs", LONG, outer).await.unwrap();
    assert!(page.contains("asks for the same value"), "{page}");
}

#[tokio::test]
async fn a_write_or_a_removal_ends_the_sharing() {
    on_each_store(async |store| {
        let changes = ["set", "set_many", "delete", "delete_many", "clear"];
        for change in changes {
            let (pages, gate) = (pages(&store), Gate::new());
            let first = tokio::spawn({
                let (pages, gate) = (pages.clone(), gate.clone());
                async move {
                    let compute = async || gate.pass("before".to_owned()).await;
                    pages.get_or_set("/mugs", LONG, compute).await.unwrap()
                }
            });
            gate.begun().await;
            let after = "after".to_owned();
            match change {
                "set" => pages.set("/mugs", &after, LONG).await.unwrap(),
                "set_many" => pages.set_many([("/mugs", after)], LONG).await.unwrap(),
                "delete" => drop(pages.delete("/mugs").await.unwrap()),
                "delete_many" => drop(pages.delete_many(["/mugs"]).await.unwrap()),
                _ => drop(pages.clear().await.unwrap()),
            }
            // It does not wait for the first one.
            let policy = ComputePolicy::new(LONG).max_wait(2 * TIMEOUT);
            let second = pages.get_or_set("/mugs", policy, async || "after".to_owned());
            let second = timeout(TIMEOUT, second).await.expect("not shared");
            assert_eq!(second.unwrap(), "after", "{change}");
            gate.open();
            assert_eq!(first.await.unwrap(), "before");
            let page = pages.get("/mugs").await.unwrap();
            assert_eq!(page.as_deref(), Some("after"), "{change}");
            pages.delete("/mugs").await.unwrap();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_computation_longer_than_its_lease_is_kept() {
    let pages = pages(&Store::memory());
    let policy = ComputePolicy::new(LONG).once_per_store(Duration::from_millis(60));
    let compute = async || {
        sleep(Duration::from_secs(20)).await;
        "mug".to_owned()
    };
    pages.get_or_set("/mugs", policy, compute).await.unwrap();
    assert!(pages.get("/mugs").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_computation_that_has_lost_its_lock_is_not_kept() {
    let store = Store::memory();
    let pages = pages(&store);
    let policy = ComputePolicy::new(LONG).once_per_store(Duration::from_secs(3));
    let compute = async || {
        let locks = store.locks().await.unwrap();
        let taken = store.force_release(LockKind::ReadWrite, &locks[0].name, None);
        assert!(taken.await.unwrap());
        sleep(Duration::from_secs(20)).await;
        "mug".to_owned()
    };
    let page = pages.get_or_set("/mugs", policy, compute).await;
    assert_eq!(page.unwrap(), "mug");
    assert_eq!(pages.get("/mugs").await.unwrap(), None);
}

#[tokio::test]
async fn invalid_calls_are_rejected() {
    on_each_store(async |store| {
        let pages = pages(&store);
        let long_key = vec![b'x'; 100_000];
        let policy = || ComputePolicy::new(LONG);
        let calls = [
            (&b""[..], policy()),
            (&long_key, policy()),
            (b"a", Duration::ZERO.into()),
            (b"a", policy().once_per_store(Duration::ZERO)),
            (b"a", policy().tags([""])),
        ];
        for (key, policy) in calls {
            let call = pages.get_or_try_set(key, policy, async || not_called_either().await);
            match call.await {
                Err(ComputeError::Invalid(error)) => assert!(error.is_invalid(), "{error}"),
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_value_that_cannot_be_encoded_is_rejected_for_all() {
    // JSON has no keys that are lists.
    type Odd = std::collections::BTreeMap<Vec<u8>, u8>;
    let odd: Cache<Odd> = Store::memory().cache("odd");
    let gate = Gate::new();
    let compute = async || gate.pass(Odd::from([(vec![1], 1)])).await;
    let mut first = Box::pin(odd.get_or_set("a", LONG, compute));
    assert!(step(&mut first).await.is_none());
    let mut second = Box::pin(odd.get_or_set("a", LONG, async || not_called().await));
    assert!(step(&mut second).await.is_none());
    gate.open();
    assert!(first.await.unwrap_err().is_invalid());
    assert!(second.await.unwrap_err().is_invalid());
}

#[tokio::test]
async fn a_value_that_is_too_large_is_returned_and_not_written() {
    on_each_store(async |store| {
        let pages = pages(&store).max_value_bytes(10);
        let page = pages
            .get_or_set("/mugs", LONG, async || "x".repeat(11))
            .await;
        assert_eq!(page.unwrap().len(), 11);
        assert_eq!(pages.get("/mugs").await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn a_waiter_with_another_codec_computes_itself() {
    let (store, gate) = (Store::memory(), Gate::new());
    let numbers = store.cache::<i64>("pages").codec(Integer);
    let compute = async || gate.pass("mug".to_owned()).await;
    let texts = store.cache("pages").codec(Raw);
    let mut first = Box::pin(texts.get_or_set("/mugs", LONG, compute));
    assert!(step(&mut first).await.is_none());
    let compute = async || Ok::<_, Infallible>(7);
    let mut second = Box::pin(numbers.get_or_try_set("/mugs", LONG, compute));
    assert!(step(&mut second).await.is_none());
    gate.open();
    assert_eq!(first.await.unwrap(), "mug");
    assert_eq!(second.await.unwrap(), 7);
}
