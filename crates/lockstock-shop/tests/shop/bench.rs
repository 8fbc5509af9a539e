//! `lockstock bench`: its results, and what makes it fail.

use std::process::{Child, Output, Stdio};

use lockstock_testkit::{Redis, free_port};
use serde_json::Value;

use crate::harness::{binary, eventually};

fn bench(args: &[&str]) -> Output {
    let mut command = binary();
    command.args(["bench", "lock"]).args(args);
    command.stdin(Stdio::null()).output().unwrap()
}

/// Returns the JSON of `bench cache`.
fn measured_cache(store: &str) -> Value {
    let mut command = binary();
    command.args(["bench", "cache", "--json", "--seconds", "1", "--tasks", "4"]);
    command.args(["--threads", "2", "--size", "20", "--store", store]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    for workload in ["get", "set", "mix"] {
        let number = |name: &str| line[workload][name].as_f64().unwrap();
        assert!(number("calls_per_s") > 0.0, "{line}");
        assert!(number("p50_ms") <= number("p99_ms"), "{line}");
        assert!(number("p99_ms") <= number("p999_ms"), "{line}");
    }
    line
}

/// Returns the JSON of a bench that found no violation.
fn measured(args: &[&str]) -> Value {
    let output = bench(&[&["--json", "--seconds", "1"], args].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(line["acquisitions_per_s"].as_f64().unwrap() > 0.0, "{line}");
    for failure in ["overlaps", "fence_violations", "lost", "stalled", "errors"] {
        assert_eq!(line[failure], 0, "{failure} of {line}");
    }
    let wait = |which: &str| line[which].as_f64().unwrap();
    let (p50, p99) = (wait("wait_p50_ms"), wait("wait_p99_ms"));
    assert!(p50 <= p99 && p99 <= wait("wait_max_ms"), "{line}");
    line
}

/// Asserts that commands which scripts call are not counted.
fn assert_commands(line: &Value) {
    match line["commands_per_acquisition"].as_f64() {
        Some(commands) => assert!(commands > 0.0 && commands < 3.0, "{line}"),
        // On a busy machine the count is unknown, which is not a failure.
        None => assert!(line.to_string().contains("too little"), "{line}"),
    }
}

/// Asserts that the bench fails with `code`, and returns its error.
fn error(args: &[&str], code: i32) -> String {
    let output = bench(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

#[test]
fn values_are_measured_beside_plain_commands_and_removed() {
    let redis = Redis::start();
    let line = measured_cache(&redis.url());
    for workload in ["get", "set", "mix"] {
        assert!(line[workload]["ratio"].as_f64().unwrap() > 0.0, "{line}");
        assert!(
            line[workload]["plain"]["calls_per_s"].as_f64().unwrap() > 0.0,
            "{line}"
        );
    }
    let left = redis.command(&["KEYS", "lockstock:cache:*"]);
    assert_eq!(left, Ok(String::new()));
    let line = measured_cache("memory://");
    assert!(
        line["get"]["plain"].is_null() && line["get"]["ratio"].is_null(),
        "{line}"
    );
}

#[test]
fn processes_that_contend_for_one_name_are_measured() {
    let redis = Redis::start();
    let args = ["--store", &redis.url(), "--processes", "2", "--tasks", "2"];
    let line = measured(&args);
    assert_commands(&line);
}

#[test]
fn tasks_with_names_of_their_own_are_measured() {
    let redis = Redis::start();
    let store = ["--store", &redis.url(), "--processes", "2"];
    let line = measured(&[&store[..], &["--tasks", "20", "--names", "40"]].concat());
    assert_commands(&line);
}

#[test]
fn in_memory_no_commands_are_sent() {
    let line = measured(&["--work", "1ms"]);
    assert_eq!(line["commands_per_acquisition"], 0.0);
}

#[test]
fn without_permission_to_count_commands_the_reason_is_given() {
    for denied in ["INFO", "MONITOR"] {
        let redis = Redis::start();
        let but = format!("-{denied}");
        let user = [
            "ACL", "SETUSER", "app", "on", ">hush", "~*", "&*", "+@all", &but,
        ];
        redis.command(&user).unwrap();
        let store = redis.url().replace("redis://", "redis://app:hush@");
        let line = measured(&["--store", &store]);
        assert_eq!(line["commands_per_acquisition"], Value::Null);
        let why = line["commands_unknown_because"].as_str().unwrap();
        assert!(why.contains(denied) && why.contains("permission"), "{why}");
        assert!(!line.to_string().contains("hush"), "{line}");
    }
}

#[tokio::test]
async fn overlapping_holders_fail_the_bench() {
    let redis = Redis::start();
    let two = ["--processes", "2", "--tasks", "1", "--work", "1s"];
    let more = ["--store", &redis.url(), "--seconds", "2", "--json"];
    let bench = start(&[&two[..], &more].concat());
    let held = || (redis.command(&["EXISTS", "lockstock-bench-0"]).unwrap() == "1").then_some(());
    eventually("held", async || held()).await;
    // Redis loses the lock, and its clients reconnect and acquire it while the holder works.
    redis.command(&["FLUSHALL"]).unwrap();
    for kind in ["normal", "pubsub"] {
        redis.command(&["CLIENT", "KILL", "TYPE", kind]).unwrap();
    }
    let output = bench.wait_with_output().unwrap();
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(line["overlaps"].as_u64().unwrap() > 0, "{line}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn help_lists_options_and_examples() {
    let help = bench(&["--help"]);
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    for word in [
        "--store",
        "--processes",
        "--names",
        "clock",
        "exit code",
        "Examples:",
    ] {
        assert!(help.contains(word), "{word} is missing in {help}");
    }
}

#[test]
fn an_invalid_value_is_rejected_with_an_example() {
    let one_process = error(&["--processes", "2"], 1);
    assert!(
        one_process.contains("redis://127.0.0.1:6379/1"),
        "{one_process}"
    );
    let too_long = error(&["--work", "2s", "--lease", "1s"], 1);
    assert!(too_long.contains("--lease"), "{too_long}");
    assert!(error(&["--tasks", "0"], 2).contains("from 1 to 100000"));
    assert!(error(&["--work", "3"], 2).contains("like 2ms"));
    let store = format!("redis://shop:open-sesame@127.0.0.1:{}/0", free_port());
    let stderr = error(&["--store", &store, "--processes", "3"], 1);
    assert!(stderr.contains("cannot connect to Redis"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "not once per process: {stderr}");
    assert!(!stderr.contains("open-sesame"), "{stderr}");
}

#[tokio::test]
async fn workers_exit_when_the_bench_is_killed() {
    let redis = Redis::start();
    let many = ["--processes", "3", "--seconds", "600"];
    let mut bench = start(&[&["--store", &redis.url()], &many[..]].concat());
    let clients = || {
        let clients = redis.command(&["CLIENT", "LIST"]).unwrap();
        // Without the client that lists them.
        clients.lines().count() - 1
    };
    eventually("started", async || (clients() >= 3).then_some(())).await;
    bench.kill().unwrap();
    bench.wait().unwrap();
    eventually("ended", async || (clients() == 0).then_some(())).await;
}

fn start(args: &[&str]) -> Child {
    let mut command = binary();
    command.args(["bench", "lock"]).args(args);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}
