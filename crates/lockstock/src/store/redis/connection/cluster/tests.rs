use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lockstock_testkit::{Cluster, Redis};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Error;
use crate::key::{Keys, LockKind};
use crate::store::redis::connection::tests::{
    CALL_TIMEOUT, REFUSED, TIMEOUT, TestClient, await_disconnect,
};
use crate::token::{ClientId, Token};

/// Longer than a failover takes here.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(15);

fn other_master(cluster: &Cluster, than: SocketAddr) -> SocketAddr {
    let mut masters = cluster.masters().into_iter();
    masters.find(|&master| master != than).unwrap()
}

/// Asserts that notifications are received, after the subscription has moved with its slot.
async fn assert_notified_eventually(client: &TestClient, key: &str) {
    let begun = Instant::now();
    while client
        .notify(key, Token::random(ClientId::random()))
        .await
        .map(|reply| reply.value)
        .unwrap_or(0)
        == 0
    {
        assert!(begun.elapsed() < TIMEOUT);
        sleep(Duration::from_millis(5)).await;
    }
    client.assert_notified(key).await;
}

async fn assert_rejected<T>(result: crate::Result<T>, word: &str) -> Error {
    let error = result.err().expect("an error");
    assert!(error.is_unavailable(), "{error}");
    assert!(error.to_string().contains(word), "{error}");
    error
}

#[tokio::test]
async fn each_slot_has_a_channel_that_notifies_the_client() {
    let cluster = Cluster::start();
    let client = TestClient::connect(&cluster.url()).await;
    for n in 0..50 {
        client.assert_notified(&format!("product-{n}")).await;
    }
    let slot = |client: &TestClient, name: &str| {
        let keys = Keys::of(LockKind::Lock, name.as_bytes()).unwrap();
        client.connection.slot(&keys)
    };
    for (one, other) in [("a", "x{a}y"), ("b{x}", "{x}")] {
        let (here, there) = (slot(&client, one), slot(&client, other));
        assert!(Arc::ptr_eq(&here, &there), "one slot, one context");
        assert_eq!(Cluster::slot(&here.channels), Cluster::slot(one));
        assert_eq!(Cluster::slot(&here.clock), Cluster::slot(one));
        // Every client uses the same names.
        let other_client = TestClient::connect(&cluster.url()).await;
        assert_eq!(here.channels, slot(&other_client, one).channels);
    }
}

