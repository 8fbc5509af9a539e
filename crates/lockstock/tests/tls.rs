//! TLS in a Cluster and behind sentinels: every connection is verified, also those to servers that
//! another server names, and none falls back to plain text.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod harness;

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::{LEASE, TIMEOUT, got, held, lock, settle, waiting};
use lockstock::{Cache, Raw, Store};
use lockstock_testkit::{Authority, Certificate, Process, Redis, free_port};
use tokio::time::{Instant, sleep};

/// A time limit that a test waits for.
const BRIEF: Duration = Duration::from_secs(2);

/// Returns a URL that trusts this authority only.
fn trusting(url: &str, authority: &Authority) -> String {
    format!("{url}?ssl_ca_certs={}", authority.file().display())
}

/// Connects as soon as the servers are ready.
async fn connected(url: &str) -> Store {
    let gives_up_at = Instant::now() + TIMEOUT;
    loop {
        let store = Store::builder(url).timeout(TIMEOUT).open().unwrap();
        match store.ping().await {
            Ok(()) => return store,
            Err(error) => assert!(Instant::now() < gives_up_at, "{error}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Uses each kind of connection: of commands, of messages, of a near cache.
async fn assert_works(url: &str) {
    let (here, there) = (connected(url).await, connected(url).await);
    let guard = held(&lock(&here, "a", LEASE)).await;
    let waiter = waiting(&lock(&there, "a", LEASE));
    settle(&there).await;
    guard.release().await.unwrap();
    got(waiter).await.release().await.unwrap();
    let values: Cache<Vec<u8>, Raw> = here.cache("values").codec(Raw);
    values.set("a", &b"1".to_vec(), LEASE).await.unwrap();
    assert_eq!(values.get("a").await.unwrap().as_deref(), Some(&b"1"[..]));
}

async fn assert_refused(url: &str) {
    let error = failure(url, TIMEOUT).await;
    assert!(error.contains("certificate"), "{url}: {error}");
}

/// Returns why no lock is acquired.
async fn failure(url: &str, limit: Duration) -> String {
    let store = Store::builder(url).timeout(limit).open().unwrap();
    let lock = lock(&store, "a", LEASE);
    let error = lock.try_acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{url}: {error}");
    error.to_string()
}

/// Checks that a server without TLS has been sent no command by `url`, which leads to it.
async fn assert_not_downgraded(url: &str, plain: &Redis) {
    // It waits for the end of what it takes for a line.
    failure(url, BRIEF).await;
    let commands = plain.command(&["INFO", "commandstats"]).unwrap();
    assert!(!commands.contains("hello"), "{commands}");
}

/// Starts a Cluster of one node. `announced` is the port that it names to clients of TLS.
fn cluster(certificate: &Certificate, announced: Option<u16>) -> Redis {
    let (bus, announced) = (free_port().to_string(), announced.unwrap_or(0).to_string());
    let mut arguments = vec!["--cluster-enabled", "yes", "--tls-cluster", "yes"];
    arguments.extend(["--cluster-port", &bus]);
    arguments.extend(["--cluster-announce-ip", "127.0.0.1"]);
    arguments.extend(["--cluster-announce-tls-port", &announced]);
    let node = Redis::start_tls_with(certificate, &arguments);
    let slots = ["CLUSTER", "ADDSLOTSRANGE", "0", "16383"];
    assert_eq!(node.command(&slots), Ok("OK".to_owned()));
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_a_cluster_are_verified() {
    let (authority, other) = (Authority::new(), Authority::new());
    let named = authority.issue(&["localhost", "127.0.0.1"]);
    let node = cluster(&named, None);
    let url = node.url().replace("rediss", "rediss+cluster");
    let url = url.trim_end_matches("/0");
    assert_works(&trusting(url, &authority)).await;
    assert_refused(&trusting(url, &other)).await;
    // The certificate is right for the node of the URL, and not for the address that this one names.
    let misnamed = cluster(&authority.issue(&["localhost"]), None);
    let url = misnamed.url().replace("rediss", "rediss+cluster");
    assert_refused(&trusting(url.trim_end_matches("/0"), &authority)).await;
    // The node names a port without TLS.
    let plain = Redis::start();
    let downgrading = cluster(&named, Some(plain.address().port()));
    let url = downgrading.url().replace("rediss", "rediss+cluster");
    assert_not_downgraded(&trusting(url.trim_end_matches("/0"), &authority), &plain).await;
}

/// Starts a sentinel with TLS for the master at `port`.
fn sentinel(
    folder: &Path,
    certificate: &Certificate,
    authority: &Authority,
    port: u16,
) -> (Process, u16) {
    let own = free_port();
    let file = folder.join(format!("{own}.conf"));
    let text = format!(
        "bind 127.0.0.1\nport 0\ntls-port {own}\ntls-cert-file {}\ntls-key-file {}\n\
         tls-ca-cert-file {}\ntls-auth-clients no\ntls-replication yes\ndir {}\n\
         sentinel monitor main 127.0.0.1 {port} 1\n",
        certificate.file().display(),
        certificate.key_file().display(),
        authority.file().display(),
        folder.display(),
    );
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("redis-server");
    command.arg(&file).arg("--sentinel").stdout(Stdio::null());
    (Process::spawn(command).unwrap(), own)
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_and_the_master_that_they_name_are_verified() {
    let (authority, other) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let certificate = authority.issue(&["localhost", "127.0.0.1"]);
    let master = Redis::start_tls(&certificate);
    let port = master.tls_address().port();
    let (_process, own) = sentinel(folder.path(), &certificate, &authority, port);
    let url = format!("rediss+sentinel://127.0.0.1:{own}/main");
    assert_works(&trusting(&url, &authority)).await;
    assert_refused(&trusting(&url, &other)).await;
    // A master of another authority, and one without TLS.
    let foreign = Redis::start_tls(&other.issue(&["127.0.0.1"]));
    let plain = Redis::start();
    for port in [foreign.tls_address().port(), plain.address().port()] {
        let (_process, own) = sentinel(folder.path(), &certificate, &authority, port);
        let url = format!("rediss+sentinel://127.0.0.1:{own}/main");
        let gives_up_at = Instant::now() + TIMEOUT;
        // Until the sentinel is up, its port refuses connections.
        while TcpStream::connect(("127.0.0.1", own)).is_err() {
            assert!(Instant::now() < gives_up_at);
            sleep(Duration::from_millis(50)).await;
        }
        let url = trusting(&url, &authority);
        if port == plain.address().port() {
            assert_not_downgraded(&url, &plain).await;
        } else {
            assert_refused(&url).await;
        }
    }
}

#[tokio::test]
async fn no_url_switches_the_verification_off() {
    let redis = Redis::start_tls(&Authority::new().issue(&["localhost"]));
    let url = redis.url() + "#insecure";
    let error = match Store::open(&url) {
        Ok(store) => store.ping().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(!error.to_string().contains("within"), "{error}");
}
