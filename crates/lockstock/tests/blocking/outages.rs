use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstock::blocking::{Cache, Store};
use lockstock::{Integer, Raw};
use lockstock_testkit::{Authority, Proxy, Redis};

use super::values::raw;
use super::{harness::TIMEOUT, open};

const LONG: Duration = Duration::from_secs(3600);
/// A time limit that a test waits for.
const BRIEF: Duration = Duration::from_millis(300);

#[test]
fn a_store_opens_before_its_server_is_up_and_survives_its_restarts() {
    let redis = Redis::start();
    redis.kill();
    let store = open(&redis.url());
    let values = raw(&store, "values");
    assert!(values.get("a").unwrap_err().is_unavailable());
    assert!(store.ping().unwrap_err().is_unavailable());
    for _ in 0..3 {
        redis.restart();
        values.set("a", &"1".into(), LONG).unwrap();
        assert_eq!(values.get("a").unwrap().as_deref(), Some(&b"1"[..]));
        store.ping().unwrap();
        redis.kill();
        let error = values.get("a").unwrap_err();
        assert!(error.is_unavailable(), "{error}");
    }
}

#[test]
fn a_server_that_hangs_is_unavailable_until_it_goes_on() {
    let redis = Redis::start();
    let store = Store::builder(redis.url()).timeout(BRIEF).open().unwrap();
    let values = raw(&store, "values");
    values.set("a", &"1".into(), LONG).unwrap();
    redis.pause();
    for _ in 0..3 {
        assert!(values.get("a").unwrap_err().is_unavailable());
    }
    redis.resume();
    assert_eq!(until_available(&values).as_deref(), Some(&b"1"[..]));
}

/// Reads until the server replies: calls are refused for a moment, and the time limit is short.
fn until_available(values: &Cache<Bytes, Raw>) -> Option<Bytes> {
    let gives_up_at = Instant::now() + TIMEOUT;
    loop {
        match values.get("a") {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < gives_up_at, "{error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_server_that_hangs_costs_all_threads_one_timeout_and_not_one_per_call() {
    const THREADS: usize = 8;
    let redis = Redis::start();
    let store = Store::builder(redis.url()).timeout(BRIEF).open().unwrap();
    let values = raw(&store, "values");
    values.set("a", &"1".into(), LONG).unwrap();
    redis.pause();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..100 {
                    assert!(values.get("a").unwrap_err().is_unavailable());
                }
            });
        }
    });
    redis.resume();
    until_available(&values);
    // What was sent is executed now: one call of each thread, and some probes.
    let stats = redis.command(&["INFO", "commandstats"]).unwrap();
    let calls = stats.split_once("cmdstat_get:calls=").unwrap().1;
    let calls: usize = calls.split(',').next().unwrap().parse().unwrap();
    assert!(calls < 5 * THREADS, "{calls} of 800 calls were sent");
}

#[test]
fn a_lost_reply_is_repeated_only_if_that_changes_nothing() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let store = open(&format!("redis://{}", proxy.address()));
    let (values, counts) = (raw(&store, "values"), store.cache("n").codec(Integer));
    proxy.reset_next_reply();
    values.set("a", &"1".into(), LONG).unwrap();
    proxy.reset_next_reply();
    assert!(values.get("a").unwrap().is_some());
    assert_eq!(counts.incr("a", 1, LONG).unwrap(), 1);
    proxy.reset_next_reply();
    assert!(counts.incr("a", 1, LONG).unwrap_err().is_unavailable());
    assert_eq!(counts.get("a").unwrap(), Some(2));
    proxy.reset_next_reply();
    let error = values.add("b", &"1".into(), LONG).unwrap_err();
    assert!(error.is_unavailable());
    assert!(!values.add("b", &"2".into(), LONG).unwrap());
}

#[test]
fn passwords_users_and_unix_sockets() {
    let folder = lockstock_testkit_folder();
    let socket = folder.join("redis.sock");
    let path = socket.to_str().unwrap();
    let redis = Redis::start_with(&[
        "--unixsocket",
        path,
        "--user",
        "cache",
        "on",
        ">p%w",
        "~lockstock:cache:*",
        "+get",
        "+set",
        "+eval",
        "+incrby",
        "+pexpire",
        "+exists",
        "+hello",
        "+select",
    ]);
    let (port, socket) = (redis.address().port(), path.trim_start_matches('/'));
    for url in [
        format!("redis://cache:p%25w@127.0.0.1:{port}"),
        format!("redis+unix:///{socket}?user=cache&pass=p%25w"),
    ] {
        let store = open(&url);
        let values = raw(&store, "values");
        values.set("a", &"1".into(), LONG).unwrap();
        assert_eq!(
            values.get("a").unwrap().as_deref(),
            Some(&b"1"[..]),
            "{url}"
        );
        let error = values.delete("a").unwrap_err();
        assert!(error.to_string().contains("NOPERM"), "{error}");
    }
    let wrong = open(&format!("redis://cache:wrong@127.0.0.1:{port}"));
    let error = raw(&wrong, "values").get("a").unwrap_err().to_string();
    assert!(
        error.contains("WRONGPASS") && !error.contains("wrong@"),
        "{error}"
    );
    let builder = Store::builder(format!("redis://127.0.0.1:{port}")).credentials("cache", "p%w");
    let store = builder.timeout(TIMEOUT).open().unwrap();
    raw(&store, "values").get("a").unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}

fn lockstock_testkit_folder() -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("lockstock-blocking-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn certificates_are_checked() {
    let (authority, other) = (Authority::new(), Authority::new());
    let redis = Redis::start_tls(&authority.issue(&["localhost"]));
    let at = |host: &str| format!("rediss://{host}:{}", redis.tls_address().port());
    let trusting = |host: &str, authority: &Authority| {
        let pem = std::fs::read(authority.file()).unwrap();
        let builder = Store::builder(at(host)).ca_certificates(pem);
        raw(&builder.timeout(TIMEOUT).open().unwrap(), "values")
    };
    let values = trusting("localhost", &authority);
    for value in [&b"1"[..], &[7; 3_000_000]] {
        values.set("a", &value.to_vec().into(), LONG).unwrap();
        assert_eq!(values.get("a").unwrap().as_deref(), Some(value));
    }
    for values in [
        trusting("localhost", &other),
        trusting("127.0.0.1", &authority),
    ] {
        let error = values.get("a").unwrap_err();
        assert!(error.is_unavailable(), "{error}");
    }
    let url = format!(
        "{}?ssl_ca_certs={}",
        at("localhost"),
        authority.file().display()
    );
    raw(&open(&url), "values").get("a").unwrap().unwrap();
    // Mutual.
    let certify = ["CONFIG", "SET", "tls-auth-clients", "yes"];
    redis.command(&certify).unwrap();
    let client = authority.issue(&["client"]);
    let read = |path| std::fs::read(path).unwrap();
    let builder =
        Store::builder(&url).client_certificate(read(client.file()), read(client.key_file()));
    let values = raw(&builder.timeout(TIMEOUT).open().unwrap(), "values");
    assert!(values.get("a").unwrap().is_some());
    assert!(
        raw(&open(&url), "values")
            .get("a")
            .unwrap_err()
            .is_unavailable()
    );
}

#[test]
fn valkey_is_a_store() {
    let Some(valkey) = Redis::start_valkey() else {
        eprintln!("NOT TESTED on Valkey: there is no valkey-server");
        return;
    };
    let values = raw(&open(&valkey.url()), "values");
    values.set("a", &"1".into(), LONG).unwrap();
    assert!(values.get("a").unwrap().is_some());
}
