//! Pitfall 10: what Redis replies when it rejects a command. Each error is a real one, names
//! itself in the word of the server, and is never "busy" and never "granted". When the server
//! accepts commands again, the same store works again.

use std::time::Duration;

use lockstock::{Acquired, Error, Lock, Store};
use lockstock_testkit::Redis;
use tokio::time::{Instant, sleep};

use super::harness::{LEASE, TIMEOUT, held, until};
use super::{connect, connect_far};

fn free(store: &Store) -> Lock {
    store.lock("free").lease(LEASE).unwrap()
}

/// Panics unless `result` is an error that reports the store as unavailable, with `word`.
#[track_caller]
fn rejected<T: std::fmt::Debug>(result: Result<T, Error>, word: &str) {
    let error = result.expect_err(word);
    assert!(error.is_unavailable(), "{error:?}");
    let text = error.to_string();
    assert!(text.to_uppercase().contains(word), "{text}");
}

/// Neither a try nor a wait acquires the lock.
async fn is_rejected(lock: &Lock, word: &str) {
    rejected(lock.try_acquire().await, word);
    rejected(lock.acquire_within(TIMEOUT).await, word);
    rejected(lock.acquire().await, word);
}

/// Panics unless the store recovers by itself, with a new connection if it needs one.
async fn works_again(store: &Store) {
    let begun = Instant::now();
    while let Err(error) = store.ping().await {
        assert!(begun.elapsed() < TIMEOUT, "still {error}");
        sleep(Duration::from_millis(5)).await;
    }
    for lock in [free(store), store.lock("other").lease(LEASE).unwrap()] {
        // A rejected release may be carried out only now.
        match lock.acquire_within(TIMEOUT).await.unwrap() {
            Acquired::Held(guard) => guard.release().await.unwrap(),
            Acquired::Busy(busy) => panic!("{busy:?}"),
        }
    }
}

#[tokio::test]
async fn pitfall_10_scripts_flushed() {
    let redis = Redis::start();
    let (store, other) = (connect(&redis).await, connect(&redis).await);
    // Redis may forget its scripts at any time. No caller notices.
    let forget = || redis.command(&["SCRIPT", "FLUSH"]).unwrap();
    for _ in 0..3 {
        forget();
        let guard = held(&free(&store)).await;
        forget();
        guard.renew().await.unwrap();
        let waiting = tokio::spawn({
            let lock = free(&other);
            async move { lock.acquire().await.unwrap() }
        });
        forget();
        guard.extend(LEASE).await.unwrap();
        forget();
        guard.release().await.unwrap();
        forget();
        let next = waiting.await.unwrap();
        forget();
        next.keep().await.unwrap();
        redis.command(&["DEL", "free"]).unwrap();
    }
    forget();
    store.ping().await.unwrap();
}

/// Starts a master that serves a new replica at once.
fn master() -> Redis {
    Redis::start_with(&["--repl-diskless-sync-delay", "0"])
}

