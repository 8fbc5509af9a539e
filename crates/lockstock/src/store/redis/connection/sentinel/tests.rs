use std::time::Duration;

use lockstock_testkit::Sentinel;
use tokio::time::Instant;

use crate::store::redis::connection::tests::{End, PATIENCE, broken};

/// Longer than a failover takes here, and much shorter than the sentinels' own timeouts.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_master_is_left_for_the_one_that_replaces_it() {
    let sentinel = Sentinel::start();
    let end = End::at(&sentinel.url()).await;
    end.hears("k").await;
    let breaks = end.wakes.disconnects();
    let old = sentinel.master();
    sentinel.kill_master();
    broken(&end, breaks).await;
    let begun = Instant::now();
    // Whoever asks meanwhile hears that it is down.
    let error = end.count("k").await.err().expect("no master yet");
    assert!(error.is_unavailable(), "{error}");
    end.count_at_last("k").await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let new = sentinel.await_failover(old);
    assert_eq!(sentinel.node(new).command(&["EXISTS", "k"]), Ok("1".into()));
    end.hears("k").await;

    // It comes back as a master of its own, until a sentinel tells it.
    sentinel.restart(old);
    for _ in 0..20 {
        end.count("here").await.unwrap();
    }
    sentinel.await_replica(old);
    assert_eq!(
        sentinel.node(new).command(&["GET", "here"]),
        Ok("20".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_stands_still_is_left_although_nobody_asks() {
    let sentinel = Sentinel::start();
    let end = End::at(&sentinel.url()).await;
    end.hears("k").await;
    sentinel.await_copied();
    let breaks = end.wakes.disconnects();
    let old = sentinel.master();
    sentinel.pause_master();
    // Its connections do not break: a sentinel says so.
    broken(&end, breaks).await;
    let new = sentinel.await_failover(old);
    end.hears("k").await;
    sentinel.node(old).resume();
    sentinel.await_replica(old);
    end.hears("k").await;
    let counted = sentinel.node(new).command(&["GET", "k"]).unwrap();
    assert!(counted.parse::<u64>().unwrap() >= 3, "{counted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_becomes_a_replica_is_never_taken_for_busy() {
    let sentinel = Sentinel::start();
    let end = End::at(&sentinel.url()).await;
    for round in 0..2 {
        let begun = Instant::now();
        let old = sentinel.master();
        let new = sentinel.fail_over();
        sentinel.await_replica(old);
        let counted = end.count_at_last("k").await;
        assert!(begun.elapsed() < PATIENCE, "{round}");
        assert_eq!(
            sentinel.node(new).command(&["GET", "k"]),
            Ok(counted.to_string())
        );
        end.hears("k").await;
    }
}

#[tokio::test]
async fn any_sentinel_will_do_and_a_wrong_one_is_told() {
    let sentinel = Sentinel::start_with(&["--requirepass", "s3cret"]);
    let url = sentinel.url().replace("://", "://default:s3cret@");
    let end = End::at(&url).await;
    end.hears("k").await;
    sentinel.kill_sentinel(0);
    sentinel.kill_sentinel(2);
    End::at(&url).await.hears("k").await;

    let error = |result: crate::Result<End>| result.err().expect("refused").to_string();
    let why = error(End::try_at(&url.replace("/shop/", "/other/")).await);
    assert!(why.contains("'other'"), "{why}");
    let why = error(End::try_at(&url.replace("s3cret", "hunter2")).await);
    assert!(
        why.contains("WRONGPASS") && !why.contains("hunter2"),
        "{why}"
    );
    let master = sentinel.nodes()[0].address();
    let why = error(End::try_at(&format!("redis+sentinel://{master}/shop")).await);
    assert!(
        why.contains("NOAUTH") || why.contains("unknown command"),
        "{why}"
    );
}
