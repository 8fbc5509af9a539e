//! Bodies that are rejected: by the head of the request, or because their text is not understood.

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Server, product, sqlite};
use crate::malformed_requests::{connect, post, raw, rest};

const FORM: &str = "application/x-www-form-urlencoded";

const MULTIPART: &str = "multipart/form-data; boundary=B";

/// Returns a multipart body with a name, and further headers of its part.
fn multipart(headers: &str, name: &[u8]) -> Vec<u8> {
    let mut body = b"--B\r\nContent-Disposition: form-data; name=\"name\"\r\n".to_vec();
    body.extend_from_slice(headers.as_bytes());
    body.extend_from_slice(b"\r\n");
    body.extend_from_slice(name);
    body.extend_from_slice(b"\r\n--B--\r\n");
    body
}

#[tokio::test]
async fn text_that_is_not_understood_is_never_stored() {
    let server = Server::embedded()
        .args(&["--after-update", "release"])
        .start();
    let id = server.create(10).await;
    let latin1 = b"caf\xe9";
    let cases: &[(&str, &[u8], u16)] = &[
        (
            "application/json; charset=latin-1",
            b"{\"name\": \"caf\xc3\xa9\"}",
            415,
        ),
        (
            "application/json; charset=\"UTF-16\"",
            b"{\"name\": \"x\"}",
            415,
        ),
        (
            "application/x-www-form-urlencoded; charset=iso-8859-1",
            b"name=caf%E9",
            415,
        ),
        (
            "application/x-www-form-urlencoded; Charset=euc-kr",
            b"name=x",
            415,
        ),
        (
            MULTIPART,
            &multipart("Content-Encoding: gzip\r\n", b"cafe"),
            415,
        ),
        (
            "multipart/form-data; boundary=B; charset=cp949",
            &multipart("", b"x"),
            415,
        ),
        (
            MULTIPART,
            &multipart("Content-Type: text/plain; charset=euc-kr\r\n", b"x"),
            415,
        ),
        (
            MULTIPART,
            &multipart("Content-Transfer-Encoding: base64\r\n", b"eA=="),
            415,
        ),
        (FORM, b"_charset_=euc-kr&name=x", 415),
        ("application/json", b"{\"name\": \"caf\xe9\"}", 400),
        (FORM, b"name=caf%E9", 400),
        (FORM, b"name=caf\xe9", 400),
        (FORM, b"caf%E9=x&name=x", 400),
        (MULTIPART, &multipart("", latin1), 400),
        (
            "application/json; charset=UTF-8",
            b"{\"name\": \"caf\xc3\xa9\"}",
            200,
        ),
        (
            "application/x-www-form-urlencoded; charset=\"utf-8\"",
            b"name=caf%C3%A9+%",
            200,
        ),
        (
            MULTIPART,
            &multipart("Content-Type: text/plain; charset=utf8\r\n", b"caf\xc3\xa9"),
            200,
        ),
    ];
    for (content_type, body, status) in cases {
        let request = server
            .request(Method::PATCH, &product(id))
            .header("Content-Type", *content_type)
            .body(body.to_vec());
        let response = server.send(request).await;
        assert_eq!(response.status, *status, "{content_type} {response:?}");
        let name = server.get(&product(id)).await.body["name"].clone();
        let name = name.as_str().unwrap();
        let is_whole = if *status == 200 {
            name.starts_with("café")
        } else {
            name == "Canvas sneakers"
        };
        assert!(is_whole, "{name}");
    }
}

#[tokio::test]
async fn a_content_coding_is_rejected_in_every_format() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00";
    for content_type in ["application/json", FORM, MULTIPART] {
        for (method, path) in [
            (Method::POST, "/api/products/".to_owned()),
            (Method::PUT, product(id)),
            (Method::PATCH, product(id)),
            (Method::POST, format!("{}purchases/", product(id))),
            (Method::POST, format!("{}reservations/", product(id))),
        ] {
            for key in [None, Some("k")] {
                let mut request = server
                    .request(method.clone(), &path)
                    .header("Content-Type", content_type)
                    .header("Content-Encoding", "gzip")
                    .body(gzip.to_vec());
                if let Some(key) = key {
                    request = request.header("Idempotency-Key", key);
                }
                let response = server.send(request).await;
                assert_eq!(response.status, 415, "{method} {path} {response:?}");
                assert_eq!(response.header("accept-encoding"), "identity");
            }
        }
    }
    let identity = server
        .request(Method::PATCH, &product(id))
        .header("Content-Encoding", "Identity")
        .json(&json!({ "stock": 9 }));
    assert_eq!(server.send(identity).await.status, 200);
}

