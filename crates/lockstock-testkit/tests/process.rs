//! The end of child processes with their value, their thread or the whole test process.

use lockstock_testkit::{Postgres, Process, Redis, free_port};
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

#[test]
fn a_missing_program_is_not_found() {
    let error = Process::spawn(Command::new("no-such-program")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn dropped_it_is_killed_with_its_children() {
    let (process, child) = shell_with_child();
    let shell = process.id();
    drop(process);
    assert!(!runs(shell));
    assert!(!runs(child));
}

#[test]
fn paused_its_children_stand_still_too() {
    let (process, child) = shell_with_child();
    process.pause();
    assert_eq!(state(process.id()), Some('T'));
    assert_eq!(state(child), Some('T'));
    process.resume();
    wait_until(|| state(process.id()) != Some('T') && state(child) != Some('T'));
}

#[test]
fn an_exit_status_is_remembered() {
    let mut command = Command::new("sh");
    command
        .args(["-c", "read line; exit 3"])
        .stdin(Stdio::piped());
    let process = Process::spawn(command).unwrap();
    assert!(process.wait(Duration::from_millis(50)).is_none());
    process.take_stdin().unwrap().write_all(b"\n").unwrap();
    assert_eq!(
        process.wait(Duration::from_secs(10)).unwrap().code(),
        Some(3)
    );
    assert_eq!(process.exited().unwrap().code(), Some(3));
    assert_eq!(process.kill().code(), Some(3));
    process.terminate();
}

#[test]
fn it_outlives_the_thread_that_started_it() {
    let redis = std::thread::spawn(Redis::start).join().unwrap();
    assert_eq!(redis.command(&["PING"]), Ok("PONG".into()));
}

#[test]
fn dropped_servers_leave_nothing() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let ids = [redis.id(), postgres.id()];
    let folders = ids.map(folder);
    drop((redis, postgres));
    for (id, folder) in ids.into_iter().zip(folders) {
        assert!(!runs(id));
        assert!(!Path::new(&folder).exists(), "{folder} is left");
    }
}

#[test]
fn servers_in_a_static_leave_nothing_when_the_test_process_ends() {
    let child = this_test("stand_in");
    let mut output = BufReader::new(child.take_stdout().unwrap());
    let (ids, folders) = announced(&mut output);
    drop(child.take_stdin());
    assert!(child.wait(Duration::from_secs(30)).unwrap().success());
    for (id, folder) in ids.into_iter().zip(folders) {
        wait_until(|| !runs(id));
        assert!(!Path::new(&folder).exists(), "{folder} is left");
    }
}

#[test]
fn servers_die_with_a_test_process_that_is_killed() {
    let child = this_test("stand_in");
    let (ids, folders) = announced(&mut BufReader::new(child.take_stdout().unwrap()));
    // Only this process is killed, and not its children.
    child.signal(9);
    child.wait(Duration::from_secs(30)).unwrap();
    for (id, folder) in ids.into_iter().zip(folders) {
        wait_until(|| !runs(id));
        // No process was left to remove it.
        std::fs::remove_dir_all(folder).unwrap();
    }
}

/// Not a test: what the two above run as a process of its own.
#[test]
#[ignore = "run by other tests"]
fn stand_in() {
    static SERVERS: OnceLock<(Redis, Postgres)> = OnceLock::new();
    let (redis, postgres) = SERVERS.get_or_init(|| (Redis::start(), Postgres::start()));
    let (redis, postgres) = (redis.id(), postgres.id());
    println!(
        "\nservers {redis} {} {postgres} {}",
        folder(redis),
        folder(postgres)
    );
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn free_ports_differ_and_lie_below_those_of_clients() {
    let ports: HashSet<u16> = (0..100).map(|_| free_port()).collect();
    assert_eq!(ports.len(), 100);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ephemeral = listener.local_addr().unwrap().port();
    assert!(ports.iter().all(|port| *port < ephemeral));
}

fn this_test(name: &str) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([name, "--exact", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    Process::spawn(command).unwrap()
}

fn announced(output: &mut impl BufRead) -> ([u32; 2], [String; 2]) {
    let line = output
        .lines()
        .map_while(Result::ok)
        .find(|line| line.starts_with("servers "))
        .expect("the stand-in prints which servers it started");
    let words: Vec<&str> = line.split(' ').collect();
    let id = |at: usize| words[at].parse().unwrap();
    ([id(1), id(3)], [words[2].to_owned(), words[4].to_owned()])
}

/// A shell that started a `sleep`, in a session of its own where it can.
fn shell_with_child() -> (Process, u32) {
    let mut command = Command::new("sh");
    command
        .args(["-c", "setsid sleep 600 & echo $!; wait"])
        .stdout(Stdio::piped());
    let process = Process::spawn(command).unwrap();
    let mut line = String::new();
    BufReader::new(process.take_stdout().unwrap())
        .read_line(&mut line)
        .unwrap();
    let child = line.trim().parse().unwrap();
    assert!(runs(child));
    (process, child)
}

/// The private folder of a server, which works in it or just below.
fn folder(id: u32) -> String {
    let cwd = std::fs::read_link(format!("/proc/{id}/cwd")).unwrap();
    let private = cwd.iter().take(3).collect::<std::path::PathBuf>();
    private.to_str().unwrap().to_owned()
}

fn runs(id: u32) -> bool {
    !matches!(state(id), None | Some('Z' | 'X'))
}

fn state(id: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat[stat.rfind(')')? + 2..].chars().next()
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "it never came true");
        std::thread::sleep(Duration::from_millis(5));
    }
}
