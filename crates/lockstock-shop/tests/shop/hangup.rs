//! SIGHUP: reads files again, and never stops a server.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use lockstock_testkit::{Authority, Process};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde_json::Value;
use tempfile::TempDir;

use crate::access::KeyFile;
use crate::harness::{PATIENCE, Server, ServerBuilder, binary, eventually, sqlite};

const SIGHUP: i32 = 1;

/// Waits for a line of the log.
async fn logged(server: &Server, words: &str) {
    eventually(words, async || server.log().contains(words).then_some(())).await;
}

#[tokio::test]
async fn sighup_does_not_stop_a_server_without_files() {
    // The tests themselves may run under nohup.
    for wrapper in [&["env", "--default-signal=HUP"][..], &["nohup"]] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(wrapper[0]);
        command
            .args(&wrapper[1..])
            .arg(binary().get_program())
            .args(["--listen", "127.0.0.1:0", "--drain-delay", "0s"])
            .arg("--database")
            .arg(sqlite(&folder.path().join("shop.sqlite3")));
        let server = Server::from(command).start();
        server.process.signal(SIGHUP);
        logged(&server, "no API keys and no certificate to read again").await;
        assert_eq!(server.get("/readyz").await.status, 200);
        server.process.terminate();
        let status = server.process.wait(PATIENCE).expect("exits");
        assert_eq!(status.code(), Some(0), "{}", server.log());
    }
}

#[test]
fn sighup_does_not_stop_a_server_that_starts() {
    // A store that accepts connections and does not reply.
    let store = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("env");
    command
        .arg("--default-signal=HUP")
        .arg(binary().get_program())
        .args([
            "--listen",
            "127.0.0.1:0",
            "--store-timeout",
            "10m",
            "--store",
        ])
        .arg(format!("redis://{}/0", store.local_addr().unwrap()))
        .arg("--database")
        .arg(sqlite(&folder.path().join("shop.sqlite3")))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let process = Process::spawn(command).unwrap();
    let connection = store.accept().unwrap();
    process.signal(SIGHUP);
    drop((connection, store));
    let output = BufReader::new(process.take_stdout().unwrap());
    let line = output
        .lines()
        .map_while(Result::ok)
        .find(|line| line.starts_with('{'));
    let listening: Value = serde_json::from_str(&line.expect("the server starts")).unwrap();
    let api = listening["api"].as_str().expect("a URL");
    let server = api
        .strip_suffix("api/products/")
        .expect("the path of products");
    assert_eq!(listening["board"], server);
    process.terminate();
    let status = process.wait(PATIENCE).expect("exits");
    assert_eq!(status.code(), Some(0));
}

/// Files of a certificate, for a server.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = Self { folder };
        let authority = Authority::new();
        let certificate = authority.issue(&["127.0.0.1"]);
        fs::copy(certificate.file(), files.path("cert.pem")).unwrap();
        fs::copy(certificate.key_file(), files.path("key.pem")).unwrap();
        files
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn server(&self, keys: &KeyFile) -> ServerBuilder {
        keys.server()
            .args(&["--tls-cert", &self.path("cert.pem")])
            .args(&["--tls-key", &self.path("key.pem")])
    }
}

#[tokio::test]
async fn sighup_reads_the_certificate_and_the_keys_again() {
    let (files, keys) = (Files::new(), KeyFile::new());
    keys.add("web", "write");
    let server = files.server(&keys).start();
    // Unchanged, so that nothing else has them read.
    server.process.signal(SIGHUP);
    logged(&server, "the TLS certificate was read again").await;
    logged(&server, "the API keys are reloaded").await;

    fs::set_permissions(files.path("key.pem"), Permissions::from_mode(0o640)).unwrap();
    server.process.signal(SIGHUP);
    eventually("the group may read the key", async || {
        let times = server.log().matches("was read again").count();
        (times == 2).then_some(())
    })
    .await;
    fs::set_permissions(files.path("key.pem"), Permissions::from_mode(0o644)).unwrap();
    server.process.signal(SIGHUP);
    logged(&server, "other users can read or change").await;
    assert!(
        server
            .log()
            .contains("the old TLS certificate stays in use")
    );
}

#[tokio::test]
async fn a_certificate_on_a_disk_that_does_not_reply_stops_nothing_else() {
    let (files, keys) = (Files::new(), KeyFile::new());
    keys.add("web", "write");
    let server = files
        .server(&keys)
        // The read would take the only one.
        .env("TOKIO_WORKER_THREADS", "1")
        .start();
    let pipe = files.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    fs::rename(&pipe, files.path("cert.pem")).unwrap();
    // Opens only when there is a reader, which then waits for as long as this file is open.
    let _writer = eventually("the file is read", async || {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK;
        let opened = rustix::fs::open(files.path("cert.pem"), flags, Mode::empty());
        assert!(matches!(opened, Ok(_) | Err(Errno::NXIO)), "{opened:?}");
        opened.ok()
    })
    .await;
    server.process.signal(SIGHUP);
    logged(&server, "the API keys are reloaded").await;
    server.process.terminate();
    let status = server.process.wait(PATIENCE).expect("exits");
    assert_eq!(status.code(), Some(0), "{}", server.log());
}
