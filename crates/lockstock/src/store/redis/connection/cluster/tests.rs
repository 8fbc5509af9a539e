use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lockstock_testkit::{Cluster, Redis};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Error;
use crate::key::{Keys, LockKind};
use crate::store::redis::connection::tests::{End, LIMIT, PATIENCE, broken};
use crate::token::{ClientId, Token};

/// Longer than a failover takes here.
const SOON: Duration = Duration::from_secs(15);

fn another(cluster: &Cluster, than: SocketAddr) -> SocketAddr {
    let mut masters = cluster.masters().into_iter();
    masters.find(|&master| master != than).unwrap()
}

/// Tells a waiter until it is heard: the slot's channel is being looked for.
async fn hears_at_last(end: &End, key: &str) {
    let begun = Instant::now();
    while end
        .tell(key, Token::random(ClientId::random()))
        .await
        .map(|ran| ran.answer)
        .unwrap_or(0)
        == 0
    {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    }
    end.hears(key).await;
}

async fn refused<T>(result: crate::Result<T>, word: &str) -> Error {
    let error = result.err().expect("refused");
    assert!(error.is_unavailable(), "{error}");
    assert!(error.to_string().contains(word), "{error}");
    error
}

#[tokio::test]
async fn each_slot_has_a_channel_and_all_that_is_said_there_is_heard() {
    let cluster = Cluster::start();
    let end = End::at(&cluster.url()).await;
    for n in 0..50 {
        end.hears(&format!("product-{n}")).await;
    }
    let slot = |end: &End, name: &str| {
        let keys = Keys::of(LockKind::Lock, name.as_bytes()).unwrap();
        end.wire.slot(&keys)
    };
    for (one, other) in [("a", "x{a}y"), ("b{x}", "{x}")] {
        let (here, there) = (slot(&end, one), slot(&end, other));
        assert!(Arc::ptr_eq(&here, &there), "one slot");
        assert_eq!(Cluster::slot(&here.channels), Cluster::slot(one));
        assert_eq!(Cluster::slot(&here.clock), Cluster::slot(one));
        // Another process means the same by it.
        let stranger = End::at(&cluster.url()).await;
        assert_eq!(here.channels, slot(&stranger, one).channels);
    }
}

