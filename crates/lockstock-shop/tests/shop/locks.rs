//! `lockstock locks`: the table, the JSON, `--watch` and `release`.

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};
use std::time::Duration;

use lockstock::{Guard, Store};
use lockstock_testkit::{Process, Redis};
use reqwest::Method;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::board::Watcher;
use crate::harness::{PATIENCE, Server, binary, eventually, product, sqlite, waited_for};

const LEASE: Duration = Duration::from_secs(3600);
const SIGINT: i32 = 2;

/// Runs `lockstock locks` on a Redis.
fn locks(redis: &Redis, args: &[&str]) -> Output {
    let mut command = binary();
    command.arg("locks").args(args);
    command.env("LOCKSTOCK_STORE", redis.url());
    command.stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Returns the error line of a command that failed.
fn error(output: &Output) -> String {
    let why = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{why}");
    assert_eq!(why.lines().count(), 1, "{why}");
    assert!(why.starts_with("lockstock: "), "{why}");
    why
}

fn json(redis: &Redis) -> Value {
    let output = locks(redis, &["--json"]);
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn store(redis: &Redis) -> Store {
    Store::connect(&redis.url()).await.unwrap()
}

async fn hold(store: &Store, name: impl AsRef<[u8]>) -> Guard {
    let lock = store.lock(name).lease(LEASE).unwrap();
    lock.acquire().await.unwrap()
}

/// Starts a waiter, and returns once it is in the queue of Redis.
async fn wait(redis: &Redis, store: &Store, name: &str) -> JoinHandle<Guard> {
    let lock = store.lock(name).lease(LEASE).unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
    waited_for(redis, name).await;
    waiter
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_lists_holders_and_waiters() {
    let redis = Redis::start();
    assert!(
        stdout(&locks(&redis, &[])).starts_with("No lock is held, kept or waited for in redis:")
    );
    assert_eq!(json(&redis), serde_json::json!([]));

    let (one, two) = (store(&redis).await, store(&redis).await);
    let guard = hold(&one, "report").await;
    let _waiter = wait(&redis, &two, "report").await;
    let done = hold(&one, "nightly").await;
    done.keep().await.unwrap();
    let _odd = hold(&two, b"a\x1b[2J\xff\n").await;
    let table = stdout(&locks(&redis, &[]));
    let lines = table.lines().collect::<Vec<_>>();
    assert_eq!(lines.len(), 6, "{table}");
    for heading in [
        "NAME", "KIND", "HOLDER", "SINCE", "LEFT", "STATE", "FENCE", "WAITERS",
    ] {
        assert!(lines[0].contains(heading), "{table}");
    }
    assert!(lines[1].starts_with("a\\u{1b}[2J\\xff\\n  lock"), "{table}");
    assert!(lines[2].starts_with("nightly"), "{table}");
    assert!(lines[2].contains("kept"), "{table}");
    let fence = guard.fence().to_string();
    let process = one.client_id().to_string();
    for word in [
        "report",
        "held",
        "59 min",
        " ago",
        &fence,
        &process,
        "1, first for",
    ] {
        assert!(lines[3].contains(word), "{word} is missing in {table}");
    }
    assert_eq!(lines[5], "3 names, 1 waiter");
    assert!(!table.contains('\x1b'), "{table}");

    let listed = json(&redis);
    let report = &listed[2];
    assert_eq!(report["name"], "report");
    assert_eq!(report["kind"], "lock");
    let holder = &report["holders"][0];
    assert_eq!(holder["process"], process);
    assert_eq!(holder["token"].as_str().unwrap().len(), 32);
    assert_eq!(holder["fence"], guard.fence());
    assert_eq!(
        (&holder["state"], &holder["foreign"]),
        (&"held".into(), &false.into())
    );
    assert!(holder["left_ms"].as_u64().unwrap() <= 3_600_000);
    assert!(holder["since"].as_str().unwrap().ends_with('Z'));
    let waiter = &report["waiters"][0];
    assert_eq!(waiter["process"], two.client_id().to_string());
    assert_eq!(
        (&waiter["gives_up_in_ms"], &waiter["lease_ms"]),
        (&Value::Null, &3_600_000.into())
    );
}

#[test]
fn a_store_that_cannot_be_listed_is_explained() {
    let mut command = binary();
    let why = error(&command.arg("locks").output().unwrap());
    assert!(
        why.contains("memory://") && why.contains("--store redis://"),
        "{why}"
    );
    let redis = Redis::start();
    let unreachable = locks(&redis, &["--store", "redis://127.0.0.1:1/0"]);
    assert!(error(&unreachable).contains("cannot connect to Redis"));
    for (args, word) in [
        (&["--watch", "0"][..], "like 2"),
        (&["release", "a\\q"], "write \\\\"),
        (&["release", "a", "--kind", "mutex"], "semaphore"),
    ] {
        let output = locks(&redis, args);
        let why = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{why}");
        assert!(why.contains(word), "{why}");
    }
    let help = stdout(&locks(&redis, &["--help"]));
    for word in [
        "LOCKSTOCK_STORE",
        "--watch",
        "--json",
        "release",
        "kept:",
        "Examples:",
    ] {
        assert!(help.contains(word), "{word} is missing in {help}");
    }
    let help = stdout(&locks(&redis, &["release", "--help"]));
    for word in ["--yes", "--kind", "--store", "What happens:"] {
        assert!(help.contains(word), "{word} is missing in {help}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_lists_changes_until_ctrl_c() {
    let redis = Redis::start();
    let mut command = binary();
    command.args(["locks", "--watch", "0.1", "--json", "--store", &redis.url()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let process = Process::spawn(command).unwrap();
    let mut lines = BufReader::new(process.take_stdout().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "[]");
    let store = store(&redis).await;
    let _guard = hold(&store, "report").await;
    while !next().contains("report") {}
    redis.pause();
    redis.kill();
    redis.restart();
    while next() != "[]" {}
    process.signal(SIGINT);
    let status = process.wait(PATIENCE).expect("ends on Ctrl-C");
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_confirmation_no_lock_is_released() {
    let redis = Redis::start();
    let store = store(&redis).await;
    let guard = hold(&store, "report").await;
    let unconfirmed = locks(&redis, &["release", "report"]);
    assert!(stdout(&unconfirmed).contains(&store.client_id().to_string()));
    let why = error(&unconfirmed);
    assert!(
        why.contains("not a terminal") && why.contains("--yes"),
        "{why}"
    );
    guard.release().await.unwrap();
    assert!(error(&locks(&redis, &["release", "report"])).contains("'report' has no holder"));
    // A cached page is not a lock.
    redis.command(&["SET", "page", "<html>"]).unwrap();
    let why = error(&locks(&redis, &["release", "page", "--yes"]));
    assert!(why.contains("not written by Lockstock"), "{why}");
    assert_eq!(redis.command(&["GET", "page"]).unwrap(), "<html>");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_release_hands_over_to_the_next_waiter_and_is_logged() {
    let redis = Redis::start();
    let (one, two) = (store(&redis).await, store(&redis).await);
    let guard = hold(&one, "report").await;
    let waiter = wait(&redis, &two, "report").await;
    let released = locks(&redis, &["release", "report", "--yes"]);
    let output = stdout(&released);
    assert!(released.status.success(), "{output}");
    let next = timeout(PATIENCE, waiter).await.unwrap().unwrap();
    let (old, new) = (one.client_id(), two.client_id());
    for words in [
        format!("Process {old} will lose it at once"),
        format!("Process {new} waits and gets it."),
        "rejects the old holder".to_owned(),
        format!("Process {old} has lost it."),
        format!("Process {new} holds it now, fence {}.", next.fence()),
    ] {
        assert!(output.contains(&words), "'{words}' is missing in {output}");
    }
    let log = String::from_utf8(released.stderr).unwrap();
    let line: Value = serde_json::from_str(&log).unwrap();
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["message"], "released by force");
    assert_eq!(
        (&line["name"], &line["kind"]),
        (&"report".into(), &"lock".into())
    );
    assert!(guard.release().await.unwrap_err().is_lost());
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_holders_is_chosen_by_its_token() {
    let redis = Redis::start();
    let (one, two) = (store(&redis).await, store(&redis).await);
    let permit = async |store: &Store| {
        let uploads = store.semaphore("uploads", 3).lease(LEASE).unwrap();
        uploads.acquire().await.unwrap()
    };
    let guards = [permit(&one).await, permit(&one).await, permit(&two).await];
    let release = |args: &[&str]| {
        let all = [&["release", "uploads", "--yes"], args].concat();
        locks(&redis, &all)
    };
    let (first_client, second_client) = (one.client_id().to_string(), two.client_id().to_string());
    assert!(error(&release(&["--holder", "xyz"])).contains(&second_client));
    assert!(error(&release(&["--holder", &first_client])).contains("give a longer prefix"));
    assert!(release(&["--holder", &second_client]).status.success());
    let [first, second, third] = guards;
    assert!(third.release().await.unwrap_err().is_lost());
    // A lock of the same name makes the kind ambiguous.
    let lock = hold(&one, "uploads").await;
    assert!(error(&release(&[])).contains("--kind"));
    let all = release(&["--kind", "semaphore"]);
    assert!(stdout(&all).contains("All 2 holders"), "{}", stdout(&all));
    assert!(stdout(&all).ends_with("It is free.\n"), "{}", stdout(&all));
    for guard in [first, second] {
        assert!(guard.release().await.unwrap_err().is_lost());
    }
    lock.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_logs_the_process_that_locks_lists() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let database = sqlite(&folder.path().join("shop.sqlite3"));
    let server = Server::on(&redis.url(), &database).start();
    let id = server.create(10).await;
    let changed = server.patch(id, serde_json::json!({ "stock": 9 })).await;
    assert_eq!(changed.status, 200);
    let listed = json(&redis);
    assert_eq!(listed[0]["name"], format!("product-update-lock-{id}"));
    assert_eq!(listed[0]["holders"][0]["state"], "kept");
    let process = listed[0]["holders"][0]["process"].as_str().unwrap();
    let line = format!("\"process\":\"{process}\"");
    eventually("the process in the log", async || {
        server.log().contains(&line).then_some(())
    })
    .await;
    // After a forced release of the kept lock the next update succeeds.
    let name = format!("product-update-lock-{id}");
    assert!(locks(&redis, &["release", &name, "--yes"]).status.success());
    let changed = server.patch(id, serde_json::json!({ "stock": 8 })).await;
    assert_eq!(changed.status, 200);
}

/// The commands that docs/operations.md refers to.
const RIGHTS: &str = include_str!("../../../../docs/acl.txt");

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_user_serves_lists_and_releases_beside_keys_of_others() {
    let keys = ["~product-update-lock-*"];
    let mut user = vec!["--user", "locks", "on", ">pw"];
    user.extend(keys);
    user.extend(RIGHTS.split_whitespace());
    let redis = Redis::start_with(&user);
    redis.command(&["SET", "session:1", "theirs"]).unwrap();
    let (one, two) = (store(&redis).await, store(&redis).await);
    let foreign = hold(&one, "report").await;
    let waiter = wait(&redis, &two, "report").await;

    let folder = tempfile::tempdir().unwrap();
    let database = sqlite(&folder.path().join("shop.sqlite3"));
    let url = redis.url_as("locks", "pw");
    let server = Server::on(&url, &database).start();
    let mut watcher = Watcher::of(&server).await;
    watcher.expect("snapshot").await;
    eventually("the server receives the events of others", async || {
        let subscribed = redis.command(&["PUBSUB", "NUMSUB", "lockstock:board"]);
        subscribed.unwrap().ends_with('1').then_some(())
    })
    .await;
    let id = server.create(10).await;
    let keyed = server.request(Method::PATCH, &product(id));
    let keyed = keyed.header("Idempotency-Key", "one");
    let changed = server
        .send(keyed.json(&serde_json::json!({ "stock": 9 })))
        .await;
    assert_eq!(changed.status, 200, "{}", changed.body);

    let listed = locks(&redis, &["--json", "--store", &url]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let name = format!("product-update-lock-{id}");
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed[0]["name"], name);
    let released = locks(&redis, &["release", &name, "--yes", "--store", &url]);
    assert!(released.status.success());
    // Another application's lock.
    let forbidden = locks(&redis, &["release", "report", "--yes", "--store", &url]);
    assert!(error(&forbidden).contains("NOPERM"));
    foreign.release().await.unwrap();
    waiter.await.unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_of_several_permits_is_listed_once_with_their_number() {
    let redis = Redis::start();
    let one = store(&redis).await;
    let uploads = one.semaphore("uploads", 4).take(3).lease(LEASE).unwrap();
    let guard = uploads.acquire().await.unwrap();
    let table = stdout(&locks(&redis, &[]));
    let cell = format!("{} 3 permits", one.client_id());
    assert!(table.contains(&cell), "{table}");
    let listed = json(&redis);
    let holders = listed[0]["holders"].as_array().unwrap();
    assert_eq!(holders.len(), 1, "{listed}");
    assert_eq!(
        (&holders[0]["access"], &holders[0]["permits"]),
        (&"permit".into(), &3.into())
    );
    guard.release().await.unwrap();
}
