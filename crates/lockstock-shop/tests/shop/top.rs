//! `lockstock top`: once for a pipe, and on a terminal.

use std::io::{Read, Write};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};

use lockstock_testkit::Process;
use serde_json::json;

use crate::access::KeyFile;
use crate::board::lock_name;
use crate::harness::{PATIENCE, Server, binary, eventually};

fn once(server: &Server, args: &[&str]) -> Output {
    binary()
        .args(["top", "--once", "--url", &server.url])
        .args(args)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn one_picture_has_a_line_for_each_lock() {
    let server = Server::embedded().start();
    let empty = text(&once(&server, &[]));
    assert!(
        empty.contains("No lock is held, kept or waited for."),
        "{empty}"
    );
    let (one, two) = (server.create(10).await, server.create(10).await);
    for id in [one, two] {
        assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
    }
    // A snapshot may be a moment old.
    let picture = eventually("both locks are shown", async || {
        let picture = text(&once(&server, &[]));
        picture.contains("2 locks, 1 server").then_some(picture)
    })
    .await;
    let line = picture
        .lines()
        .find(|line| line.starts_with(&lock_name(one)));
    let line = line.expect("a line for the lock");
    assert!(
        line.contains("kept") && line.contains("127.0.0.1"),
        "{line}"
    );
    assert!(!picture.contains('\x1b'), "no colours in a pipe");
    let filtered = text(&once(&server, &["--filter", &lock_name(two)]));
    assert!(!filtered.contains(&lock_name(one)) && filtered.contains(&lock_name(two)));
}

#[tokio::test]
async fn a_server_that_needs_a_key_gets_the_one_of_a_file() {
    let file = KeyFile::new();
    let secret = file.add("reader", "read");
    let server = file.server().start();
    let rejected = once(&server, &[]);
    assert!(!rejected.status.success());
    let error = String::from_utf8_lossy(&rejected.stderr).into_owned();
    assert!(
        error.contains("401") && error.contains("--secret-file"),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, secret).unwrap();
    text(&once(&server, &["--secret-file", path.to_str().unwrap()]));
    let down = binary()
        .args(["top", "--once", "--url", "http://127.0.0.1:1"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&down.stderr).into_owned();
    assert!(error.contains("is the server running?"), "{error}");
}

#[tokio::test]
async fn on_a_terminal_it_follows_the_locks_until_q() {
    let server = Server::embedded()
        .args(&["--after-update", "release"])
        .start();
    let id = server.create(10).await;
    // `script` gives the command a terminal.
    let mut command = std::process::Command::new("script");
    let lockstock = binary().get_program().to_str().unwrap().to_owned();
    let top = format!("{lockstock} top --url {}", server.url);
    command
        .args(["--quiet", "--return", "--command", &top, "/dev/null"])
        .env("TERM", "xterm-256color")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let process = Process::spawn(command).unwrap();
    let mut keys = process.take_stdin().unwrap();
    let mut output = process.take_stdout().unwrap();
    let screen = Arc::new(Mutex::new(String::new()));
    let shared = screen.clone();
    std::thread::spawn(move || {
        let mut part = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut part) {
            let text = String::from_utf8_lossy(&part[..length]);
            shared.lock().unwrap().push_str(&text);
        }
    });
    let shows = async |what: &str| {
        eventually(what, async || {
            screen.lock().unwrap().contains(what).then_some(())
        })
        .await;
    };
    shows("No lock is held").await;
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
    shows(&lock_name(id)).await;
    keys.write_all(b"s").unwrap();
    shows("s sort [waiting]").await;
    keys.write_all(b"/none").unwrap();
    shows("filter: none_").await;
    keys.write_all(b"\r").unwrap();
    shows("/ filter [none]").await;
    keys.write_all(b"p").unwrap();
    shows("paused").await;
    keys.write_all(b"q").unwrap();
    let status = process.wait(PATIENCE).expect("it exits");
    assert!(status.success(), "{status:?}");
    // The screen before is back.
    shows("\x1b[?1049l").await;
}
