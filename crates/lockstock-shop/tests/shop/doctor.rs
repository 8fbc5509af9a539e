//! `lockstock doctor` against stores that are wrong in each way.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use lockstock_testkit::{Cluster, Postgres, Proxy, Redis, Sentinel, free_port};
use serde_json::Value;

use crate::harness::{binary, eventually, new_database, sqlite};
use crate::readiness::fail_snapshots;

/// Each check is explained there.
const MANUAL: &str = include_str!("../../../../docs/operations.md");

/// What the command has printed and returned.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    pub(crate) code: i32,
    findings: BTreeMap<String, Value>,
}

impl Diagnosis {
    /// Runs a command with `--json`.
    pub(crate) fn of(mut command: Command) -> Self {
        let output = command.arg("--json").output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.is_empty(), "{error}");
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = printed["findings"].as_array().unwrap().iter();
        let findings: BTreeMap<_, _> = findings
            .map(|finding| {
                (
                    finding["check"].as_str().unwrap().to_owned(),
                    finding.clone(),
                )
            })
            .collect();
        for (check, finding) in &findings {
            assert!(MANUAL.contains(&format!("| `{check}` |")), "{check}");
            let is_ok = finding["severity"] == "ok";
            for text in ["why", "change"] {
                assert_eq!(finding[text] == "", is_ok, "{finding}");
            }
        }
        let code = output.status.code().unwrap();
        let severity = ["ok", "warning", "error"][usize::try_from(code).unwrap()];
        assert_eq!(printed["severity"], severity);
        Self { code, findings }
    }

    /// Returns the finding of a check, asserting that it is a warning or an error and contains
    /// `words`.
    pub(crate) fn expect(&self, check: &str, severity: &str, words: &[&str]) {
        let finding = &self.findings.get(check).unwrap_or(&Value::Null);
        assert_eq!(finding["severity"], severity, "{check}: {self:?}");
        for word in words {
            assert!(finding.to_string().contains(word), "{word}: {finding}");
        }
    }

    /// Asserts that nothing was found.
    fn expect_health(&self) {
        assert!(self.complaints().is_empty(), "{self:?}");
        let mut latencies = self.findings.iter();
        let is_slow = latencies.any(|(check, finding)| {
            check.ends_with(".latency") && finding["severity"] == "warning"
        });
        assert_eq!(self.code, i32::from(is_slow), "{self:?}");
    }

    /// Returns the checks that found something. Not those of latencies, which depend on the load
    /// of this machine.
    pub(crate) fn complaints(&self) -> Vec<&str> {
        let findings = self.findings.iter();
        let complaints = findings.filter(|(_, finding)| finding["severity"] != "ok");
        let complaints = complaints.filter(|(check, _)| !check.ends_with(".latency"));
        complaints.map(|(check, _)| &check[..]).collect()
    }
}

/// Returns a command that examines a store and a database, beside limits that every machine has.
pub(crate) fn doctor(store: &str, database: &str) -> Command {
    let mut command = binary();
    command
        .args(["doctor", "--store", store, "--database", database])
        .args(["--max-connections", "10", "--database-connections", "4"])
        .args(["--store-timeout", "20s", "--database-timeout", "60s"]);
    command
}

/// Examines a store beside a database of which nothing is expected.
fn examine(store: &str) -> Diagnosis {
    let folder = tempfile::tempdir().unwrap();
    Diagnosis::of(doctor(store, &sqlite(&folder.path().join("shop.sqlite3"))))
}

/// Starts a server of which there is nothing to complain.
fn healthy(arguments: &[&str]) -> Redis {
    Redis::start_with(&[&["--appendonly", "yes"], arguments].concat())
}

#[test]
fn a_healthy_pair_of_backends_has_no_complaints() {
    let (redis, database) = (healthy(&[]), new_database());
    let diagnosis = Diagnosis::of(doctor(&redis.url(), &database));
    diagnosis.expect_health();
    diagnosis.expect("store.version", "ok", &["Redis "]);
    diagnosis.expect("store.eviction", "ok", &["no limit on memory"]);
    diagnosis.expect(
        "database.permissions",
        "ok",
        &["the first server creates them"],
    );
    let keys = redis.command(&["KEYS", "*"]).unwrap();
    assert!(
        keys.is_empty() || keys.starts_with("lockstock:ping:"),
        "{keys}"
    );

    let text = doctor(&redis.url(), &database).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("\nok       store.eviction        "), "{text}");
    assert!(
        text.contains("\n0 errors, ") && !text.contains('\x1b'),
        "{text}"
    );
}

