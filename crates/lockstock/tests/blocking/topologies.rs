use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lockstock::Result;
use lockstock_testkit::{Cluster, Proxy, Redis, Sentinel};

use super::harness::TIMEOUT;
use super::open;
use super::values::raw;

const LONG: Duration = Duration::from_secs(3600);

/// Repeats a call while the store is unavailable.
fn at_last<T>(call: impl Fn() -> Result<T>) -> T {
    let begun = Instant::now();
    loop {
        match call() {
            Ok(value) => return value,
            Err(error) => {
                assert!(error.is_unavailable(), "{error}");
                assert!(begun.elapsed() < TIMEOUT, "{error}");
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

#[test]
fn after_a_failover_calls_reach_the_new_master() {
    let sentinel = Sentinel::start();
    let values = raw(&open(&sentinel.url()), "values");
    values.set("a", &"1".into(), LONG).unwrap();
    values.get("a").unwrap();
    let old = sentinel.master();
    sentinel.await_copied();
    sentinel.kill_master();
    let new = sentinel.await_failover(old);
    assert_eq!(at_last(|| values.get("a")).as_deref(), Some(&b"1"[..]));
    at_last(|| values.set("a", &"2".into(), LONG));
    let key = ["GET", "lockstock:cache:values:1:a"];
    assert_eq!(sentinel.node(new).command(&key), Ok("2".to_owned()));
    // The old master comes back as a replica, and another failover follows.
    sentinel.restart(old);
    sentinel.await_replica(old);
    assert_eq!(values.get("a").unwrap().as_deref(), Some(&b"2"[..]));
}

#[test]
fn a_frozen_master_is_replaced() {
    let sentinel = Sentinel::start();
    let store = lockstock::blocking::Store::builder(sentinel.url());
    let store = store.timeout(Duration::from_secs(1)).open().unwrap();
    let values = raw(&store, "values");
    at_last(|| values.set("a", &"1".into(), LONG));
    sentinel.await_copied();
    let old = sentinel.master();
    sentinel.pause_master();
    sentinel.await_failover(old);
    at_last(|| values.set("a", &"2".into(), LONG));
    assert_eq!(at_last(|| values.get("a")).as_deref(), Some(&b"2"[..]));
}

#[test]
fn a_server_that_has_become_a_replica_is_left_for_the_master_of_its_name() {
    let (old, new) = (Redis::start(), Redis::start());
    let proxy = Proxy::start(old.address());
    let values = raw(&open(&format!("redis://{}", proxy.address())), "values");
    values.set("a", &"1".into(), LONG).unwrap();
    let port = new.address().port().to_string();
    old.command(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
    proxy.redirect(new.address());
    values.set("a", &"2".into(), LONG).unwrap();
    let key = ["GET", "lockstock:cache:values:1:a"];
    assert_eq!(new.command(&key), Ok("2".to_owned()));
    assert_eq!(values.get("a").unwrap().as_deref(), Some(&b"2"[..]));
}

#[test]
fn values_are_found_while_and_after_their_slot_moves() {
    let cluster = Cluster::start();
    let values = raw(&open(&cluster.url()), "values");
    values.set("{a}1", &"1".into(), LONG).unwrap();
    values.set("{a}2", &"1".into(), LONG).unwrap();
    values.get("{a}1").unwrap();
    let from = cluster.owner("a");
    let to = cluster.masters().into_iter().find(|&node| node != from);
    let moving = cluster.begin_move(Cluster::slot("a"), to.unwrap());
    moving.take(&["lockstock:cache:values:1:{a}1"]);
    for key in ["{a}1", "{a}2"] {
        assert_eq!(values.get(key).unwrap().as_deref(), Some(&b"1"[..]));
        values.set(key, &"2".into(), LONG).unwrap();
        assert_eq!(values.get(key).unwrap().as_deref(), Some(&b"2"[..]));
    }
    assert_eq!(values.get("{a}3").unwrap(), None);
    moving.finish();
    for key in ["{a}1", "{a}2"] {
        assert_eq!(values.get(key).unwrap().as_deref(), Some(&b"2"[..]));
    }
}

#[test]
fn a_cluster_serves_through_the_failover_of_a_node_and_moving_slots() {
    let cluster = Cluster::start();
    let values = raw(&open(&cluster.url()), "values");
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = |thread: u32| {
            let (values, is_done) = (&values, &is_done);
            move || {
                let mut n = 0_u32;
                while !is_done.load(Ordering::Relaxed) {
                    n += 1;
                    let key = format!("{thread}:{}", n % 50);
                    let value = n.to_string().into();
                    at_last(|| values.set(&key, &value, LONG));
                    // A failover may lose the last writes, never confuse them.
                    let found = at_last(|| values.get(&key));
                    let found = found.map(|found| String::from_utf8(found.to_vec()).unwrap());
                    let found = found.map(|found| found.parse::<u32>().unwrap());
                    assert!(found.is_none_or(|found| found <= n && found % 50 == n % 50));
                }
            }
        };
        for thread in 0..4 {
            scope.spawn(load(thread));
        }
        // On a panic too: the other threads would never end.
        let _done = Done(&is_done);
        let masters = cluster.masters();
        for n in 0..20 {
            let key = format!("lockstock:cache:values:1:0:{n}");
            let from = cluster.owner(&key);
            let to = masters.iter().find(|&&node| node != from);
            cluster.move_slot(Cluster::slot(&key), *to.unwrap());
        }
        let gone = masters[0];
        cluster.await_copied(gone);
        cluster.kill(gone);
        cluster.await_failover(gone);
    });
}

/// Reports the end of a test to its threads.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
