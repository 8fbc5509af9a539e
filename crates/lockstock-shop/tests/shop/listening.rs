//! Listening: addresses, Unix sockets, and the limit on open files.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::{PATIENCE, Server, binary, eventually, sqlite};

/// Sends a request through a Unix socket and returns the response.
fn get(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

/// Sends a request on a connection that stays open, and returns the status of the response.
fn exchange(stream: &mut TcpStream, line: &str, body: &str) -> u16 {
    let length = body.len();
    let request = format!(
        "{line}\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n\
         {body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = BufReader::new(stream);
    let mut status = String::new();
    response.read_line(&mut status).unwrap();
    let mut length = 0;
    loop {
        let mut header = String::new();
        response.read_line(&mut header).unwrap();
        let header = header.trim_end().to_ascii_lowercase();
        match header.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    response.read_exact(&mut vec![0; length]).unwrap();
    status.split(' ').nth(1).unwrap().parse().unwrap()
}

fn on_socket(folder: &Path) -> Server {
    let socket = format!("unix:{}", folder.join("shop.sock").display());
    Server::on("memory://", &sqlite(&folder.join("shop.sqlite3")))
        .args(&["--listen", &socket])
        .start()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_served_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("shop.sock");
    let server = on_socket(folder.path());
    let response = get(&socket, "/api/products/");
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");

    // A second server must not take the socket over.
    let address = format!("unix:{}", socket.display());
    let second = binary().args(["--listen", &address]).output().unwrap();
    let error = String::from_utf8(second.stderr).unwrap();
    assert!(error.contains("another process listens on"), "{error}");
    assert!(get(&socket, "/healthz").starts_with("HTTP/1.1 200 "));

    server.process.terminate();
    let status = server.process.wait(PATIENCE).expect("exits");
    assert_eq!(status.code(), Some(0), "{}", server.log());
    assert!(!socket.exists(), "the socket is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_umask_decides_which_users_may_connect_to_a_unix_socket() {
    for (umask, mode) in [("022", 0o755), ("007", 0o770), ("077", 0o700)] {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("shop.sock");
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")])
            .arg(binary().get_program())
            .args(["--listen", &format!("unix:{}", socket.display())])
            .arg("--database")
            .arg(sqlite(&folder.path().join("shop.sqlite3")));
        let _server = Server::from(command).start();
        // To connect is to write.
        let permissions = std::fs::metadata(&socket).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, mode, "umask {umask}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_a_killed_server_left_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("shop.sock");
    on_socket(folder.path()).process.kill();
    assert!(socket.exists(), "a killed server removes nothing");
    let _server = on_socket(folder.path());
    assert!(get(&socket, "/healthz").starts_with("HTTP/1.1 200 "));

    let file = folder.path().join("notes.txt");
    std::fs::write(&file, "not a socket").unwrap();
    let address = format!("unix:{}", file.display());
    let refused = binary().args(["--listen", &address]).output().unwrap();
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("is not a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "not a socket");
}

#[tokio::test]
async fn a_host_name_is_an_address() {
    let server = Server::embedded()
        .args(&["--listen", "localhost:0"])
        .start();
    assert_eq!(server.get("/healthz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_clients_leave_files_for_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n 128; exec \"$0\" \"$@\""])
        .arg(binary().get_program())
        .args(["--listen", "127.0.0.1:0", "--no-samples", "--database"])
        .arg(sqlite(&folder.path().join("shop.sqlite3")));
    let server = Server::from(command).start();
    let log = server.log();
    assert!(
        log.contains("fewer connections than --max-connections"),
        "{log}"
    );
    assert!(log.contains("ulimit -n 10088"), "{log}");
    let address = server.url.strip_prefix("http://").unwrap().to_owned();
    // This connection is open before the others take all that are left.
    let mut first = TcpStream::connect(&address).unwrap();
    assert_eq!(exchange(&mut first, "GET /api/products/ HTTP/1.1", ""), 200);
    // Fewer than the kernel keeps in its queue, so that all of them connect at once.
    let idle = (0..100)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect::<Vec<_>>();
    let product = r#"{"name": "Mug", "price": 1, "stock": 1}"#;
    for _ in 0..20 {
        let created = exchange(&mut first, "POST /api/products/ HTTP/1.1", product);
        assert_eq!(created, 201);
        assert_eq!(exchange(&mut first, "GET /api/products/ HTTP/1.1", ""), 200);
    }
    assert_eq!(exchange(&mut first, "GET /readyz HTTP/1.1", ""), 200);
    drop(idle);
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    eventually("connections are accepted again", async || {
        let url = format!("{}/healthz", server.url);
        client.get(url).send().await.ok()
    })
    .await;
}
