//! `Cluster` against real servers.

use lockstock_testkit::Cluster;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

#[test]
fn three_masters_share_the_slots_and_have_a_replica_each() {
    let begun = Instant::now();
    let cluster = Cluster::start();
    println!("a cluster in {:?}", begun.elapsed());
    assert_eq!(cluster.nodes().len(), 6);
    assert_eq!(cluster.masters().len(), 3);
    assert_eq!(cluster.url().matches("127.0.0.1:").count(), 6);
    for n in 0..30 {
        let key = format!("key-{n}");
        assert_eq!(cluster.command(&key, &["SET", &key, "1"]), Ok("OK".into()));
        let slot = cluster.command(&key, &["CLUSTER", "KEYSLOT", &key]);
        assert_eq!(slot, Ok(Cluster::slot(&key).to_string()));
    }
    let elsewhere = cluster
        .masters()
        .into_iter()
        .find(|&master| master != cluster.owner("key-0"))
        .unwrap();
    let error = cluster.node(elsewhere).command(&["GET", "key-0"]);
    assert!(error.unwrap_err().starts_with("MOVED "));
}

#[test]
fn a_slot_moves_with_its_keys_while_clients_write() {
    let cluster = Cluster::start();
    let slot = Cluster::slot("{t}");
    for n in 0..50 {
        let key = format!("{{t}}{n}");
        cluster.command(&key, &["SET", &key, "0"]).unwrap();
    }
    let done = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0;
            while !done.load(Ordering::SeqCst) {
                // Refused in between, while it is neither here nor there.
                if cluster.command("{t}7", &["INCR", "{t}7"]).is_ok() {
                    written += 1;
                }
            }
            written
        });
        for _ in 0..3 {
            let from = cluster.owner("{t}");
            let mut others = cluster.masters().into_iter().filter(|&at| at != from);
            let to = others.next().unwrap();
            cluster.move_slot(slot, to);
            assert_eq!(cluster.owner("{t}"), to);
        }
        done.store(true, Ordering::SeqCst);
        writer.join().unwrap()
    });
    assert!(written > 0);
    let total = cluster.command("{t}7", &["GET", "{t}7"]);
    assert_eq!(total, Ok(i32::to_string(&written)));
    for n in (0..50).filter(|&n| n != 7) {
        let key = format!("{{t}}{n}");
        assert_eq!(cluster.command(&key, &["GET", &key]), Ok("0".into()));
    }
}

#[test]
fn a_migrating_slot_is_on_two_nodes() {
    let cluster = Cluster::start();
    let (from, slot) = (cluster.owner("{t}"), Cluster::slot("{t}"));
    let to = cluster
        .masters()
        .into_iter()
        .find(|&at| at != from)
        .unwrap();
    for key in ["{t}a", "{t}b"] {
        cluster.command(key, &["SET", key, "1"]).unwrap();
    }
    let moving = cluster.begin_move(slot, to);
    moving.take(&["{t}a"]);
    let (old, new) = (cluster.node(from), cluster.node(to));
    let ask = old.command(&["GET", "{t}a"]).unwrap_err();
    assert_eq!(ask, format!("ASK {slot} {to}"));
    assert_eq!(old.command(&["GET", "{t}b"]), Ok("1".into()));
    let both = old.command(&["MGET", "{t}a", "{t}b"]).unwrap_err();
    assert!(both.starts_with("TRYAGAIN"), "{both}");
    assert!(
        new.command(&["GET", "{t}a"])
            .unwrap_err()
            .starts_with("MOVED")
    );
    moving.finish();
    assert_eq!(new.command(&["MGET", "{t}a", "{t}b"]), Ok("1\n1".into()));
}

#[test]
fn a_master_that_dies_is_replaced_and_comes_back_as_a_replica() {
    let cluster = Cluster::start();
    let old = cluster.owner("k");
    cluster.command("k", &["SET", "k", "v"]).unwrap();
    cluster.await_copied(old);
    cluster.kill(old);
    let new = cluster.await_failover(old);
    assert_eq!(cluster.owner("k"), new);
    assert_eq!(cluster.command("k", &["GET", "k"]), Ok("v".into()));
    assert_eq!(cluster.masters().len(), 3);
    cluster.restart(old);
    cluster.await_ok();
    assert_eq!(cluster.owner("k"), new);
}

#[test]
fn a_frozen_master_is_replaced_too() {
    let cluster = Cluster::start();
    let old = cluster.owner("k");
    cluster.node(old).pause();
    let new = cluster.await_failover(old);
    assert_eq!(cluster.owner("k"), new);
    cluster.node(old).resume();
    cluster.await_ok();
    assert_eq!(cluster.owner("k"), new);
}