#[tokio::test]
async fn pitfall_10_readonly() {
    let (master, redis) = (master(), Redis::start());
    let store = connect(&redis).await;
    let guard = held(&store.lock("other").lease(LEASE).unwrap()).await;
    // As after a failover: the former master is a replica, with the data of the new master.
    let port = master.address().port().to_string();
    redis.command(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
    until("a replica", || {
        let info = redis.command(&["INFO", "replication"]).unwrap();
        info.contains("master_link_status:up")
    })
    .await;
    is_rejected(&free(&store), "READONLY").await;
    rejected(store.ping().await, "READONLY");
    rejected(Store::connect(&redis.url()).await, "READONLY");
    // The master has never known this lock.
    let error = guard.release().await.unwrap_err();
    assert!(error.is_lost() || error.is_unavailable(), "{error}");
    redis.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    works_again(&store).await;
}

/// The copy of a replica is of the past: whether the lock is still held is unknown.
#[tokio::test]
async fn pitfall_10_readonly_replica_that_has_a_copy_of_the_lock() {
    let (master, redis) = (master(), Redis::start());
    let store = connect(&redis).await;
    let port = master.address().port().to_string();
    let holder = connect(&master).await;
    let guard = held(&free(&holder)).await;
    redis.command(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
    until("a copy", || {
        redis.command(&["EXISTS", "free"]) == Ok("1".to_owned())
    })
    .await;
    is_rejected(&free(&store), "READONLY").await;
    guard.release().await.unwrap();
}

#[tokio::test]
async fn pitfall_10_loading() {
    // Reads one key per millisecond, once there are keys to read.
    let slow = [
        "--key-load-delay",
        "1000",
        "--loading-process-events-interval-bytes",
        "1024",
    ];
    let redis = Redis::start_with(&slow);
    let store = connect(&redis).await;
    held(&free(&store)).await.release().await.unwrap();
    let fill = "for i = 1, 2000 do redis.call('SET', 'filler' .. i, string.rep('x', 100)) end";
    redis.command(&["EVAL", fill, "0"]).unwrap();
    redis.command(&["SAVE"]).unwrap();
    redis.restart();
    let is_loading = || {
        redis
            .command(&["INFO", "persistence"])
            .unwrap()
            .contains("\nloading:1")
    };
    assert!(is_loading());
    let mut results = Vec::new();
    while is_loading() {
        results.push(free(&store).try_acquire().await);
    }
    // The last one may have arrived just after the loading ended.
    results.pop();
    assert!(!results.is_empty());
    for result in results {
        let error = result.expect_err("it was loading");
        assert!(error.is_unavailable(), "{error}");
        let text = format!("{error} {error:?}");
        assert!(text.to_uppercase().contains("LOADING"), "{text}");
    }
    works_again(&store).await;
}

#[tokio::test]
async fn pitfall_10_oom() {
    let redis = Redis::start();
    let store = connect(&redis).await;
    let guard = held(&store.lock("other").lease(LEASE).unwrap()).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    is_rejected(&free(&store), "OOM").await;
    rejected(store.ping().await, "OOM");
    // A release needs no memory.
    guard.release().await.unwrap();
    is_rejected(&store.lock("other").lease(LEASE).unwrap(), "OOM").await;
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    works_again(&store).await;
}

#[tokio::test]
async fn pitfall_10_noauth() {
    let locked = Redis::start_with(&["--requirepass", "pw"]);
    rejected(Store::connect(&locked.url()).await, "NOAUTH");
    let wrong = format!("redis://:wrong@{}/0", locked.address());
    rejected(Store::connect(&wrong).await, "WRONGPASS");
    let right = format!("redis://:pw@{}/0", locked.address());
    let store = Store::connect(&right).await.unwrap();
    works_again(&store).await;

    // A password that is set later applies to the next connection.
    let redis = Redis::start();
    let (store, proxy) = connect_far(&redis).await;
    works_again(&store).await;
    let client = redis::Client::open(redis.url()).unwrap();
    let mut admin = client.get_connection().unwrap();
    let mut require = |password: &str| {
        let mut set = redis::cmd("CONFIG");
        let set = set.arg("SET").arg("requirepass").arg(password);
        set.exec(&mut admin).unwrap();
    };
    require("pw");
    proxy.cut();
    proxy.pass();
    is_rejected(&free(&store), "NOAUTH").await;
    require("");
    works_again(&store).await;
}

#[tokio::test]
async fn pitfall_10_moved() {
    let cluster = [
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        "60000",
    ];
    let (redis, other) = (Redis::start_with(&cluster), Redis::start_with(&cluster));
    redis
        .command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"])
        .unwrap();
    let meets = other.address().port().to_string();
    redis
        .command(&["CLUSTER", "MEET", "127.0.0.1", &meets])
        .unwrap();
    let id = other.command(&["CLUSTER", "MYID"]).unwrap();
    let is_ok = |server: &Redis| {
        let info = server.command(&["CLUSTER", "INFO"]).unwrap();
        info.contains("cluster_state:ok")
    };
    until("a cluster", || {
        let knows = redis.command(&["CLUSTER", "NODES"]).unwrap().contains(&id);
        // The other node serves its slots only after it has learned the owners of all.
        knows && is_ok(&redis) && is_ok(&other)
    })
    .await;
    // Opened as a single server, it serves nothing, and the error names the reason.
    let store = connect(&redis).await;
    is_rejected(&free(&store), "CROSSSLOT").await;
    // Opened as a Cluster, the store follows the redirect.
    let store = Store::connect(&format!("redis+cluster://{}", redis.address()))
        .await
        .unwrap();
    let moved = store.lock("moved").lease(LEASE).unwrap();
    held(&moved).await.release().await.unwrap();
    redis.command(&["FLUSHALL"]).unwrap();
    let slot = redis.command(&["CLUSTER", "KEYSLOT", "moved"]).unwrap();
    for server in [&other, &redis] {
        server
            .command(&["CLUSTER", "SETSLOT", &slot, "NODE", &id])
            .unwrap();
    }
    held(&moved).await.release().await.unwrap();
}
