//! Malformed, hostile and slow requests: each is a 4xx with a JSON body, none is a 500, and none
//! blocks the server.

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{PATIENCE, Server, eventually, product};

/// Sends bytes as they are, and returns all that the server sends until it closes the connection.
pub(crate) async fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = connect(server).await;
    // The server may close the connection before it has read everything.
    let _ = stream.write_all(bytes).await;
    rest(&mut stream).await
}

pub(crate) async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.url.trim_start_matches("http://"))
        .await
        .unwrap()
}

pub(crate) async fn rest(stream: &mut TcpStream) -> String {
    let mut response = Vec::new();
    let read = stream.read_to_end(&mut response);
    // A reset after the response also ends it.
    let _ = timeout(PATIENCE, read)
        .await
        .expect("the server closes the connection");
    String::from_utf8_lossy(&response).into_owned()
}

pub(crate) fn post(body: &str, headers: &str) -> Vec<u8> {
    format!(
        "POST /api/products/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[tokio::test]
async fn malformed_json_is_rejected() {
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
            let response = server.send(request).await;
            let status = response.status.as_u16();
            assert_eq!(
                status,
                400,
                "{:?}: {response:?}",
                String::from_utf8_lossy(body)
            );
            assert!(response.body.is_object());
        }
    }
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    for deep in [deep, "[".repeat(60_000), "{\"a\":".repeat(10_000)] {
        let response = raw(&server, &post(&deep, "")).await;
        assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
        assert!(
            response.contains("content-type: application/json"),
            "{response}"
        );
    }
    assert_eq!(server.stock(id).await, 10);
}

#[tokio::test]
async fn slow_clients_are_disconnected() {
    let server = Server::embedded()
        .args(&["--header-timeout", "1s", "--body-timeout", "1s"])
        .start();
    let id = server.create(1).await;
    let endless_body = |id: i64| {
        format!(
            "PATCH /api/products/{id}/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Content-Length: 100\r\n\r\n{{"
        )
    };
    let (of_missing, of_product) = (endless_body(id + 1), endless_body(id));
    let (endless_head, nothing, of_missing, of_product) = tokio::join!(
        raw(&server, b"GET /api/products/ HTTP/1.1\r\nHost: x\r\nX: "),
        raw(&server, b""),
        raw(&server, of_missing.as_bytes()),
        raw(&server, of_product.as_bytes()),
    );
    assert!(
        endless_head.is_empty() || endless_head.starts_with("HTTP/1.1 408 "),
        "{endless_head}"
    );
    assert_eq!(nothing, "");
    assert!(of_missing.starts_with("HTTP/1.1 4"), "{of_missing}");
    assert!(of_product.starts_with("HTTP/1.1 408 "), "{of_product}");
    assert!(
        of_product.contains("\"code\":\"request_timeout\""),
        "{of_product}"
    );
    // The server acquired no lock while it waited for the body.
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
}