#[tokio::test]
async fn one_node_of_the_url_is_enough_and_dead_ones_do_no_harm() {
    let cluster = Cluster::start_with(&["--requirepass", "s3cret", "--masterauth", "s3cret"]);
    let nodes = cluster.url();
    let last = nodes.rsplit(',').next().unwrap();
    let url = format!("redis+cluster://default:s3cret@127.0.0.1:1,{last}");
    let end = End::at(&url).await;
    end.hears("a").await;
    end.hears("b").await;
    end.hears("c").await;
    let error = refused(End::try_at(&nodes).await, "NOAUTH").await;
    assert!(!error.to_string().contains("s3cret"));
    let wrong = url.replace("s3cret", "hunter2");
    let error = refused(End::try_at(&wrong).await, "WRONGPASS").await;
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[tokio::test]
async fn who_takes_one_for_the_other_is_told() {
    let redis = Redis::start();
    let url = redis.url().replace("redis://", "redis+cluster://");
    refused(End::try_at(&url).await, "cluster support disabled").await;
    let cluster = Cluster::start();
    let elsewhere = another(&cluster, cluster.owner("k"));
    let end = End::at(&format!("redis://{elsewhere}")).await;
    refused(end.count("k").await, "redis+cluster://").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_slot_has_moved_its_waiters_look_and_hear_again() {
    let cluster = Cluster::start();
    let end = End::at(&cluster.url()).await;
    end.hears("k").await;
    end.hears("other").await;
    for _ in 0..3 {
        // Nobody asks anything while it moves.
        let breaks = end.wakes.disconnects();
        let from = cluster.owner("k");
        cluster.move_slot(Cluster::slot("k"), another(&cluster, from));
        broken(&end, breaks).await;
        end.hears("k").await;
        end.hears("other").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_slots_move_each_answer_goes_to_its_question() {
    let cluster = Cluster::start();
    let end = Arc::new(End::at(&cluster.url()).await);
    let keys: Vec<_> = (0..6).map(|n| format!("product-{n}")).collect();
    let done = Arc::new(AtomicBool::new(false));
    let total = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for (number, key) in keys.iter().cloned().enumerate() {
        let (end, done, total) = (end.clone(), done.clone(), total.clone());
        tasks.spawn(async move {
            let script = "redis.call('INCR', KEYS[1]) return ARGV[1]";
            let (mut round, mut ran) = (0_u64, 0_u64);
            while !done.load(Ordering::SeqCst) {
                let question = format!("{number}:{round}");
                round += 1;
                // What is pushed comes in beside the answers.
                let _ = end
                    .tell(
                        &format!("{{{key}}}:told"),
                        Token::random(ClientId::random()),
                    )
                    .await;
                match end.script::<String>(script, &[&key], &[&question]).await {
                    Ok(answer) => {
                        assert_eq!(answer.answer, question);
                        assert!(!answer.repeated, "nothing broke");
                        ran += 1;
                        total.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            (key, ran)
        });
    }
    for key in keys.iter().cycle().take(12) {
        let to = another(&cluster, cluster.owner(key));
        cluster.move_slot(Cluster::slot(key), to);
        let (begun, before) = (Instant::now(), total.load(Ordering::SeqCst));
        while total.load(Ordering::SeqCst) < before + 30 {
            assert!(begun.elapsed() < PATIENCE, "they stand still");
            sleep(Duration::from_millis(1)).await;
        }
    }
    done.store(true, Ordering::SeqCst);
    while let Some(ended) = tasks.join_next().await {
        let (key, ran) = ended.unwrap();
        // Each exactly once, wherever it was.
        let counted = cluster.command(&key, &["GET", &key]);
        assert_eq!(counted, Ok(ran.to_string()));
        hears_at_last(&end, &key).await;
    }
}

#[tokio::test]
async fn keys_that_have_moved_in_part_are_waited_for() {
    let cluster = Cluster::start();
    let end = End::at(&cluster.url()).await;
    let both = async || {
        let script = "return redis.call('INCR', KEYS[1]) + redis.call('INCR', KEYS[2])";
        end.script::<u64>(script, &["k", "second:{k}"], &[]).await
    };
    assert_eq!(both().await.unwrap().answer, 2);

    let moving = cluster.begin_move(Cluster::slot("k"), another(&cluster, cluster.owner("k")));
    // Here still.
    assert_eq!(both().await.unwrap().answer, 4);
    moving.take(&["k"]);
    // A new key goes to the new place (ASK), where one key alone can be had.
    assert_eq!(end.count("new:{k}").await.unwrap().answer, 1);
    assert_eq!(end.count("k").await.unwrap().answer, 3);
    // Both are nowhere. Bounded, and it says why.
    let begun = Instant::now();
    refused(both().await, "TRYAGAIN").await;
    assert!(begun.elapsed() <= LIMIT + LIMIT / 2);
    // Both are at the new place, which is not the slot's yet.
    moving.take(&["second:{k}"]);
    let ran = both().await.unwrap();
    assert_eq!((ran.answer, ran.repeated), (7, false));
    moving.finish();
    assert_eq!(both().await.unwrap().answer, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_master_is_replaced_and_the_others_go_on() {
    let cluster = Cluster::start();
    let end = End::at(&cluster.url()).await;
    end.hears("k").await;
    let breaks = end.wakes.disconnects();
    let old = cluster.owner("k");
    let mut keys = (0..).map(|n: u32| n.to_string());
    let elsewhere = keys.find(|key| cluster.owner(key) != old).unwrap();
    end.hears(&elsewhere).await;
    cluster.kill(old);
    broken(&end, breaks).await;
    let begun = Instant::now();
    let error = end.count("k").await.err().expect("no master yet");
    assert!(error.is_unavailable(), "{error}");
    end.count_at_last("k").await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    hears_at_last(&end, "k").await;
    // Until the slots are all served again the other masters may answer CLUSTERDOWN as well.
    hears_at_last(&end, &elsewhere).await;
    let new = cluster.await_failover(old);
    cluster.restart(old);
    cluster.await_ok();
    assert_eq!(cluster.owner("k"), new);
    hears_at_last(&end, "k").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_stands_still_is_left_although_nobody_asks() {
    let cluster = Cluster::start();
    let end = End::at(&cluster.url()).await;
    end.hears("k").await;
    let breaks = end.wakes.disconnects();
    let old = cluster.owner("k");
    cluster.node(old).pause();
    let begun = Instant::now();
    broken(&end, breaks).await;
    cluster.await_failover(old);
    end.count_at_last("k").await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    hears_at_last(&end, "k").await;
    cluster.node(old).resume();
    cluster.await_ok();
    hears_at_last(&end, "k").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_a_slot_that_nobody_serves_says_so() {
    let cluster = Cluster::start();
    let end = End::at(&cluster.url()).await;
    end.count("k").await.unwrap();
    let old = cluster.owner("k");
    let place = cluster
        .nodes()
        .iter()
        .position(|node| node.address() == old);
    let replica = cluster.nodes()[place.unwrap() + 3].address();
    let elsewhere = another(&cluster, old);
    let mut keys = (0..).map(|n: u32| n.to_string());
    let there = keys.find(|key| cluster.owner(key) == elsewhere).unwrap();
    cluster.kill(replica);
    cluster.kill(old);
    let begun = Instant::now();
    loop {
        let info = cluster.node(elsewhere).command(&["CLUSTER", "INFO"]);
        if info.unwrap().contains("cluster_state:fail") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    }
    refused(end.count(&there).await, "CLUSTERDOWN").await;
    let error = end.count("k").await.err().expect("nobody is there");
    assert!(error.is_unavailable(), "{error}");
}
