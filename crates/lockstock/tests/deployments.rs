//! Locks and values in each deployment: behind sentinels, in a Cluster, through TLS, as a user with few
//! rights, on Valkey.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod harness;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use harness::{LEASE, TIMEOUT, busy, connect, got, held, lock, queued, settle, waiting};
use lockstock::{Acquired, Busy, Guard, Integer, Lock, LockKind, Raw, Store, Ttl};
use lockstock_testkit::{Authority, Cluster, Proxy, Redis, Sentinel};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// The rights that docs/operations.md lists for a user that locks.
const RIGHTS: &str = include_str!("../../../docs/acl.txt");

/// The lease of a grant that is lost with its master, long enough for a release before.
const LOST: Duration = Duration::from_secs(3);

/// Acquires the lock as soon as the store is available.
async fn held_at_last(lock: &Lock) -> Guard {
    let begun = Instant::now();
    loop {
        match lock.acquire_within(TIMEOUT).await {
            Ok(Acquired::Held(guard)) => return guard,
            Ok(Acquired::Busy(busy)) => panic!("{busy:?}"),
            Err(error) => {
                assert!(error.is_unavailable(), "{error}");
                assert!(begun.elapsed() < TIMEOUT, "{error}");
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_locks_work_again_and_fences_do_not_decrease() {
    let sentinel = Sentinel::start();
    let store = Store::connect(&sentinel.url()).await.unwrap();
    let (hot, short) = (lock(&store, "hot", LEASE), lock(&store, "hot", LOST));
    let mut last = 0;
    for _ in 0..20 {
        let guard = held(&hot).await;
        last = guard.fence();
        guard.release().await.unwrap();
    }
    let other = Store::connect(&sentinel.url()).await.unwrap();
    let guard = held(&short).await;
    last = last.max(guard.fence());
    let waiter = tokio::spawn({
        let hot = lock(&other, "hot", LEASE);
        async move { held_at_last(&hot).await }
    });
    queued(&other, 1).await;
    let old = sentinel.master();
    sentinel.kill_master();
    // No server is there to release it on.
    drop(guard);
    sentinel.await_failover(old);
    let next = timeout(TIMEOUT, waiter).await.expect("recovers").unwrap();
    assert!(next.fence() > last, "{} after {last}", next.fence());
    last = next.fence();
    busy(&hot).await;
    next.release().await.unwrap();
    // Notified by push: the subscription moved to the new master as well.
    let guard = held_at_last(&hot).await;
    let waiter = waiting(&lock(&other, "hot", LEASE));
    queued(&other, 1).await;
    guard.release().await.unwrap();
    let next = got(waiter).await;
    assert!(next.fence() > last);
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_master_is_replaced() {
    let sentinel = Sentinel::start();
    let store = Store::connect(&sentinel.url()).await.unwrap();
    let hot = lock(&store, "hot", LOST);
    held(&hot).await.release().await.unwrap();
    let old = sentinel.master();
    sentinel.pause_master();
    sentinel.await_failover(old);
    held_at_last(&hot).await.release().await.unwrap();
    sentinel.node(old).resume();
    for _ in 0..20 {
        held_at_last(&hot).await.release().await.unwrap();
    }
}

/// Tasks of several processes that hold each of `names` in turn until they are stopped. They
/// fail if two hold a name at once or its fences do not rise, and ignore an unavailable store.
struct Crowd {
    stop: Arc<AtomicBool>,
    held: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

impl Crowd {
    fn gather(stores: &[Store], names: &'static [&'static str]) -> Self {
        let inside: Arc<Vec<AtomicI64>> =
            Arc::new(names.iter().map(|_| AtomicI64::new(0)).collect());
        let fences: Arc<Vec<AtomicU64>> =
            Arc::new(names.iter().map(|_| AtomicU64::new(0)).collect());
        let (stop, held) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let mut tasks = JoinSet::new();
        for task in 0..stores.len() * 4 {
            let store = stores[task % stores.len()].clone();
            let (inside, fences) = (inside.clone(), fences.clone());
            let (stop, held) = (stop.clone(), held.clone());
            tasks.spawn(async move {
                let mut n = task;
                while !stop.load(Ordering::Relaxed) {
                    n = (n + 1) % names.len();
                    let Ok(guard) = lock(&store, names[n], LEASE).acquire().await else {
                        sleep(Duration::from_millis(5)).await;
                        continue;
                    };
                    assert_eq!(inside[n].fetch_add(1, Ordering::SeqCst), 0, "two at once");
                    let fence = guard.fence();
                    assert!(
                        fences[n].swap(fence, Ordering::SeqCst) < fence,
                        "fences rise"
                    );
                    tokio::task::yield_now().await;
                    inside[n].fetch_sub(1, Ordering::SeqCst);
                    held.fetch_add(1, Ordering::Relaxed);
                    // If the store is unavailable, the release continues in the background.
                    let _ = guard.release().await;
                }
            });
        }
        Self { stop, held, tasks }
    }

    /// Waits for `more` further grants.
    async fn progresses(&self, more: u64) {
        let (begun, goal) = (Instant::now(), self.held.load(Ordering::Relaxed) + more);
        while self.held.load(Ordering::Relaxed) < goal {
            assert!(begun.elapsed() < TIMEOUT, "no progress");
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        timeout(TIMEOUT, self.tasks.join_all())
            .await
            .expect("all tasks end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_stay_exclusive_while_slots_move_under_load() {
    const NAMES: &[&str] = &["product-1", "cart:{7}", "}odd{", "{}", "product-2"];
    let cluster = Cluster::start();
    let mut stores = Vec::new();
    for _ in 0..3 {
        stores.push(connect(&cluster.url()).await);
    }
    let crowd = Crowd::gather(&stores, NAMES);
    crowd.progresses(100).await;
    for name in ["product-1", "7", "product-2", "product-1"] {
        let from = cluster.owner(name);
        let mut others = cluster.masters().into_iter();
        let to = others.find(|&master| master != from).unwrap();
        cluster.move_slot(Cluster::slot(name), to);
        crowd.progresses(100).await;
    }
    crowd.stop().await;
    for store in &stores {
        store.drain().await;
    }
    for name in NAMES {
        held(&lock(&stores[0], name, LEASE))
            .await
            .release()
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_of_a_cluster_are_notified_in_order() {
    let cluster = Cluster::start();
    for name in ["hot", "cart:{7}", "}odd{"] {
        let mut stores = Vec::new();
        for _ in 0..4 {
            stores.push(connect(&cluster.url()).await);
        }
        let guard = held(&lock(&stores[0], name, LEASE)).await;
        let mut waiters = Vec::new();
        for (n, store) in stores[1..].iter().enumerate() {
            waiters.push(waiting(&lock(store, name, LEASE)));
            queued(store, n + 1).await;
        }
        guard.release().await.unwrap();
        for waiter in waiters {
            // Long before the lease ends: only a notification wakes a waiter here.
            got(waiter).await.release().await.unwrap();
        }
    }
}

/// Uses every operation of a lock, of the cache and of a topic.
async fn everything(url: &str) {
    let (here, there) = (connect(url).await, connect(url).await);
    here.ping().await.unwrap();
    let guard = held(&lock(&here, "shop:a", LEASE)).await;
    let waiter = waiting(&lock(&there, "shop:a", LEASE));
    settle(&there).await;
    guard.extend(LEASE).await.unwrap();
    guard.renew().await.unwrap();
    guard.release().await.unwrap();
    let guard = got(waiter).await;
    let waiter = tokio::spawn({
        let lock = lock(&here, "shop:a", LEASE);
        async move { lock.acquire_within(LEASE / 2).await.unwrap() }
    });
    settle(&here).await;
    guard.keep().await.unwrap();
    assert!(matches!(waiter.await.unwrap(), Acquired::Busy(busy) if busy.is_kept()));
    let permits = here.semaphore("shop:s", 2).lease(LEASE).unwrap();
    let (one, two) = (held(&permits).await, held(&permits).await);
    busy(&permits).await;
    one.release().await.unwrap();
    drop(two);
    let (read, write) = (here.read_lock("shop:rw"), there.write_lock("shop:rw"));
    let reader = held(&read.lease(LEASE).unwrap()).await;
    let writer = waiting(&write.lease(LEASE).unwrap());
    settle(&there).await;
    reader.release().await.unwrap();
    got(writer).await.release().await.unwrap();
    let cart = here.lock_all(["shop:x", "shop:y"]).lease(LEASE).unwrap();
    cart.acquire().await.unwrap().release().await.unwrap();
    let mut messages = there.subscribe("board").await.unwrap();
    assert_eq!(here.publish("board", b"news").await.unwrap(), 1);
    let message = timeout(TIMEOUT, messages.next()).await.expect("a message");
    assert_eq!(message.as_deref(), Some(&b"news"[..]));
    every_call_of_the_cache(&here).await;
    here.drain().await;
}

async fn every_call_of_the_cache(store: &Store) {
    let values = store.cache("shop").codec(Integer);
    values.set("a", &1, LEASE).await.unwrap();
    assert!(!values.add("a", &2, LEASE).await.unwrap());
    assert!(values.replace("a", &3, LEASE).await.unwrap());
    assert_eq!(values.incr("a", 1, LEASE).await.unwrap(), 4);
    assert_eq!(values.decr("b", 1, LEASE).await.unwrap(), -1);
    assert_eq!(values.get("a").await.unwrap(), Some(4));
    assert!(values.contains("a").await.unwrap());
    assert!(values.touch("a", LEASE).await.unwrap());
    assert!(values.persist("a").await.unwrap());
    assert_eq!(values.ttl("a").await.unwrap(), Some(Ttl::Never));
    assert!(values.delete("a").await.unwrap());
    values.set_many([("a", 1), ("c", 2)], LEASE).await.unwrap();
    let read = values.get_many(["a", "b", "d"]).await.unwrap();
    assert_eq!(read, [Some(1), Some(-1), None]);
    assert_eq!(values.delete_many(["a", "d"]).await.unwrap(), 1);
    assert!(values.keys("?").unwrap().next().await.unwrap().is_some());
    assert_eq!(values.clear().await.unwrap(), 2);
    let error = {
        let text = store.cache::<String>("shop").codec(Raw);
        text.set("a", &"1.0".to_owned(), LEASE).await.unwrap();
        values.incr("a", 1, LEASE).await.unwrap_err()
    };
    assert!(error.is_malformed(), "{error}");
    values.clear().await.unwrap();
}

#[tokio::test]
async fn a_user_with_the_documented_rights_can_lock_and_cache() {
    let rights = RIGHTS.split_whitespace().collect::<Vec<_>>();
    let mut user = vec!["--user", "locks", "on", ">pw", "~shop:*"];
    user.extend(rights);
    let redis = Redis::start_with(&user);
    everything(&redis.url_as("locks", "pw")).await;
    let (store, admin) = (
        connect(&redis.url_as("locks", "pw")).await,
        connect(&redis.url()).await,
    );
    let error = lock(&store, "other", LEASE)
        .try_acquire()
        .await
        .unwrap_err();
    assert!(
        error.is_unavailable() && error.to_string().contains("NOPERM"),
        "{error}"
    );
    // Keys that the user may not read hide no other lock: values and locks of other applications.
    redis.command(&["FLUSHALL"]).unwrap();
    redis.command(&["SET", "session:1", "theirs"]).unwrap();
    let foreign = held(&lock(&admin, "theirs", LEASE)).await;
    let waiter = waiting(&lock(&admin, "theirs", LEASE));
    let permit = held(&store.semaphore("shop:s", 2).lease(LEASE).unwrap()).await;
    let guard = held(&lock(&store, "shop:a", LEASE)).await;
    let locks = store.locks().await.unwrap();
    let names = locks.iter().map(|lock| (lock.kind, &lock.name[..]));
    let visible = [
        (LockKind::Lock, &b"shop:a"[..]),
        (LockKind::Semaphore, b"shop:s"),
    ];
    assert_eq!(names.collect::<Vec<_>>(), visible);
    let listed = store.lock_info(LockKind::Lock, "shop:a").await.unwrap();
    assert_eq!(listed.unwrap().holders[0].fence, Some(guard.fence()));
    let error = store.lock_info(LockKind::Lock, "theirs").await.unwrap_err();
    assert!(error.to_string().contains("NOPERM"), "{error}");
    for (kind, name) in visible {
        assert!(store.force_release(kind, name, None).await.unwrap());
    }
    assert!(permit.release().await.unwrap_err().is_lost());
    assert!(guard.release().await.unwrap_err().is_lost());
    foreign.release().await.unwrap();
    got(waiter).await.release().await.unwrap();
}

#[tokio::test]
async fn a_user_without_the_right_to_list_gets_an_error() {
    let rights = RIGHTS
        .split_whitespace()
        .filter(|&right| right != "+getrange");
    let mut user = vec!["--user", "locks", "on", ">pw", "~shop:*"];
    user.extend(rights);
    let redis = Redis::start_with(&user);
    let store = connect(&redis.url_as("locks", "pw")).await;
    redis.command(&["SET", "shop:a", "a value"]).unwrap();
    // Not an empty list.
    let error = store.locks().await.unwrap_err().to_string();
    assert!(
        error.contains("NOPERM") && error.contains("getrange"),
        "{error}"
    );
}

#[tokio::test]
async fn through_tls() {
    let authority = Authority::new();
    let redis = Redis::start_tls(&authority.issue(&["localhost"]));
    let url = format!(
        "{}?ssl_ca_certs={}",
        redis.url(),
        authority.file().display()
    );
    everything(&url).await;
}

#[tokio::test]
async fn with_credentials_and_certificates_from_memory() {
    let (authority, other) = (Authority::new(), Authority::new());
    let redis = Redis::start_tls(&authority.issue(&["localhost"]));
    let client = authority.issue(&["client"]);
    let read = |path: &Path| std::fs::read(path).unwrap();
    let certify = ["CONFIG", "SET", "tls-auth-clients", "yes"];
    redis.command(&certify).unwrap();
    let password = "p%40/?#@ss";
    let user = [
        "ACL",
        "SETUSER",
        "locks",
        "on",
        &format!(">{password}"),
        "~*",
        "&*",
        "+@all",
    ];
    redis.command(&user).unwrap();

    let builder = || {
        let url = redis.url().replace("rediss://", "rediss://other:wrong@");
        Store::builder(url)
            .timeout(TIMEOUT)
            .credentials("locks", password)
    };
    let trusting = || builder().ca_certificates(read(authority.file()));
    let store = trusting().client_certificate(read(client.file()), read(client.key_file()));
    assert!(!format!("{store:?}").contains("wrong"), "{store:?}");
    let store = store.connect().await.unwrap();
    let guard = held(&lock(&store, "a", LEASE)).await;
    guard.release().await.unwrap();

    let anonymous = trusting().connect().await.unwrap_err();
    assert!(anonymous.is_unavailable(), "{anonymous}");
    let distrustful = builder().ca_certificates(read(other.file()));
    assert!(distrustful.connect().await.unwrap_err().is_unavailable());
    let malformed = builder().client_certificate("no certificate", "no key");
    assert!(malformed.open().unwrap_err().is_invalid());
    let plain = Store::builder("redis://localhost").ca_certificates(read(authority.file()));
    assert!(plain.open().unwrap_err().is_invalid());
}

/// Of an asynchronous and of a blocking store.
#[tokio::test]
async fn an_error_of_tls_contains_the_next_step() {
    let (authority, other) = (Authority::new(), Authority::new());
    let redis = Redis::start_tls(&authority.issue(&["localhost"]));
    let misnamed = Redis::start_tls(&authority.issue(&["elsewhere"]));
    let expired = Redis::start_tls(&authority.issue_expired(&["localhost"]));
    let strict = Redis::start_tls(&authority.issue(&["localhost"]));
    let certify = ["CONFIG", "SET", "tls-auth-clients", "yes"];
    strict.command(&certify).unwrap();
    let trusts = |authority: &Authority| format!("?ssl_ca_certs={}", authority.file().display());
    for (url, advice) in [
        (redis.url() + &trusts(&other), "ssl_ca_certs"),
        (misnamed.url() + &trusts(&authority), "the name in the URL"),
        (expired.url() + &trusts(&authority), "has expired"),
        (strict.url() + &trusts(&authority), "client_certificate"),
        (redis.url().replace("rediss://", "redis://"), "rediss://"),
    ] {
        let builder = || Store::builder(&url).timeout(TIMEOUT);
        let error = builder().connect().await.unwrap_err().to_string();
        assert!(error.contains(advice), "{url}: {error}");
        let blocking = lockstock::blocking::Store::builder(&url).timeout(TIMEOUT);
        let blocking = blocking.open().unwrap();
        let get = move || blocking.cache::<String>("shop").get("a");
        let read = tokio::task::spawn_blocking(get).await.unwrap();
        let error = read.unwrap_err().to_string();
        assert!(error.contains(advice), "{url}: {error}");
    }
}

#[tokio::test]
async fn on_valkey() {
    if let Some(valkey) = Redis::start_valkey() {
        everything(&valkey.url()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_and_behind_sentinels() {
    everything(&Cluster::start().url()).await;
    everything(&Sentinel::start().url()).await;
}

/// Opens a store at `url`, which nothing serves before `appear` is called, and locks.
async fn opens_early(url: &str, appear: impl AsyncFnOnce()) {
    let store = Store::open(url).unwrap();
    let early = lock(&store, "early", LEASE);
    for _ in 0..2 {
        assert!(early.try_acquire().await.unwrap_err().is_unavailable());
        assert!(early.acquire().await.unwrap_err().is_unavailable());
        assert!(store.locks().await.unwrap_err().is_unavailable());
        assert!(store.ping().await.unwrap_err().is_unavailable());
    }
    appear().await;
    let guard = held_at_last(&early).await;
    let other = Store::open(url).unwrap();
    let waiter = waiting(&lock(&other, "early", LEASE));
    queued(&store, 1).await;
    guard.release().await.unwrap();
    got(waiter).await.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_opens_before_its_servers_are_up() {
    let redis = Redis::start();
    redis.kill();
    opens_early(&redis.url(), async || redis.restart()).await;

    // The first address is one that the client finds the others by.
    let sentinel = Sentinel::start();
    let proxy = Proxy::start(sentinel.sentinels()[0]);
    proxy.cut();
    let url = format!("redis+sentinel://{}/shop/0", proxy.address());
    opens_early(&url, async || proxy.pass()).await;

    let cluster = Cluster::start();
    let proxy = Proxy::start(cluster.masters()[0]);
    proxy.cut();
    let url = format!("redis+cluster://{}", proxy.address());
    opens_early(&url, async || proxy.pass()).await;
}

#[tokio::test]
async fn a_url_that_is_not_that_of_a_store_is_rejected_at_once() {
    for url in [
        "http://127.0.0.1",
        "127.0.0.1:6379",
        "redis://",
        "redis+sentinel://127.0.0.1:1",
    ] {
        assert!(Store::open(url).unwrap_err().is_invalid(), "{url}");
    }
    assert!(Store::open("memory://").is_ok());
}

/// Returns the busy outcome of a request that waits.
async fn busy_after(lock: &Lock, wait: Duration) -> Busy {
    match lock.acquire_within(wait).await.unwrap() {
        Acquired::Held(guard) => panic!("{guard:?}"),
        Acquired::Busy(busy) => busy,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_without_an_expiry_has_no_retry_after_on_any_path() {
    let wait = Duration::from_millis(50);
    let (redis, cluster) = (Redis::start(), Cluster::start());
    redis.command(&["SET", "forever", "theirs"]).unwrap();
    let set = cluster.command("forever", &["SET", "forever", "theirs"]);
    set.unwrap();
    for url in [redis.url(), cluster.url()] {
        let (here, there) = (connect(&url).await, connect(&url).await);
        let lock = |store: &Store| lock(store, "forever", LEASE);
        let (one, behind, other) = (lock(&here), lock(&here), lock(&there));
        // At once, as a waiter in the queue, as a local waiter, and behind another waiter.
        let outcomes = tokio::join!(
            busy(&one),
            busy_after(&one, wait),
            busy_after(&behind, wait),
            busy_after(&other, wait),
        );
        let (a, b, c, d) = outcomes;
        for busy in [a, b, c, d] {
            assert!(!busy.is_kept());
            assert_eq!(busy.retry_after(), None);
        }
        let several = here.lock_all(["forever", "free"]).lease(LEASE).unwrap();
        let Acquired::Busy(busy) = several.acquire_within(wait).await.unwrap() else {
            panic!("it is taken")
        };
        assert_eq!(busy.retry_after(), None);
    }
}