#[tokio::test]
async fn one_live_node_of_the_url_is_enough() {
    let cluster = Cluster::start_with(&["--requirepass", "s3cret", "--masterauth", "s3cret"]);
    let nodes = cluster.url();
    let last = nodes.rsplit(',').next().unwrap();
    let url = format!("redis+cluster://default:s3cret@127.0.0.1:1,{last}");
    let client = TestClient::connect(&url).await;
    client.assert_notified("a").await;
    client.assert_notified("b").await;
    client.assert_notified("c").await;
    let error = assert_rejected(TestClient::try_connect(&nodes).await, "NOAUTH").await;
    assert!(!error.to_string().contains("s3cret"));
    let wrong = url.replace("s3cret", "hunter2");
    let error = assert_rejected(TestClient::try_connect(&wrong).await, "WRONGPASS").await;
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_cluster_url_for_a_single_server_and_vice_versa_is_an_error() {
    let redis = Redis::start();
    let url = redis.url().replace("redis://", "redis+cluster://");
    assert_rejected(
        TestClient::try_connect(&url).await,
        "cluster support disabled",
    )
    .await;
    let cluster = Cluster::start();
    let elsewhere = other_master(&cluster, cluster.owner("k"));
    let client = TestClient::connect(&format!("redis://{elsewhere}")).await;
    assert_rejected(client.increment("k").await, "redis+cluster://").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_slot_has_moved_waiters_are_notified_again() {
    let cluster = Cluster::start();
    let client = TestClient::connect(&cluster.url()).await;
    client.assert_notified("k").await;
    client.assert_notified("other").await;
    for _ in 0..3 {
        // The client is idle while the slot moves.
        let disconnects = client.notifications.disconnects();
        let from = cluster.owner("k");
        cluster.move_slot(Cluster::slot("k"), other_master(&cluster, from));
        await_disconnect(&client, disconnects).await;
        client.assert_notified("k").await;
        client.assert_notified("other").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_slots_move_each_reply_belongs_to_its_call() {
    let cluster = Cluster::start();
    let client = Arc::new(TestClient::connect(&cluster.url()).await);
    let keys: Vec<_> = (0..6).map(|n| format!("product-{n}")).collect();
    let done = Arc::new(AtomicBool::new(false));
    let total = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for (number, key) in keys.iter().cloned().enumerate() {
        let (client, done, total) = (client.clone(), done.clone(), total.clone());
        tasks.spawn(async move {
            let script = "redis.call('INCR', KEYS[1]) return ARGV[1]";
            let (mut round, mut runs) = (0_u64, 0_u64);
            while !done.load(Ordering::SeqCst) {
                let argument = format!("{number}:{round}");
                round += 1;
                // Push messages arrive between the replies.
                let _ = client
                    .notify(
                        &format!("{{{key}}}:notified"),
                        Token::random(ClientId::random()),
                    )
                    .await;
                match client.script::<String>(script, &[&key], &[&argument]).await {
                    Ok(reply) => {
                        assert_eq!(reply.value, argument);
                        assert!(!reply.repeated, "no connection broke");
                        runs += 1;
                        total.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            (key, runs)
        });
    }
    for key in keys.iter().cycle().take(12) {
        let to = other_master(&cluster, cluster.owner(key));
        cluster.move_slot(Cluster::slot(key), to);
        let (begun, before) = (Instant::now(), total.load(Ordering::SeqCst));
        while total.load(Ordering::SeqCst) < before + 30 {
            assert!(begun.elapsed() < TIMEOUT, "no calls succeed");
            sleep(Duration::from_millis(1)).await;
        }
    }
    done.store(true, Ordering::SeqCst);
    while let Some(ended) = tasks.join_next().await {
        let (key, runs) = ended.unwrap();
        // Each call ran exactly once.
        let counted = cluster.command(&key, &["GET", &key]);
        assert_eq!(counted, Ok(runs.to_string()));
        assert_notified_eventually(&client, &key).await;
    }
}

#[tokio::test]
async fn calls_wait_for_keys_that_have_partly_moved() {
    let cluster = Cluster::start();
    let client = TestClient::connect(&cluster.url()).await;
    let both = async || {
        let script = "return redis.call('INCR', KEYS[1]) + redis.call('INCR', KEYS[2])";
        client
            .script::<u64>(script, &["k", "second:{k}"], &[])
            .await
    };
    assert_eq!(both().await.unwrap().value, 2);

    let moving = cluster.begin_move(
        Cluster::slot("k"),
        other_master(&cluster, cluster.owner("k")),
    );
    // Still at the old node.
    assert_eq!(both().await.unwrap().value, 4);
    moving.take(&["k"]);
    // A new key goes to the new node (ASK), which serves single keys.
    assert_eq!(client.increment("new:{k}").await.unwrap().value, 1);
    assert_eq!(client.increment("k").await.unwrap().value, 3);
    // No node has both keys. The call times out, and its error contains the reason.
    let begun = Instant::now();
    assert_rejected(both().await, "TRYAGAIN").await;
    assert!(begun.elapsed() <= CALL_TIMEOUT + CALL_TIMEOUT / 2);
    // Both are at the new node, which does not own the slot yet.
    moving.take(&["second:{k}"]);
    let reply = both().await.unwrap();
    assert_eq!((reply.value, reply.repeated), (7, false));
    moving.finish();
    assert_eq!(both().await.unwrap().value, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_master_dies_the_client_connects_to_its_replica() {
    let cluster = Cluster::start();
    let client = TestClient::connect(&cluster.url()).await;
    client.assert_notified("k").await;
    let disconnects = client.notifications.disconnects();
    let old = cluster.owner("k");
    let mut keys = (0..).map(|n: u32| n.to_string());
    let elsewhere = keys.find(|key| cluster.owner(key) != old).unwrap();
    client.assert_notified(&elsewhere).await;
    cluster.kill(old);
    await_disconnect(&client, disconnects).await;
    let begun = Instant::now();
    let error = client.increment("k").await.err().expect("no master yet");
    assert!(error.is_unavailable(), "{error}");
    client.increment_until_available("k").await;
    assert!(begun.elapsed() < FAILOVER_TIMEOUT, "{:?}", begun.elapsed());
    assert_notified_eventually(&client, "k").await;
    // Until all slots are served again, other masters may return CLUSTERDOWN too.
    assert_notified_eventually(&client, &elsewhere).await;
    let new = cluster.await_failover(old);
    cluster.restart(old);
    cluster.await_ok();
    assert_eq!(cluster.owner("k"), new);
    assert_notified_eventually(&client, "k").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_client_leaves_a_master_that_hangs() {
    let cluster = Cluster::start();
    let client = TestClient::connect(&cluster.url()).await;
    client.assert_notified("k").await;
    let disconnects = client.notifications.disconnects();
    let old = cluster.owner("k");
    cluster.node(old).pause();
    let begun = Instant::now();
    await_disconnect(&client, disconnects).await;
    cluster.await_failover(old);
    client.increment_until_available("k").await;
    assert!(begun.elapsed() < FAILOVER_TIMEOUT, "{:?}", begun.elapsed());
    assert_notified_eventually(&client, "k").await;
    cluster.node(old).resume();
    cluster.await_ok();
    assert_notified_eventually(&client, "k").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_refuses_calls_until_its_replica_takes_over_and_others_are_unaffected() {
    let cluster = Cluster::start();
    let client = Arc::new(TestClient::connect(&cluster.url()).await);
    client.increment("k").await.unwrap();
    let old = cluster.owner("k");
    let mut keys = (0..).map(|n: u32| n.to_string());
    let elsewhere = keys.find(|key| cluster.owner(key) != old).unwrap();
    client.increment(&elsewhere).await.unwrap();
    let before = cluster.command("k", &["GET", "k"]).unwrap();
    assert_eq!(before, "1");
    cluster.node(old).pause();
    let hanging = {
        let client = client.clone();
        tokio::spawn(async move { client.increment_until_available("k").await })
    };
    while !hanging.is_finished() {
        // Until the nodes have agreed about the failover, they may reject calls.
        if let Err(error) = client.increment(&elsewhere).await {
            assert!(!error.to_string().contains(REFUSED), "{error}");
        }
        sleep(Duration::from_millis(5)).await;
    }
    hanging.await.unwrap();
    cluster.await_failover(old);
    cluster.node(old).resume();
    cluster.await_ok();
    client.increment_until_available("k").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_without_a_master_is_an_error() {
    let cluster = Cluster::start();
    let client = TestClient::connect(&cluster.url()).await;
    client.increment("k").await.unwrap();
    let old = cluster.owner("k");
    let index = cluster
        .nodes()
        .iter()
        .position(|node| node.address() == old);
    let replica = cluster.nodes()[index.unwrap() + 3].address();
    let elsewhere = other_master(&cluster, old);
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
        assert!(begun.elapsed() < TIMEOUT);
        sleep(Duration::from_millis(5)).await;
    }
    assert_rejected(client.increment(&there).await, "CLUSTERDOWN").await;
    let error = client
        .increment("k")
        .await
        .err()
        .expect("no master is left");
    assert!(error.is_unavailable(), "{error}");
}
