//! `Sentinel` against real servers.

use lockstock_testkit::Sentinel;
use std::time::Instant;

#[test]
fn a_killed_master_is_replaced_and_comes_back_as_a_replica() {
    let begun = Instant::now();
    let sentinel = Sentinel::start();
    println!("up in {:?}", begun.elapsed());
    assert!(sentinel.url().ends_with("/shop/0"));
    assert_eq!(sentinel.sentinels().len(), 3);
    let old = sentinel.master();
    assert_eq!(old, sentinel.nodes()[0].address());
    sentinel.command(&["SET", "k", "v"]).unwrap();
    sentinel.await_copied();

    let begun = Instant::now();
    sentinel.kill_master();
    let new = sentinel.await_failover(old);
    println!("failed over in {:?}", begun.elapsed());
    assert_ne!(new, old);
    assert_eq!(sentinel.master(), new);
    assert_eq!(sentinel.command(&["GET", "k"]), Ok("v".into()));

    let begun = Instant::now();
    sentinel.restart(old);
    sentinel.await_replica(old);
    println!("back as a replica in {:?}", begun.elapsed());
    let refused = sentinel.node(old).command(&["SET", "k", "w"]).unwrap_err();
    assert!(refused.starts_with("READONLY"), "{refused}");
    assert_eq!(sentinel.master(), new);
}

#[test]
fn a_resumed_master_becomes_a_replica() {
    let sentinel = Sentinel::start();
    let old = sentinel.master();
    sentinel.pause_master();
    let new = sentinel.await_failover(old);
    sentinel.node(old).resume();
    sentinel.await_replica(old);
    assert_eq!(sentinel.master(), new);
}

#[test]
fn a_failover_can_be_asked_for_and_two_sentinels_are_enough() {
    let sentinel = Sentinel::start_with(&["--requirepass", "s3cret"]);
    let old = sentinel.master();
    let new = sentinel.fail_over();
    assert_ne!(new, old);
    sentinel.await_replica(old);
    sentinel.kill_sentinel(0);
    sentinel.kill_master();
    assert_eq!(sentinel.await_failover(new), old);
    assert_eq!(sentinel.command(&["PING"]), Ok("PONG".into()));
}