/// Returns the head of a request that waits for `100 Continue`.
fn expecting(start: &str, headers: &str) -> String {
    format!("{start} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n{headers}\r\n")
}

/// Sends the head of a request and no byte of its body.
async fn is_rejected_by_its_head(server: &Server, start: &str, headers: &str, status: u16) {
    let head = expecting(start, headers);
    let response = raw(server, head.as_bytes()).await;
    let begin = format!("HTTP/1.1 {status} ");
    assert!(response.starts_with(&begin), "{head}{response}");
    if start.contains("/api/") {
        assert!(response.contains("connection: close"), "{head}{response}");
    }
}

#[tokio::test]
async fn what_the_head_decides_is_rejected_without_100_continue() {
    let server = Server::embedded().args(&["--body-limit", "1000"]).start();
    let (id, missing) = (server.create(10).await, 999);
    let json = "Content-Type: application/json\r\n";
    let short = "Content-Length: 100\r\n";
    let cases = [
        (
            "POST /api/products/".to_owned(),
            format!("{json}Content-Length: 1001\r\n"),
            413,
        ),
        (
            format!("PATCH /api/products/{id}/"),
            format!("{json}Content-Length: 1001\r\n"),
            413,
        ),
        (
            "POST /api/products/".to_owned(),
            format!("{json}Content-Length: 1001\r\nIdempotency-Key: k\r\n"),
            413,
        ),
        (
            "POST /api/products/".to_owned(),
            format!("Content-Type: text/plain\r\n{short}"),
            415,
        ),
        (
            "POST /api/products/".to_owned(),
            "Transfer-Encoding: chunked\r\n".to_owned(),
            415,
        ),
        (
            format!("POST /api/products/{id}/purchases/"),
            format!("Content-Type: text/plain\r\nIdempotency-Key: k\r\n{short}"),
            415,
        ),
        (
            "POST /api/products/".to_owned(),
            format!("Content-Encoding: gzip\r\n{json}{short}"),
            415,
        ),
        (
            "POST /api/products/".to_owned(),
            format!("Content-Type: multipart/form-data\r\n{short}"),
            400,
        ),
        (
            "POST /api/products/".to_owned(),
            format!("{json}Transfer-Encoding: gzip, chunked\r\n"),
            415,
        ),
        (
            "POST /api/products/".to_owned(),
            format!("{json}Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
            415,
        ),
        (
            "POST /api/products/".to_owned(),
            format!("Idempotency-Key: a b\r\n{json}{short}"),
            400,
        ),
        (
            "POST /api/products/".to_owned(),
            format!("If-Match: 2\r\n{json}{short}"),
            400,
        ),
        (
            "POST /api/products/".to_owned(),
            format!("Accept: text/html\r\n{json}{short}"),
            406,
        ),
        (
            "POST /api/products/".to_owned(),
            format!("Host: y\r\n{json}{short}"),
            400,
        ),
        (
            format!("PATCH /api/products/{missing}/"),
            format!("{json}{short}"),
            404,
        ),
        (
            "POST /api/nothing/".to_owned(),
            format!("{json}{short}"),
            404,
        ),
        (
            format!("POST /api/products/{id}/"),
            format!("{json}{short}"),
            405,
        ),
        ("POST /healthz".to_owned(), format!("{json}{short}"), 405),
    ];
    for (start, headers, status) in cases {
        is_rejected_by_its_head(&server, &start, &headers, status).await;
    }
    // An id that no product or reservation can have, with and without a record to look for.
    for start in [
        "PUT /api/products/x/",
        "PATCH /api/products/x/",
        "POST /api/products/x/purchases/",
        "POST /api/products/x/reservations/",
        "POST /api/products/1/reservations/x/extend/",
        "POST /api/products/1/reservations/x/confirm/",
    ] {
        for key in ["", "Idempotency-Key: k\r\n"] {
            let headers = format!("{json}{short}{key}");
            is_rejected_by_its_head(&server, start, &headers, 404).await;
        }
    }
    let start = format!("POST /api/products/{id}/");
    let headers = format!("{json}{short}Idempotency-Key: k\r\n");
    is_rejected_by_its_head(&server, &start, &headers, 405).await;
    let body = r#"{"name": "Mug", "price": 1}"#;
    let headers = format!(
        "{json}Connection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    let mut stream = connect(&server).await;
    let head = expecting("POST /api/products/", &headers);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.unwrap();
    let response = rest(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 201 "), "{response}");
}

#[tokio::test]
async fn a_missing_if_match_is_rejected_without_100_continue() {
    let server = Server::embedded()
        .args(&["--after-update", "release", "--require-if-match"])
        .start();
    let id = server.create(10).await;
    let json = "Content-Type: application/json\r\nContent-Length: 100\r\n";
    for method in ["PUT", "PATCH", "DELETE"] {
        for (path, headers, status) in [
            (product(id), json.to_owned(), 428),
            // It requires that the product has another version, not that it has a known one.
            (product(id), format!("If-None-Match: \"7\"\r\n{json}"), 428),
            // Each of these matters more.
            (product(id), format!("If-Match: 2\r\n{json}"), 400),
            (product(999), json.to_owned(), 404),
        ] {
            let start = format!("{method} {path}");
            is_rejected_by_its_head(&server, &start, &headers, status).await;
        }
    }
    // A body that is not read is not invalid either.
    let invalid = || {
        let request = server.request(Method::PATCH, &product(id));
        request.json(&json!({ "stock": -1 }))
    };
    let without = server.send(invalid()).await;
    assert_eq!(without.body["code"], "precondition_required");
    let with = server.send(invalid().header("If-Match", "\"1\"")).await;
    assert_eq!(with.status, 400);
}

#[tokio::test]
async fn a_recorded_response_matters_more_than_a_required_if_match() {
    let folder = tempfile::tempdir().unwrap();
    let database = sqlite(&folder.path().join("shop.sqlite3"));
    let start = |args: &[&str]| Server::on("memory://", &database).args(args).start();
    let server = start(&[]);
    let id = server.create(10).await;
    let keyed = |server: &Server| {
        let request = server.request(Method::PATCH, &product(id));
        let request = request.header("Idempotency-Key", "k");
        request.json(&json!({ "stock": 9 }))
    };
    assert_eq!(server.send(keyed(&server)).await.status, 200);
    drop(server);
    let strict = start(&["--require-if-match"]);
    let replayed = strict.send(keyed(&strict)).await;
    assert_eq!(
        (replayed.status.as_u16(), &replayed.body["stock"]),
        (200, &json!(9))
    );
    assert_eq!(strict.patch(id, json!({ "stock": 8 })).await.status, 428);
}

#[tokio::test]
async fn a_client_that_is_still_sending_a_rejected_body_reads_its_response() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    let length = 500_000;
    for (start, content_type, status) in [
        ("POST /api/products/".to_owned(), "application/json", 413),
        ("POST /api/nothing/".to_owned(), "application/json", 404),
        (format!("POST /api/products/{id}/"), "application/json", 405),
        (
            format!("PATCH /api/products/{}/", id + 1),
            "application/json",
            404,
        ),
    ] {
        let head = format!(
            "{start} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        let mut stream = connect(&server).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        // The response is there before the body.
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(first, format!("HTTP/1.1 {status}").as_bytes());
        stream.write_all(&vec![b'x'; length]).await.unwrap();
        let response = rest(&mut stream).await;
        assert!(response.contains("\"detail\""), "{response}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_with_any_framing() {
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
    let response = raw(&server, &chunked).await;
    assert!(response.starts_with("HTTP/1.1 413 "), "{response}");
    let never_ending = raw(&server, &post(&"x".repeat(40_000_000), "")).await;
    // The connection may break while the client still sends.
    assert!(
        never_ending.is_empty() || never_ending.starts_with("HTTP/1.1 413 "),
        "{never_ending}"
    );
    server.create(1).await;
}
