//! The layers in a real server, with clients on sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post as on_post};
use futures_util::stream;
use harness::{Gate, LEASE, TIMEOUT};
use lockstock::Store;
use lockstock_http::{IdempotencyLayer, Key, LockLayer, PreconditionsLayer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

async fn send(to: SocketAddr, request: &str) -> TcpStream {
    let mut client = TcpStream::connect(to).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    client
}

/// Reads headers and body in lower case.
async fn read(mut client: TcpStream) -> String {
    let mut text = String::new();
    let read = client.read_to_string(&mut text);
    timeout(TIMEOUT, read).await.unwrap().unwrap();
    text.to_lowercase()
}

fn pay(key: &str) -> String {
    format!(
        "POST /payments/1/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         idempotency-key: {key}\r\ncontent-length: 5\r\n\r\n12.50"
    )
}

#[tokio::test]
async fn a_closed_connection_does_not_stop_the_handler() {
    let (gate, store) = (Gate::closed(), Store::memory());
    let handler = {
        let gate = gate.clone();
        async move |body: String| {
            gate.pass().await;
            body
        }
    };
    let once = IdempotencyLayer::in_store(&store);
    let alone = LockLayer::exclusive(&store, Key::path("/payments/{id}/"), LEASE);
    let app = Router::new()
        .route("/payments/{id}/", on_post(handler))
        .layer(alone.clone())
        .layer(once.clone());
    let server = serve(app).await;
    let client = send(server, &pay("k")).await;
    gate.entered().await;
    drop(client);
    let busy = read(send(server, &pay("l")).await).await;
    assert!(
        busy.starts_with("http/1.1 429 ") && busy.contains("\r\nretry-after: "),
        "{busy}"
    );
    let in_flight = read(send(server, &pay("k")).await).await;
    assert!(in_flight.starts_with("http/1.1 409 "), "{in_flight}");
    gate.release(2);
    timeout(TIMEOUT, once.drain()).await.unwrap();
    timeout(TIMEOUT, alone.drain()).await.unwrap();
    let result = read(send(server, &pay("k")).await).await;
    assert!(
        result.starts_with("http/1.1 200 ") && result.ends_with("\r\n\r\n12.50"),
        "{result}"
    );
    assert!(
        result.contains("\r\nidempotent-replayed: true\r\n"),
        "{result}"
    );
    let free = read(send(server, &pay("l")).await).await;
    assert!(free.starts_with("http/1.1 200 "), "{free}");
    assert_eq!(gate.passed(), 2);
}

#[tokio::test]
async fn a_body_with_an_announced_length_over_the_limit_is_rejected_unread() {
    let app = Router::new()
        .route("/", on_post(async || "done"))
        .layer(IdempotencyLayer::in_store(&Store::memory()));
    let head = "POST / HTTP/1.1\r\nhost: x\r\nidempotency-key: k\r\ncontent-length: 65537\r\n\r\n";
    // The client sends no byte of the body.
    let rejected = read(send(serve(app).await, head).await).await;
    assert!(rejected.starts_with("http/1.1 413 "), "{rejected}");
}

#[tokio::test]
async fn a_304_has_no_body_and_the_connection_stays_open() {
    let app = Router::new()
        .route("/", get(async || ([("etag", "\"3\"")], "the body")))
        .layer(PreconditionsLayer::new());
    let server = serve(app).await;
    let seen = "GET / HTTP/1.1\r\nhost: x\r\nif-none-match: \"3\"\r\n\r\n";
    let anew = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let both = read(send(server, &format!("{seen}{anew}")).await).await;
    let (first, second) = both.split_once("\r\n\r\n").unwrap();
    assert!(
        first.starts_with("http/1.1 304 ") && first.contains("etag: \"3\""),
        "{both}"
    );
    assert!(
        second.starts_with("http/1.1 200 ") && second.ends_with("\r\n\r\nthe body"),
        "{both}"
    );
}

#[tokio::test]
async fn a_response_that_breaks_off_does_not_look_complete() {
    let chunks = || async {
        let chunks = [Ok("paid"), Err("the backend is gone")];
        Body::from_stream(stream::iter(chunks))
    };
    let once = IdempotencyLayer::in_store(&Store::memory());
    let app = Router::new().route("/payments/{id}/", on_post(chunks).layer(once));
    // Nothing at all, or chunks without the last one.
    let response = read(send(serve(app).await, &pay("k")).await).await;
    assert!(!response.contains("content-length"), "{response}");
    assert!(!response.ends_with("\r\n0\r\n\r\n"), "{response}");
}