#[tokio::test]
async fn a_client_that_reads_no_responses_is_disconnected() {
    let server = Server::embedded().args(&["--header-timeout", "1s"]).start();
    for _ in 0..30 {
        let new = json!({ "name": "x", "price": 1, "description": "x".repeat(60_000) });
        let request = server.request(Method::POST, "/api/products/").json(&new);
        assert_eq!(server.send(request).await.status, 201);
    }
    let mut stream = connect(&server).await;
    // About 60 MB of responses, which the client does not read.
    let request = b"GET /api/products/?page_size=30 HTTP/1.1\r\nHost: x\r\n\r\n".repeat(40);
    stream.write_all(&request).await.unwrap();
    eventually("the connection is closed", async || {
        let written = stream.write_all(b"GET / HTTP/1.1\r\n").await;
        written.is_err().then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_ambiguous_request_closes_the_connection() {
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
        let response = raw(&server, request.as_bytes()).await;
        assert!(
            response.starts_with("HTTP/1.1 400 "),
            "{head:?}: {response}"
        );
        assert_eq!(
            response.matches("HTTP/1.1 ").count(),
            1,
            "{head:?}: {response}"
        );
    }
    let huge_head = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "x".repeat(200_000)
    );
    let response = raw(&server, huge_head.as_bytes()).await;
    assert!(
        response.is_empty() || response.starts_with("HTTP/1.1 431 "),
        "{response}"
    );
    let long_path = format!(
        "GET /{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "x".repeat(60_000)
    );
    let response = raw(&server, long_path.as_bytes()).await;
    assert!(response.starts_with("HTTP/1.1 4"), "{response}");
    assert_eq!(server.stock(id).await, 10);
}

/// Requests whose end or target a proxy may read in another way. Each is rejected, or answered as one
/// request.
#[tokio::test]
async fn an_unusual_request_is_one_request_or_none() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    let smuggled =
        format!("PATCH /api/products/{id}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    let chunked = "POST /api/products/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    let heads = [
        // A value that goes on in the next line.
        format!("{chunked}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
        format!("{chunked}Transfer-Encoding: identity,\r\n chunked\r\n\r\n0\r\n\r\n"),
        // Sizes of chunks.
        format!("{chunked}Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"),
        format!("{chunked}Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n"),
        format!("{chunked}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n"),
        format!("{chunked}Transfer-Encoding: chunked\r\n\r\n2;a=\nx\r\n{{}}\r\n0\r\n\r\n"),
        // Requests of HTTP/1.0 have no chunks.
        "POST /api/products/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "GET /api/products/\r\n\r\n".to_owned(),
        "GET /api/products/ HTTP/9.9\r\nHost: x\r\n\r\n".to_owned(),
        "GET /api/products/\0 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "GET /api/products/ HTTP/1.1\r\nHost: x\r\nX\0: y\r\n\r\n".to_owned(),
        "GET /api/products/ HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n".to_owned(),
        format!(
            "GET /api/products/ HTTP/1.1\r\nHost: x\r\n{}\r\n",
            "A: b\r\n".repeat(10_000)
        ),
    ];
    for head in heads {
        let response = raw(&server, format!("{head}{smuggled}").as_bytes()).await;
        let responses = response.matches("HTTP/1.").count();
        let rejected = response.is_empty() || response.starts_with("HTTP/1.1 4");
        assert!(rejected && responses <= 1, "{head:?}: {response}");
    }
    // Names of another server, and bytes that are no UTF-8, lead to no other route.
    for (target, status) in [
        ("http://elsewhere/api/products/", 200),
        ("http://elsewhere/../../etc/passwd", 404),
        ("elsewhere:443", 404),
        ("*", 404),
        ("/api/products/%c0%af%c0%ae/", 404),
        ("/api/products/%00%0d%0aX:%20y/", 404),
        ("//elsewhere/api/products/", 404),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let response = raw(&server, request.as_bytes()).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(response.starts_with(&expected), "{target}: {response}");
        assert!(!response.contains("elsewhere"), "{target}: {response}");
    }
    // A client of HTTP/1.0 that keeps its connection sends one request after another.
    let old = "GET /api/products/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let old = format!("{old}{}", old.replace("keep-alive", "close"));
    let response = raw(&server, old.as_bytes()).await;
    assert_eq!(response.matches("HTTP/1.0 200 ").count(), 2, "{response}");
    assert_eq!(server.stock(id).await, 10);
}

#[tokio::test]
async fn a_request_must_name_exactly_one_host() {
    let server = Server::embedded().start();
    for hosts in ["", "Host: a\r\nHost: b\r\n"] {
        let request = format!("GET /api/products/ HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        let response = raw(&server, request.as_bytes()).await;
        assert!(
            response.starts_with("HTTP/1.1 400 "),
            "{hosts:?}: {response}"
        );
        assert!(response.contains("{\"detail\":"), "{response}");
    }
    let old = raw(&server, b"GET /api/products/ HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 "), "{old}");
}

#[tokio::test]
async fn a_half_closed_connection_gets_its_response() {
    let server = Server::embedded().start();
    let mut stream = connect(&server).await;
    stream
        .write_all(b"GET /api/products/ HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let response = rest(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
}

#[tokio::test]
async fn private_names_of_serde_json_are_ordinary_fields() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    for private in [
        "$serde_json::private::Number",
        "$serde_json::private::RawValue",
    ] {
        let response = server.patch(id, json!({ "stock": { private: "9" } })).await;
        assert_eq!(response.status, 400, "{response:?}");
    }
    assert_eq!(server.stock(id).await, 10);
}

#[tokio::test]
async fn options_succeeds_only_on_the_path_of_a_product() {
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
async fn unknown_paths_are_404() {
    let server = Server::embedded().start();
    for path in [
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
        let response = raw(&server, request.as_bytes()).await;
        assert!(response.starts_with("HTTP/1.1 404 "), "{path}: {response}");
        assert!(
            response.contains("content-type: application/json"),
            "{path}: {response}"
        );
        assert!(response.contains("{\"detail\":"), "{path}: {response}");
    }
}

#[tokio::test]
async fn requests_beyond_the_limit_are_shed() {
    let server = Server::embedded().args(&["--max-requests", "4"]).start();
    // Requests are in flight until their bodies are complete.
    let body = r#"{"name": "Mug", "price": 1}"#;
    let request = post(body, "");
    let (head, body) = request.split_at(request.len() - body.len());
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(&server).await;
        stream.write_all(head).await.unwrap();
        streams.push(stream);
    }
    server.in_flight(4).await;
    let shed = server.get("/api/products/").await;
    assert_eq!(shed.status, 503);
    assert_eq!(shed.body["code"], "overloaded");
    assert!(shed.retry_after() >= 1);
    for mut stream in streams {
        stream.write_all(body).await.unwrap();
        let response = rest(&mut stream).await;
        assert!(response.starts_with("HTTP/1.1 201 "), "{response}");
    }
    assert_eq!(server.get("/api/products/").await.status, 200);
}

#[tokio::test]
async fn a_request_that_times_out_is_still_completed() {
    let server = Server::embedded()
        .args(&["--request-timeout", "500ms", "--after-update", "release"])
        .failing("update.locked=1*return(2000)")
        .start();
    let id = server.create(10).await;
    let response = server.patch(id, json!({ "stock": 9 })).await;
    assert_eq!(response.status, 503);
    assert_eq!(response.body["code"], "timeout");
    eventually("the update is written", async || {
        let product = server.get(&product(id)).await;
        (product.body["stock"] == 9).then_some(())
    })
    .await;
}

#[tokio::test]
async fn log_lines_cannot_be_forged() {
    // Escapes of a terminal, line ends, quotes, in everything of a request that is logged.
    let request =
        b"GET /api/products/%0a%7b%22forged%22:1%7d%1b[31m\xc2\x85\xe2\x80\xa8/ HTTP/1.1\r\n\
        Host: x\r\nX-Request-Id: a\"b\\c\r\nUser-Agent: \x1b[2J\r\n\
        X-Forwarded-For: 1.2.3.4%0aforged, \x1b[31mforged\r\nConnection: close\r\n\r\n";
    let mut long =
        b"GET /api/products/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: ".to_vec();
    long.extend_from_slice(&[b'x'; 1000]);
    long.extend_from_slice(b"\r\n\r\n");
    for format in ["json", "text"] {
        let server = Server::embedded()
            .args(&[
                "--log-format",
                format,
                "--log",
                "debug",
                "--trusted-proxies",
                "127.0.0.1",
            ])
            .start();
        raw(&server, request).await;
        let response = raw(&server, &long).await;
        assert!(
            !response.contains("xxxx"),
            "an id of a thousand characters is replaced"
        );
        let log = eventually("logged", async || {
            let log = server.log();
            (log.matches("answered").count() >= 2).then_some(log)
        })
        .await;
        for line in log.lines() {
            let is_plain = |c: char| !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}');
            assert!(line.chars().all(is_plain), "{line:?}");
            if format == "json" {
                let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                assert!(line["timestamp"].is_string());
            } else {
                // Each line begins with its time.
                assert!(line.starts_with("20") && line[..20].contains('T'), "{line}");
            }
        }
        server.create(1).await;
    }
}

#[tokio::test]
async fn head_announces_the_length_of_the_error_that_get_would_return() {
    let server = Server::embedded().start();
    for path in ["/api/products/999/", "/api/nothing/"] {
        let get = server.get(path).await;
        let head = server.send(server.request(Method::HEAD, path)).await;
        assert_eq!(head.status, 404);
        assert_eq!(get.status, 404);
        assert_eq!(head.header("content-length"), get.header("content-length"));
        assert_ne!(head.header("content-length"), "0");
    }
}
