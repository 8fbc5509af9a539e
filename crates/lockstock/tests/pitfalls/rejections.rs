//! Trap 10: what Redis answers when it will not. Each time for real: an error that says so in
//! the server's own word, never "busy" and never "granted"; and when the server is willing
//! again, the same store is, too.

use std::time::Duration;

use lockstock::{Acquired, Error, Lock, Store};
use lockstock_testkit::Redis;
use tokio::time::{Instant, sleep};

use super::{LEASE, PATIENCE, connect, connect_far, held, until};

fn free(store: &Store) -> Lock {
    store.lock("free").lease(LEASE).unwrap()
}

/// Panics unless it says that the store is unavailable, and why.
#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Error>, word: &str) {
    let error = answer.expect_err(word);
    assert!(error.is_unavailable(), "{error:?}");
    let said = error.to_string();
    assert!(said.to_uppercase().contains(word), "{said}");
}

/// Neither by a try nor by a wait.
async fn is_refused(lock: &Lock, word: &str) {
    refused(lock.try_acquire().await, word);
    refused(lock.acquire_within(PATIENCE).await, word);
    refused(lock.acquire().await, word);
}

/// Works again, by itself and soon: the connection may have to be made anew.
async fn works_again(store: &Store) {
    let begun = Instant::now();
    while let Err(error) = store.ping().await {
        assert!(begun.elapsed() < PATIENCE, "still {error}");
        sleep(Duration::from_millis(5)).await;
    }
    for lock in [free(store), store.lock("other").lease(LEASE).unwrap()] {
        // What was refused may be given back only now.
        match lock.acquire_within(PATIENCE).await.unwrap() {
            Acquired::Held(guard) => guard.release().await.unwrap(),
            Acquired::Busy(busy) => panic!("{busy:?}"),
        }
    }
}

#[tokio::test]
async fn pitfall_10_scripts_flushed() {
    let redis = Redis::start();
    let (store, other) = (connect(&redis).await, connect(&redis).await);
    // Redis forgets scripts when it likes: nobody notices.
    let forget = || redis.command(&["SCRIPT", "FLUSH"]).unwrap();
    for _ in 0..3 {
        forget();
        let mut guard = held(&free(&store)).await;
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

/// One that serves its replicas at once.
fn master() -> Redis {
    Redis::start_with(&["--repl-diskless-sync-delay", "0"])
}

#[tokio::test]
async fn pitfall_10_readonly() {
    let (master, redis) = (master(), Redis::start());
    let store = connect(&redis).await;
    let guard = held(&store.lock("other").lease(LEASE).unwrap()).await;
    // As after a failover: what was the master is a replica now, and has what the other has.
    let port = master.address().port().to_string();
    redis.command(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
    until("a replica", || {
        let info = redis.command(&["INFO", "replication"]).unwrap();
        info.contains("master_link_status:up")
    })
    .await;
    is_refused(&free(&store), "READONLY").await;
    refused(store.ping().await, "READONLY");
    refused(Store::connect(&redis.url()).await, "READONLY");
    // The master never heard of this lock.
    let given_back = guard.release().await.unwrap_err();
    assert!(
        given_back.is_lost() || given_back.is_unavailable(),
        "{given_back}"
    );
    redis.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    works_again(&store).await;
}

/// What a replica has is what the master had a while ago: nobody knows whether it is still so.
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
    is_refused(&free(&store), "READONLY").await;
    guard.release().await.unwrap();
}

#[tokio::test]
async fn pitfall_10_loading() {
    // A millisecond for each key that it reads, once there are keys to read.
    let slow = [
        "--key-load-delay",
        "1000",
        "--loading-process-events-interval-bytes",
        "1024",
    ];
    let redis = Redis::start_with(&slow);
    let store = connect(&redis).await;
    held(&free(&store)).await.release().await.unwrap();
    let fill = "for i = 1, 3000 do redis.call('SET', 'filler' .. i, string.rep('x', 100)) end";
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
    let mut answers = Vec::new();
    while is_loading() {
        answers.push(free(&store).try_acquire().await);
    }
    // The last one may have come just after it was done.
    answers.pop();
    assert!(!answers.is_empty());
    for answer in answers {
        let error = answer.expect_err("it was loading");
        assert!(error.is_unavailable(), "{error}");
        let said = format!("{error} {error:?}");
        // The first of them finds that the connection is not there any more.
        assert!(said.to_uppercase().contains("LOADING"), "{said}");
    }
    works_again(&store).await;
}

#[tokio::test]
async fn pitfall_10_oom() {
    let redis = Redis::start();
    let store = connect(&redis).await;
    let guard = held(&store.lock("other").lease(LEASE).unwrap()).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    is_refused(&free(&store), "OOM").await;
    refused(store.ping().await, "OOM");
    // Giving back needs no memory.
    guard.release().await.unwrap();
    is_refused(&store.lock("other").lease(LEASE).unwrap(), "OOM").await;
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    works_again(&store).await;
}

#[tokio::test]
async fn pitfall_10_noauth() {
    let locked = Redis::start_with(&["--requirepass", "pw"]);
    refused(Store::connect(&locked.url()).await, "NOAUTH");
    let wrong = format!("redis://:wrong@{}/0", locked.address());
    refused(Store::connect(&wrong).await, "WRONGPASS");
    let right = format!("redis://:pw@{}/0", locked.address());
    let store = Store::connect(&right).await.unwrap();
    works_again(&store).await;

    // A password that comes later is asked for with the next connection.
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
    is_refused(&free(&store), "NOAUTH").await;
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
        // The other has to have heard whose the slots are, or it serves none of its own.
        knows && is_ok(&redis) && is_ok(&other)
    })
    .await;
    // Asked as a server of its own, it serves nothing, and says what would.
    let store = connect(&redis).await;
    is_refused(&free(&store), "CROSSSLOT").await;
    // Whoever knows what it is follows where it points to.
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
