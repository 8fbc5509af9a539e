//! Waits for locks on connections of their callers.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lockstock::blocking::{Guard, Lock, Store};
use lockstock::{Acquired, LockKind};
use lockstock_testkit::{Authority, Proxy, Redis};

use super::harness::{BRIEF, LEASE, SHORT, TIMEOUT};
use super::open;

fn lock(store: &Store) -> Lock {
    store.lock("report").lease(LEASE).unwrap()
}

fn waiter(lock: &Lock) -> JoinHandle<Guard> {
    let lock = lock.clone();
    thread::spawn(move || {
        let acquired = lock.acquire_within(TIMEOUT).unwrap();
        acquired.held().expect("notified")
    })
}

/// Waits until as many waiters are in Redis' queue.
fn wait_for_waiters(redis: &Redis, count: usize) {
    let gives_up_at = Instant::now() + TIMEOUT;
    let count = count.to_string();
    while redis
        .command(&["ZCARD", "lockstock:{report}:queue"])
        .unwrap()
        != count
    {
        assert!(Instant::now() < gives_up_at, "not {count} waiters");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Returns the number of connections that are subscribed.
fn subscribed(redis: &Redis) -> usize {
    let list = redis.command(&["CLIENT", "LIST", "TYPE", "pubsub"]);
    list.unwrap().lines().count()
}

/// Closes the connection that has been subscribed for the longest time.
fn close_first_subscribed(redis: &Redis) {
    let list = redis.command(&["CLIENT", "LIST", "TYPE", "pubsub"]);
    let list = list.unwrap();
    let id = list.split_whitespace().next().unwrap();
    let id = id.strip_prefix("id=").unwrap();
    redis.command(&["CLIENT", "KILL", "ID", id]).unwrap();
}

#[test]
fn waiters_of_several_clients_are_served_in_their_order() {
    let redis = Redis::start();
    let guard = lock(&open(&redis.url())).acquire().unwrap();
    let mut fence = guard.fence();
    let waiters: Vec<_> = (1..=5)
        .map(|count| {
            let store = open(&redis.url());
            let waiter = waiter(&lock(&store));
            wait_for_waiters(&redis, count);
            (store, waiter)
        })
        .collect();
    // Each on a connection of its own, under the name of its client.
    assert_eq!(subscribed(&redis), 5);
    let info = open(&redis.url()).lock_info(LockKind::Lock, "report");
    let listed = info.unwrap().unwrap().waiters;
    let clients = listed.iter().map(|waiter| waiter.client_id);
    assert!(clients.eq(waiters.iter().map(|(store, _)| store.client_id())));
    guard.release().unwrap();
    for (_, waiter) in waiters {
        let guard = waiter.join().unwrap();
        assert!(guard.fence() > fence && guard.remaining() <= LEASE);
        fence = guard.fence();
        guard.release().unwrap();
    }
    assert!(open(&redis.url()).locks().unwrap().is_empty());
}

#[test]
fn a_connection_is_used_for_many_waits() {
    let redis = Redis::start();
    let (ours, theirs) = (lock(&open(&redis.url())), lock(&open(&redis.url())));
    for _ in 0..20 {
        let guard = theirs.acquire().unwrap();
        let waiter = waiter(&ours);
        wait_for_waiters(&redis, 1);
        guard.release().unwrap();
        waiter.join().unwrap().release().unwrap();
        assert_eq!(subscribed(&redis), 1);
    }
}

#[test]
fn a_wait_whose_connection_breaks_goes_on_at_its_time_of_arrival() {
    let redis = Redis::start();
    let guard = lock(&open(&redis.url())).acquire().unwrap();
    let stores = [open(&redis.url()), open(&redis.url())];
    let first = waiter(&lock(&stores[0]));
    wait_for_waiters(&redis, 1);
    // A waiter that joins again states how long it has waited, so its time of arrival is later by what the
    // call takes: longer than between two waiters of a loaded machine, and shorter than this.
    thread::sleep(Duration::from_secs(1));
    let second = waiter(&lock(&stores[1]));
    wait_for_waiters(&redis, 2);
    close_first_subscribed(&redis);
    // It is there again, without the number of its former connection, and that one is not.
    let joined = format!("{}:", stores[0].client_id());
    let waiters = || {
        let queue = ["ZRANGE", "lockstock:{report}:queue", "0", "-1"];
        redis.command(&queue).unwrap()
    };
    let gives_up_at = Instant::now() + TIMEOUT;
    while !waiters().starts_with(&joined) || waiters().lines().count() != 2 {
        assert!(Instant::now() < gives_up_at, "{}", waiters());
        thread::sleep(Duration::from_millis(2));
    }
    guard.release().unwrap();
    let guard = first.join().unwrap();
    assert!(!second.is_finished());
    guard.release().unwrap();
    second.join().unwrap().release().unwrap();
}

#[test]
fn a_wait_ends_if_the_server_is_gone() {
    let redis = Redis::start();
    let guard = lock(&open(&redis.url())).acquire().unwrap();
    let ours = open(&redis.url());
    let waiter = thread::spawn({
        let lock = lock(&ours);
        move || lock.acquire_within(TIMEOUT)
    });
    wait_for_waiters(&redis, 1);
    redis.kill();
    assert!(waiter.join().unwrap().unwrap_err().is_unavailable());
    redis.restart();
    drop(guard);
    lock(&ours).acquire().unwrap().release().unwrap();
}

#[test]
fn a_waiter_whose_connection_the_server_has_lost_is_passed_over() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let guard = lock(&open(&redis.url())).acquire().unwrap();
    let first = waiter(&lock(&open(&format!("redis://{}", proxy.address()))));
    wait_for_waiters(&redis, 1);
    let second = waiter(&lock(&open(&redis.url())));
    wait_for_waiters(&redis, 2);
    // The server closes the connection of the first one, which does not notice.
    proxy.stall();
    close_first_subscribed(&redis);
    guard.release().unwrap();
    let guard = second.join().unwrap();
    proxy.pass();
    guard.release().unwrap();
    first.join().unwrap().release().unwrap();
}

#[test]
fn a_wait_ends_at_its_deadline_and_leaves_nothing_behind() {
    let redis = Redis::start();
    let guard = lock(&open(&redis.url())).acquire().unwrap();
    let store = open(&redis.url());
    let ours = lock(&store);
    for _ in 0..5 {
        let begun = Instant::now();
        assert!(ours.acquire_within(SHORT).unwrap().held().is_none());
        assert!(begun.elapsed() >= SHORT);
        wait_for_waiters(&redis, 0);
    }
    guard.release().unwrap();
    ours.acquire().unwrap().release().unwrap();
}

#[test]
fn a_kept_lock_ends_a_wait_that_is_shorter() {
    let redis = Redis::start();
    let guard = lock(&open(&redis.url())).acquire().unwrap();
    let ours = open(&redis.url());
    let waiter = thread::spawn({
        let lock = lock(&ours);
        move || lock.acquire_within(TIMEOUT).unwrap()
    });
    wait_for_waiters(&redis, 1);
    guard.keep().unwrap();
    let kept = waiter.join().unwrap();
    assert!(matches!(kept, Acquired::Busy(busy) if busy.is_kept()));
}

#[test]
fn a_wait_ends_with_the_lease_of_a_holder_that_has_crashed() {
    let redis = Redis::start();
    let held = format!("lockstock:held:{}:1", "1".repeat(32));
    let px = BRIEF.as_millis().to_string();
    redis.command(&["SET", "report", &held, "PX", &px]).unwrap();
    let guard = waiter(&lock(&open(&redis.url()))).join().unwrap();
    guard.release().unwrap();
    // A client that notifies no waiter.
    redis.command(&["SET", "report", "theirs"]).unwrap();
    let waiter = waiter(&lock(&open(&redis.url())));
    wait_for_waiters(&redis, 1);
    redis.command(&["DEL", "report"]).unwrap();
    waiter.join().unwrap().release().unwrap();
}

#[test]
fn a_lock_that_is_taken_away_goes_to_the_waiter() {
    let redis = Redis::start();
    let theirs = open(&redis.url());
    let guard = lock(&theirs).acquire().unwrap();
    let ours = open(&redis.url());
    let waiter = waiter(&lock(&ours));
    wait_for_waiters(&redis, 1);
    assert!(
        theirs
            .force_release(LockKind::Lock, "report", None)
            .unwrap()
    );
    let next = waiter.join().unwrap();
    assert!(guard.release().unwrap_err().is_lost());
    // It was granted while its caller waited.
    assert!(
        ours.force_release(LockKind::Lock, "report", Some(next.id()))
            .unwrap()
    );
    assert!(next.release().unwrap_err().is_lost());
}

#[test]
fn waiters_of_one_process_and_of_another_are_all_served() {
    let redis = Redis::start();
    let ours = open(&redis.url());
    let theirs = open(&redis.url());
    let guard = lock(&theirs).acquire().unwrap();
    // The first on its own connection, the others in the local queue.
    let first = waiter(&lock(&ours));
    wait_for_waiters(&redis, 1);
    let others: Vec<_> = (0..3).map(|_| waiter(&lock(&ours))).collect();
    wait_for_waiters(&redis, 2);
    let last = waiter(&lock(&open(&redis.url())));
    wait_for_waiters(&redis, 3);
    guard.release().unwrap();
    let guard = first.join().unwrap();
    assert!(others.iter().all(|other| !other.is_finished()) && !last.is_finished());
    guard.release().unwrap();
    let guards = others.into_iter().chain([last]);
    let releases = guards.map(|waiter| thread::spawn(|| waiter.join().unwrap().release()));
    for release in releases.collect::<Vec<_>>() {
        release.join().unwrap().unwrap();
    }
    assert!(ours.locks().unwrap().is_empty());
}

#[test]
fn permits_and_readers_are_waited_for() {
    let redis = Redis::start();
    let (ours, theirs) = (open(&redis.url()), open(&redis.url()));
    let uploads = |store: &Store| store.semaphore("report", 2).lease(LEASE).unwrap();
    let both = theirs.semaphore("report", 2).take(2).lease(LEASE).unwrap();
    let both = both.acquire().unwrap();
    // Two of one process.
    let waiters = [waiter(&uploads(&ours)), waiter(&uploads(&ours))];
    both.release().unwrap();
    let guards = waiters.map(|waiter| waiter.join().unwrap());
    for guard in guards {
        guard.release().unwrap();
    }
    let writer = theirs.write_lock("report").lease(LEASE).unwrap();
    let guard = writer.acquire().unwrap();
    let reader = waiter(&ours.read_lock("report").lease(LEASE).unwrap());
    guard.release().unwrap();
    reader.join().unwrap().release().unwrap();
}

#[test]
fn more_waits_than_connections_are_allowed_at_once() {
    let redis = Redis::start();
    let (ours, theirs) = (open(&redis.url()), open(&redis.url()));
    let name = |number: usize| format!("report-{number}");
    let guards: Vec<_> = (0..80)
        .map(|number| {
            let lock = theirs.lock(name(number)).lease(LEASE).unwrap();
            lock.acquire().unwrap()
        })
        .collect();
    let waiters: Vec<_> = (0..80)
        .map(|number| waiter(&ours.lock(name(number)).lease(LEASE).unwrap()))
        .collect();
    let gives_up_at = Instant::now() + TIMEOUT;
    while ours
        .locks()
        .unwrap()
        .iter()
        .map(|lock| lock.waiters.len())
        .sum::<usize>()
        < 80
    {
        assert!(Instant::now() < gives_up_at, "not all wait");
        thread::sleep(Duration::from_millis(10));
    }
    // Those of callers, and the link.
    assert_eq!(subscribed(&redis), 65);
    drop(guards);
    theirs.drain().unwrap();
    for waiter in waiters {
        waiter.join().unwrap().release().unwrap();
    }
}

#[test]
fn a_server_that_hangs_during_a_wait_leaves_nothing_behind() {
    let redis = Redis::start();
    let guard = lock(&open(&redis.url())).acquire().unwrap();
    let ours = Store::builder(redis.url()).timeout(SHORT).open().unwrap();
    let waiter = thread::spawn({
        let lock = Arc::new(lock(&ours));
        move || lock.acquire_within(BRIEF)
    });
    wait_for_waiters(&redis, 1);
    redis.pause();
    // It asks at its deadline, without a reply.
    assert!(waiter.join().unwrap().unwrap_err().is_unavailable());
    redis.resume();
    wait_for_waiters(&redis, 0);
    guard.release().unwrap();
    lock(&open(&redis.url()))
        .acquire_within(TIMEOUT)
        .unwrap()
        .held()
        .unwrap()
        .release()
        .unwrap();
}

/// Hands a lock over between clients at `url` again and again.
fn hand_over_to(redis: &Redis, url: &str) {
    let (theirs, ours) = (lock(&open(url)), lock(&open(url)));
    for _ in 0..5 {
        let guard = theirs.acquire().unwrap();
        let waiter = waiter(&ours);
        wait_for_waiters(redis, 1);
        guard.release().unwrap();
        waiter.join().unwrap().release().unwrap();
        assert_eq!(subscribed(redis), 1);
    }
    let _guard = theirs.acquire().unwrap();
    assert!(ours.acquire_within(SHORT).unwrap().held().is_none());
}

#[test]
fn waits_over_tls_and_over_unix_sockets() {
    let authority = Authority::new();
    let redis = Redis::start_tls(&authority.issue(&["localhost"]));
    let certificates = authority.file().display();
    let port = redis.tls_address().port();
    hand_over_to(
        &redis,
        &format!("rediss://localhost:{port}?ssl_ca_certs={certificates}"),
    );
    let folder = std::env::temp_dir().join(format!("lockstock-waits-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("redis.sock");
    let path = socket.to_str().unwrap();
    let redis = Redis::start_with(&["--unixsocket", path]);
    let path = path.trim_start_matches('/');
    hand_over_to(&redis, &format!("redis+unix:///{path}"));
    std::fs::remove_dir_all(folder).unwrap();
}