#[test]
fn each_wrong_setting_of_redis_is_a_finding_with_the_command_that_changes_it() {
    let redis = healthy(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let evicting = examine(&redis.url());
    evicting.expect(
        "store.eviction",
        "error",
        &[
            "allkeys-lru",
            "second holder",
            "CONFIG SET maxmemory-policy noeviction",
        ],
    );
    assert_eq!(
        (evicting.code, evicting.complaints()),
        (2, vec!["store.eviction"])
    );
    // The command is one that changes it.
    redis
        .command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
        .unwrap();
    examine(&redis.url()).expect_health();

    let redis = Redis::start();
    let forgetful = examine(&redis.url());
    forgetful.expect(
        "store.persistence",
        "warning",
        &["CONFIG SET appendonly yes"],
    );
    assert_eq!(
        (forgetful.code, forgetful.complaints()),
        (1, vec!["store.persistence"])
    );
    let text = doctor(&redis.url(), "sqlite://x").output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    for word in [
        "warning  store.persistence",
        "  Why: when Redis restarts",
        "  Change: redis-cli -u ",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }

    redis.command(&["SET", "session:1", "theirs"]).unwrap();
    redis
        .command(&["SET", "product-update-lock-7", "ours"])
        .unwrap();
    let shared = examine(&redis.url());
    shared.expect("store.keys", "warning", &["session:1", "FLUSHDB"]);
}

#[tokio::test]
async fn a_store_that_cannot_grant_locks_is_an_error() {
    let nowhere = format!("redis://127.0.0.1:{}", free_port());
    let down = examine(&nowhere);
    down.expect("store.connection", "error", &["refused"]);
    assert_eq!(down.code, 2);
    examine("redis://").expect("store.connection", "error", &[]);

    let redis = Redis::start_with(&["--dbfilename", "folder.rdb"]);
    fail_snapshots(&redis);
    eventually("the snapshot fails", async || {
        let info = redis.command(&["INFO", "persistence"]).unwrap();
        info.contains("rdb_last_bgsave_status:err").then_some(())
    })
    .await;
    let broken = examine(&redis.url());
    broken.expect("store.connection", "error", &["MISCONF"]);
    broken.expect(
        "store.persistence",
        "error",
        &["the last snapshot has failed"],
    );

    let locked = Redis::start_with(&["--requirepass", "open-sesame"]);
    let refused = examine(&locked.url());
    refused.expect("store.connection", "error", &["NOAUTH"]);
    let wrong = examine(&format!("redis://:wrong-sesame@{}", locked.address()));
    wrong.expect("store.connection", "error", &["WRONGPASS"]);
    assert!(!format!("{wrong:?}").contains("wrong-sesame"));
}

#[tokio::test]
async fn replicas_and_masters_with_replicas_are_named() {
    let (master, replica) = (healthy(&[]), healthy(&[]));
    let port = master.address().port().to_string();
    replica.command(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
    eventually("the replica is connected", async || {
        let info = master.command(&["INFO", "replication"]).unwrap();
        info.contains("connected_slaves:1").then_some(())
    })
    .await;
    let url = format!("--store redis://127.0.0.1:{port}");
    let of_replica = examine(&replica.url());
    of_replica.expect("store.replicas", "error", &["a replica of 127.0.0.1", &url]);
    of_replica.expect("store.connection", "error", &["READONLY"]);
    let of_master = examine(&master.url());
    of_master.expect("store.replicas", "warning", &["redis+sentinel://"]);

    let sentinel = Sentinel::start();
    let followed = examine(&sentinel.url());
    followed.expect("store.replicas", "ok", &["with 1 replicas"]);
}

/// The rights that docs/operations.md refers to.
const RIGHTS: &str = include_str!("../../../../docs/acl.txt");

#[test]
fn a_user_with_the_documented_rights_has_no_complaints_and_each_missing_one_is_named() {
    let mut arguments = vec!["--user", "locks", "on", ">pw", "~product-update-lock-*"];
    arguments.extend(RIGHTS.split_whitespace());
    let redis = healthy(&arguments);
    let url = redis.url_as("locks", "pw");
    examine(&url).expect_health();

    let set = |rights: &[&str]| {
        let words = [&["ACL", "SETUSER", "locks"], rights].concat();
        redis.command(&words).unwrap();
    };
    // What no user can lack, what the examination needs, and what only a Cluster needs.
    let kept = [
        "+hello",
        "+auth",
        "+ping",
        "+select",
        "+eval",
        "+evalsha",
        "+set",
        "+subscribe",
        "+publish",
        "+ssubscribe",
        "+spublish",
        "+pubsub|shardnumsub",
        "+cluster|slots",
        "+cluster|info",
        "+asking",
    ];
    let rights = RIGHTS.split_whitespace();
    let removed = rights
        .filter(|right| right.starts_with('+') && !kept.contains(right))
        .collect::<Vec<_>>();
    assert!(removed.len() > 20, "{removed:?}");
    for right in &removed {
        set(&[&right.replacen('+', "-", 1)]);
    }
    let limited = examine(&url);
    limited.expect(
        "store.permissions",
        "error",
        &["NOPERM", "ACL SETUSER locks +"],
    );
    for right in &removed {
        limited.expect("store.permissions", "error", &[right]);
    }
    set(&removed);
    set(&["-scan", "-info"]);
    let listing = examine(&url);
    listing.expect(
        "store.permissions",
        "warning",
        &["ACL SETUSER locks +scan +info"],
    );
    set(&["+scan", "+info", "resetkeys", "~lockstock:*"]);
    let keys = examine(&url);
    keys.expect(
        "store.permissions",
        "error",
        &["lacks ~product-update-lock-*"],
    );
}

#[test]
fn the_nodes_of_a_cluster_are_examined_through_one_of_them() {
    let cluster = Cluster::start_with(&["--appendonly", "yes"]);
    let diagnosis = examine(&cluster.url());
    diagnosis.expect_health();
    diagnosis.expect("store.nodes", "ok", &["one node"]);
    diagnosis.expect("store.permissions", "ok", &["the rights of docs/acl.txt"]);
}

#[test]
fn a_distant_server_is_a_warning() {
    let redis = healthy(&[]);
    let proxy = Proxy::start(redis.address());
    proxy.delay(Duration::from_millis(15));
    let distant = examine(&format!("redis://{}", proxy.address()));
    distant.expect("store.latency", "warning", &["Redis replies within"]);
    assert_eq!((distant.code, distant.complaints()), (1, vec![]));
}

#[test]
fn a_clock_that_differs_from_those_of_the_backends_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shop/clock.c");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-O1", "-ldl", "-o"])
        .arg(&library)
        .arg(source);
    assert!(compiler.status().unwrap().success());
    let (redis, postgres) = (healthy(&[]), new_database());
    for (offset, direction) in [("30", "behind"), ("-30", "ahead of")] {
        let mut command = doctor(&redis.url(), &postgres);
        command
            .env("LD_PRELOAD", &library)
            .env("CLOCK_OFFSET_SECONDS", offset);
        let skewed = Diagnosis::of(command);
        assert_eq!(skewed.complaints(), ["database.clock", "store.clock"]);
        skewed.expect("store.clock", "warning", &[direction, "fences"]);
        skewed.expect("database.clock", "warning", &[direction, "reservations"]);
    }
}

#[test]
fn valkey_is_recognized() {
    let Some(valkey) = Redis::start_valkey() else {
        return;
    };
    let version = examine(&valkey.url());
    version.expect("store.version", "ok", &["Valkey "]);
    version.expect("store.permissions", "ok", &["docs/acl.txt"]);
}

#[test]
fn options_that_work_against_each_other_are_warnings() {
    let postgres = Postgres::start();
    let mut command = doctor("memory://", &postgres.create_database("shop"));
    command.args(["--update-wait", "5s", "--update-lease", "3s"]);
    let diagnosis = Diagnosis::of(command);
    assert_eq!(diagnosis.complaints(), ["options"]);
    assert_eq!(diagnosis.code, 1);
}
