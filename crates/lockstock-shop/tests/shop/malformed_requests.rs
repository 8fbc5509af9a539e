//! Requests that mean no good, or are merely odd: each gets its 4xx as JSON, none a 500, and
//! none holds the server up.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{PATIENCE, Server, eventually, product};

/// Sends bytes as they are, and answers all that comes back until the server hangs up.
async fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = connect(server).await;
    // The server may have hung up before all was sent, and rightly so.
    let _ = stream.write_all(bytes).await;
    rest(&mut stream).await
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.url.trim_start_matches("http://"))
        .await
        .unwrap()
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    // A reset after the answer is an end, too.
    let _ = timeout(PATIENCE, read).await.expect("the server hangs up");
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(body: &str, more: &str) -> Vec<u8> {
    format!(
        "POST /api/products/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n{more}\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[tokio::test]
async fn bodies_that_nobody_should_send() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    let bodies: &[&[u8]] = &[
        b"{",
        b"[",
        b"\"",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"nul",
        b"{\"stock\": 1e999999}",
        b"{\"stock\": 0x1}",
        b"{\"a\": \"\\ud800\"}",
        b"{\"stock\": }",
        b"{}{}",
        b"\0",
        b"-",
        b"{\"name\": {\"a\": [1]}, \"price\": [[]], \"stock\": {\"$gt\": 0}}",
    ];
    for body in bodies {
        for method in [Method::POST, Method::PUT, Method::PATCH] {
            let path = if method == Method::POST {
                "/api/products/".to_owned()
            } else {
                product(id)
            };
            let request = server
                .request(method, &path)
                .header("Content-Type", "application/json")
                .body(body.to_vec());
            let answer = server.send(request).await;
            let status = answer.status.as_u16();
            assert_eq!(
                status,
                400,
                "{:?}: {answer:?}",
                String::from_utf8_lossy(body)
            );
            assert!(answer.body.is_object());
        }
    }
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    for deep in [deep, "[".repeat(60_000), "{\"a\":".repeat(10_000)] {
        let answer = raw(&server, &post(&deep, "")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(
            answer.contains("content-type: application/json"),
            "{answer}"
        );
    }
    assert_eq!(server.stock(id).await, 10);
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_however_it_comes() {
    let server = Server::embedded().args(&["--body-limit", "1000"]).start();
    let announced = raw(&server, &post(&"x".repeat(2000), "")).await;
    assert!(announced.starts_with("HTTP/1.1 413 "), "{announced}");
    assert!(
        announced.contains("\"code\":\"body_too_large\""),
        "{announced}"
    );
    let mut chunked =
        b"POST /api/products/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n"
            .to_vec();
    for _ in 0..20 {
        chunked.extend_from_slice(b"64\r\n");
        chunked.extend_from_slice(&[b'x'; 100]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let answer = raw(&server, &chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let never_ending = raw(&server, &post(&"x".repeat(40_000_000), "")).await;
    // It may have been cut off while sending, but what it heard was this.
    assert!(
        never_ending.is_empty() || never_ending.starts_with("HTTP/1.1 413 "),
        "{never_ending}"
    );
    server.create(1).await;
}

#[tokio::test]
async fn slow_clients_are_cut_off() {
    let server = Server::embedded()
        .args(&["--header-timeout", "300ms", "--body-timeout", "300ms"])
        .start();
    // A head that never ends.
    let mut stream = connect(&server).await;
    stream
        .write_all(b"GET /api/products/ HTTP/1.1\r\nHost: x\r\nX: ")
        .await
        .unwrap();
    let answer = rest(&mut stream).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408 "),
        "{answer}"
    );
    // Nothing at all.
    let mut stream = connect(&server).await;
    assert_eq!(rest(&mut stream).await, "");
    // A body that never ends.
    let mut stream = connect(&server).await;
    let head = b"PATCH /api/products/1/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
        Content-Length: 100\r\n\r\n{";
    stream.write_all(head).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    let id = server.create(1).await;
    let mut stream = connect(&server).await;
    let head = String::from_utf8_lossy(head).replace("/1/", &format!("/{id}/"));
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("\"code\":\"request_timeout\""), "{answer}");
    // It took no lock while it waited.
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
}

#[tokio::test]
async fn a_client_that_reads_no_answers_is_cut_off() {
    let server = Server::embedded()
        .args(&["--header-timeout", "500ms"])
        .start();
    for _ in 0..30 {
        let new = json!({ "name": "x", "price": 1, "description": "x".repeat(60_000) });
        let request = server.request(Method::POST, "/api/products/").json(&new);
        assert_eq!(server.send(request).await.status, 201);
    }
    let mut stream = connect(&server).await;
    // Some 60 MB of answers, of which nobody reads a byte.
    let request = b"GET /api/products/?page_size=30 HTTP/1.1\r\nHost: x\r\n\r\n".repeat(40);
    stream.write_all(&request).await.unwrap();
    eventually("cut off", async || {
        let written = stream.write_all(b"GET / HTTP/1.1\r\n").await;
        written.is_err().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_request_that_two_servers_could_read_differently_ends_the_connection() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    let smuggled =
        format!("PATCH /api/products/{id}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    let heads = [
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Content-Length: +0\r\n",
        "Content-Length: 0x0\r\n",
        "Content-Length : 0\r\n",
    ];
    for head in heads {
        let request = format!(
            "POST /api/products/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{head}\r\n\
             0\r\n\r\n{smuggled}"
        );
        let answer = raw(&server, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head:?}: {answer}");
    }
    let huge_head = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "x".repeat(200_000)
    );
    let answer = raw(&server, huge_head.as_bytes()).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    let long_path = format!(
        "GET /{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "x".repeat(60_000)
    );
    let answer = raw(&server, long_path.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert_eq!(server.stock(id).await, 10);
}

#[tokio::test]
async fn a_request_names_one_host() {
    let server = Server::embedded().start();
    for hosts in ["", "Host: a\r\nHost: b\r\n"] {
        let request = format!("GET /api/products/ HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        let answer = raw(&server, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{hosts:?}: {answer}");
        assert!(answer.contains("{\"detail\":"), "{answer}");
    }
    let old = raw(&server, b"GET /api/products/ HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 "), "{old}");
}

#[tokio::test]
async fn a_client_that_closes_its_side_still_gets_its_answer() {
    let server = Server::embedded().start();
    let mut stream = connect(&server).await;
    stream
        .write_all(b"GET /api/products/ HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn json_is_never_read_as_anything_but_json() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    for private in [
        "$serde_json::private::Number",
        "$serde_json::private::RawValue",
    ] {
        let answer = server.patch(id, json!({ "stock": { private: "9" } })).await;
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    assert_eq!(server.stock(id).await, 10);
}

#[tokio::test]
async fn options_are_told_where_a_product_can_be_and_nowhere_else() {
    let server = Server::embedded().start();
    for (path, status) in [
        ("/api/products/77/", 200),
        ("/api/products/abc/", 200),
        ("/api/products/1.5/", 404),
        ("/api/products/a%2Fb/", 404),
        ("/api/products/1%2E5/", 404),
    ] {
        let request = server.request(Method::OPTIONS, path);
        assert_eq!(server.send(request).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn odd_addresses_are_not_found() {
    let server = Server::embedded().start();
    for path in [
        "/",
        "/api",
        "/api/",
        "/nowhere",
        "/api/products/%00/",
        "/api/products/%ff/",
        "/api/products/../",
        "/api/products//",
        "/api/products/1%2F/",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/api/products/99999999999999999999999999/",
        "/api/products/%E2%80%AE/",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = raw(&server, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        assert!(
            answer.contains("content-type: application/json"),
            "{path}: {answer}"
        );
        assert!(answer.contains("{\"detail\":"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn too_many_requests_at_once_are_shed() {
    let server = Server::embedded()
        .args(&["--max-requests", "4", "--update-lease", "60s"])
        .failing("update.locked=return(1500)")
        .start();
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(server.create(10).await);
    }
    let held_up = async {
        join_all(
            ids.iter()
                .map(|id| server.patch(*id, json!({ "stock": 9 }))),
        )
        .await
    };
    let beside = async {
        eventually("four under way", async || {
            let metrics = server.get("/metrics").await.body;
            let text = metrics.as_str().unwrap();
            text.contains("lockstock_http_requests_in_flight 4")
                .then_some(())
        })
        .await;
        server.get("/api/products/").await
    };
    let (held_up, shed) = tokio::join!(held_up, beside);
    assert!(held_up.iter().all(|answer| answer.status == 200));
    assert_eq!(shed.status, 503);
    assert_eq!(shed.body["code"], "overloaded");
    assert!(shed.retry_after() >= 1);
    assert_eq!(server.get("/api/products/").await.status, 200);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_and_its_work_finished() {
    let server = Server::embedded()
        .args(&["--request-timeout", "300ms", "--after-update", "release"])
        .failing("update.locked=1*return(1000)")
        .start();
    let id = server.create(10).await;
    let answer = server.patch(id, json!({ "stock": 9 })).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body["code"], "timeout");
    eventually("finished all the same", async || {
        (server.stock(id).await == 9).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_log_cannot_be_forged() {
    let server = Server::embedded().start();
    let request = b"GET /api/products/%0a%7b%22forged%22:1%7d/ HTTP/1.1\r\nHost: x\r\n\
        X-Request-Id: a\"b\\c\r\nConnection: close\r\n\r\n";
    raw(&server, request).await;
    let mut long =
        b"GET /api/products/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: ".to_vec();
    long.extend_from_slice(&[b'x'; 1000]);
    long.extend_from_slice(b"\r\n\r\n");
    let answer = raw(&server, &long).await;
    assert!(
        !answer.contains("xxxx"),
        "an id of a thousand characters is replaced"
    );
    let log = eventually("logged", async || {
        let log = server.log();
        (log.matches("answered").count() >= 2).then_some(log)
    })
    .await;
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
        assert!(line["message"].is_string());
    }
    tokio::time::timeout(Duration::from_secs(30), server.create(1))
        .await
        .unwrap();
}
