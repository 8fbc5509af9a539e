//! `lockstock locks`, as an operator meets it.

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};
use std::time::Duration;

use lockstock::{Guard, Store};
use lockstock_testkit::{Process, Redis};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::harness::{PATIENCE, Server, binary, eventually, sqlite};

const LEASE: Duration = Duration::from_secs(3600);
/// On the machines that we run on; the test kit takes numbers.
const SIGINT: i32 = 2;

/// `lockstock locks` on a Redis.
fn locks(redis: &Redis, args: &[&str]) -> Output {
    let mut command = binary();
    command.arg("locks").args(args);
    command.env("LOCKSTOCK_STORE", redis.url());
    command.stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Why it failed, in a line.
fn refused(output: &Output) -> String {
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

/// Waits in the queue by the time this returns.
async fn wait(redis: &Redis, store: &Store, name: &str) -> JoinHandle<Guard> {
    let lock = store.lock(name).lease(LEASE).unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
    eventually("a waiter in the queue", async || {
        let queue = format!("lockstock:{{{name}}}:queue");
        (redis.command(&["ZCARD", &queue]).unwrap() == "1").then_some(())
    })
    .await;
    waiter
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_shows_who_holds_and_who_waits() {
    let redis = Redis::start();
    assert!(said(&locks(&redis, &[])).starts_with("No lock is held, kept or waited for in redis:"));
    assert_eq!(json(&redis), serde_json::json!([]));

    let (one, two) = (store(&redis).await, store(&redis).await);
    let guard = hold(&one, "report").await;
    let _waiter = wait(&redis, &two, "report").await;
    let done = hold(&one, "nightly").await;
    done.keep().await.unwrap();
    let _odd = hold(&two, b"a\x1b[2J\xff\n").await;
    let table = said(&locks(&redis, &[]));
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

    let told = json(&redis);
    let report = &told[2];
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
fn where_nothing_can_be_seen_it_says_so() {
    let mut command = binary();
    let why = refused(&command.arg("locks").output().unwrap());
    assert!(
        why.contains("memory://") && why.contains("--store redis://"),
        "{why}"
    );
    let redis = Redis::start();
    let nobody = locks(&redis, &["--store", "redis://127.0.0.1:1/0"]);
    assert!(refused(&nobody).contains("cannot connect to Redis"));
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
    let help = said(&locks(&redis, &["--help"]));
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
    let help = said(&locks(&redis, &["release", "--help"]));
    for word in ["--yes", "--kind", "--store", "What happens:"] {
        assert!(help.contains(word), "{word} is missing in {help}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_shows_each_change_until_ctrl_c() {
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
async fn without_a_person_to_ask_nothing_is_released() {
    let redis = Redis::start();
    let store = store(&redis).await;
    let guard = hold(&store, "report").await;
    let asked = locks(&redis, &["release", "report"]);
    assert!(said(&asked).contains(&store.client_id().to_string()));
    let why = refused(&asked);
    assert!(
        why.contains("no terminal") && why.contains("--yes"),
        "{why}"
    );
    guard.release().await.unwrap();
    assert!(refused(&locks(&redis, &["release", "report"])).contains("nobody holds 'report'"));
    // A cached page is no lock.
    redis.command(&["SET", "page", "<html>"]).unwrap();
    let why = refused(&locks(&redis, &["release", "page", "--yes"]));
    assert!(why.contains("no lock of ours"), "{why}");
    assert_eq!(redis.command(&["GET", "page"]).unwrap(), "<html>");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_force_the_next_waiter_has_it_and_it_is_logged() {
    let redis = Redis::start();
    let (one, two) = (store(&redis).await, store(&redis).await);
    let guard = hold(&one, "report").await;
    let waiter = wait(&redis, &two, "report").await;
    let released = locks(&redis, &["release", "report", "--yes"]);
    let tale = said(&released);
    assert!(released.status.success(), "{tale}");
    let next = timeout(PATIENCE, waiter).await.unwrap().unwrap();
    let (old, new) = (one.client_id(), two.client_id());
    for words in [
        format!("Process {old} will lose it at once"),
        format!("Process {new} waits and is handed it."),
        "the fence refuses it".to_owned(),
        format!("Process {old} has lost it."),
        format!("Process {new} has it now, fence {}.", next.fence()),
    ] {
        assert!(tale.contains(&words), "'{words}' is missing in {tale}");
    }
    let log = String::from_utf8(released.stderr).unwrap();
    let line: Value = serde_json::from_str(&log).unwrap();
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["message"], "released by force");
    assert_eq!(
        (&line["name"], &line["family"]),
        (&"report".into(), &"lock".into())
    );
    assert!(guard.release().await.unwrap_err().is_lost());
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_holders_is_named_by_its_token() {
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
    let (mine, others) = (one.client_id().to_string(), two.client_id().to_string());
    assert!(refused(&release(&["--holder", "xyz"])).contains(&others));
    assert!(refused(&release(&["--holder", &mine])).contains("give more of one"));
    assert!(release(&["--holder", &others]).status.success());
    let [first, second, third] = guards;
    assert!(third.release().await.unwrap_err().is_lost());
    // A lock of the same name makes it unclear what is meant.
    let lock = hold(&one, "uploads").await;
    assert!(refused(&release(&[])).contains("--kind"));
    let all = release(&["--kind", "semaphore"]);
    assert!(said(&all).contains("All 2 holders"), "{}", said(&all));
    assert!(said(&all).ends_with("It is free.\n"), "{}", said(&all));
    for guard in [first, second] {
        assert!(guard.release().await.unwrap_err().is_lost());
    }
    lock.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_found_by_the_process_in_its_log() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let database = sqlite(&folder.path().join("shop.sqlite3"));
    let server = Server::on(&redis.url(), &database).start();
    let id = server.create(10).await;
    let changed = server.patch(id, serde_json::json!({ "stock": 9 })).await;
    assert_eq!(changed.status, 200);
    let told = json(&redis);
    assert_eq!(told[0]["name"], format!("product-update-lock-{id}"));
    assert_eq!(told[0]["holders"][0]["state"], "kept");
    let process = told[0]["holders"][0]["process"].as_str().unwrap();
    let line = format!("\"process\":\"{process}\"");
    eventually("the process in the log", async || {
        server.log().contains(&line).then_some(())
    })
    .await;
    // A kept lock, released by force, lets the next update through.
    let name = format!("product-update-lock-{id}");
    assert!(locks(&redis, &["release", &name, "--yes"]).status.success());
    let changed = server.patch(id, serde_json::json!({ "stock": 8 })).await;
    assert_eq!(changed.status, 200);
}
