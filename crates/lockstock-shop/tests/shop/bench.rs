//! `lockstock bench lock`: the figures that are there, and what makes it fail.

use std::process::{Child, Output, Stdio};

use lockstock_testkit::{Redis, free_port};
use serde_json::Value;

use crate::harness::{binary, eventually};

fn bench(args: &[&str]) -> Output {
    let mut command = binary();
    command.args(["bench", "lock"]).args(args);
    command.stdin(Stdio::null()).output().unwrap()
}

/// The line of JSON of a bench in which everything was as it must be.
fn measured(args: &[&str]) -> Value {
    let output = bench(&[&["--json", "--seconds", "1"], args].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(line["acquisitions_per_s"].as_f64().unwrap() > 0.0, "{line}");
    for nothing in ["overlaps", "fence_violations", "lost", "stalled", "errors"] {
        assert_eq!(line[nothing], 0, "{nothing} of {line}");
    }
    let wait = |which: &str| line[which].as_f64().unwrap();
    let (p50, p99) = (wait("wait_p50_ms"), wait("wait_p99_ms"));
    assert!(p50 <= p99 && p99 <= wait("wait_max_ms"), "{line}");
    line
}

/// A script calls several commands more, which do not count.
fn counted(line: &Value) {
    match line["commands_per_acquisition"].as_f64() {
        Some(commands) => assert!(commands > 0.0 && commands < 3.0, "{line}"),
        // A busy machine is no failure, and no reason to guess.
        None => assert!(line.to_string().contains("too little"), "{line}"),
    }
}

/// Runs what must fail, and gives what it says.
fn refused(args: &[&str], code: i32) -> String {
    let output = bench(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn processes_take_turns_on_one_name_and_every_figure_is_there() {
    let redis = Redis::start();
    let args = ["--store", &redis.url(), "--processes", "2", "--tasks", "2"];
    let line = measured(&args);
    counted(&line);
}

#[test]
fn names_enough_for_all_leave_nobody_waiting_for_another() {
    let redis = Redis::start();
    let store = ["--store", &redis.url(), "--processes", "2"];
    let line = measured(&[&store[..], &["--tasks", "20", "--names", "40"]].concat());
    counted(&line);
}

#[test]
fn in_memory_nothing_is_sent() {
    let line = measured(&["--work", "1ms"]);
    assert_eq!(line["commands_per_acquisition"], 0.0);
}

#[test]
fn a_redis_that_does_not_tell_leaves_that_figure_out_and_says_why() {
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
async fn holders_that_overlap_are_found_out_and_fail_it() {
    let redis = Redis::start();
    let two = ["--processes", "2", "--tasks", "1", "--work", "1s"];
    let more = ["--store", &redis.url(), "--seconds", "2", "--json"];
    let bench = start(&[&two[..], &more].concat());
    let held = || (redis.command(&["EXISTS", "lockstock-bench-0"]).unwrap() == "1").then_some(());
    eventually("held", async || held()).await;
    // A Redis that forgets, and whose clients have to ask again while the holder works on.
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
fn help_teaches() {
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
fn a_wrong_word_says_what_would_be_right() {
    let one_process = refused(&["--processes", "2"], 1);
    assert!(
        one_process.contains("redis://127.0.0.1:6379/1"),
        "{one_process}"
    );
    let too_long = refused(&["--work", "2s", "--lease", "1s"], 1);
    assert!(too_long.contains("--lease"), "{too_long}");
    assert!(refused(&["--tasks", "0"], 2).contains("1..=100000"));
    assert!(refused(&["--work", "3"], 2).contains("500ms"));
    let nobody = format!("redis://shop:open-sesame@127.0.0.1:{}/0", free_port());
    let said = refused(&["--store", &nobody, "--processes", "3"], 1);
    assert!(said.contains("cannot connect to Redis"), "{said}");
    assert_eq!(said.lines().count(), 1, "once, not once a process: {said}");
    assert!(!said.contains("open-sesame"), "{said}");
}

#[tokio::test]
async fn its_processes_end_with_it() {
    let redis = Redis::start();
    let many = ["--processes", "3", "--seconds", "600"];
    let mut bench = start(&[&["--store", &redis.url()], &many[..]].concat());
    let clients = || {
        let clients = redis.command(&["CLIENT", "LIST"]).unwrap();
        // Not the one that asks.
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
