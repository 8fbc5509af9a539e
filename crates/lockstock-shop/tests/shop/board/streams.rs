//! The stream itself: its head, its limits and its end.

use reqwest::Method;
use serde_json::json;

use super::{Watcher, request};
use crate::access::KeyFile;
use crate::harness::{Server, eventually};

#[tokio::test]
async fn a_stream_has_the_headers_that_keep_it_a_stream() {
    let server = Server::embedded().start();
    let watcher = Watcher::of(&server).await;
    let header = |name: &str| watcher.headers()[name].to_str().unwrap();
    assert_eq!(header("content-type"), "text/event-stream");
    assert_eq!(header("cache-control"), "no-store");
    assert_eq!(header("x-accel-buffering"), "no");
    // It is no request in progress.
    server.in_flight(0).await;
}

#[tokio::test]
async fn a_client_that_accepts_no_events_gets_406() {
    let server = Server::embedded().start();
    for (accept, status) in [
        ("application/json", 406),
        ("text/event-stream;q=0", 406),
        ("*/*", 200),
        ("text/event-stream", 200),
    ] {
        let stream = server
            .request(Method::GET, "/api/locks/events")
            .header("Accept", accept);
        assert_eq!(stream.send().await.unwrap().status(), status, "{accept}");
    }
    let html = request(&server).header("Accept-Language", "ko");
    assert_eq!(html.send().await.unwrap().status(), 200);
}

/// Changes a product, and reads frames until one contains the change. Returns the id of that frame.
async fn change(server: &Server, watcher: &mut Watcher, id: i64, stock: i64) -> String {
    assert_eq!(
        server.patch(id, json!({ "stock": stock })).await.status,
        200
    );
    loop {
        let event = watcher.next().await.unwrap();
        let products = event.data["products"].as_array().into_iter().flatten();
        if event.name == "frame" && products.clone().any(|it| it["stock"] == stock) {
            return event.id;
        }
    }
}

#[tokio::test]
async fn a_client_that_comes_back_gets_the_events_since_then() {
    let server = Server::embedded()
        .args(&["--after-update", "release"])
        .start();
    let id = server.create(10).await;
    let (mut watcher, mut other) = (Watcher::of(&server).await, Watcher::of(&server).await);
    watcher.expect("snapshot").await;
    other.expect("snapshot").await;
    let last = change(&server, &mut watcher, id, 9).await;
    drop(watcher);
    change(&server, &mut other, id, 8).await;
    change(&server, &mut other, id, 7).await;
    let back = |id: &str| Watcher::open(request(&server).header("Last-Event-ID", id));
    let mut watcher = back(&last).await;
    let first = watcher.next().await.unwrap();
    assert_eq!(first.name, "frame", "no snapshot");
    let number = |id: &str| id.rsplit_once('-').unwrap().1.parse::<u64>().unwrap();
    assert_eq!(number(&first.id), number(&last) + 1);
    // The id of another process, of no process, and of the future.
    let process = last.split_once('-').unwrap().0;
    for unknown in ["00000000-1", "x", &format!("{process}-99999999999")] {
        let mut watcher = back(unknown).await;
        let first = watcher.next().await.unwrap();
        if first.name == "reset" {
            watcher.expect("snapshot").await;
        } else {
            assert_eq!(first.name, "snapshot", "{unknown}");
        }
    }
}

#[tokio::test]
async fn streams_are_limited_and_a_closed_one_makes_room() {
    let server = Server::embedded().args(&["--max-watchers", "2"]).start();
    let (one, mut two) = (Watcher::of(&server).await, Watcher::of(&server).await);
    let rejected = server.send(request(&server)).await;
    assert_eq!(rejected.status, 503);
    assert_eq!(rejected.body["code"], "too_many_watchers");
    assert_eq!(rejected.retry_after(), 5);
    drop(one);
    let mut again = eventually("a place is free", async || {
        let response = request(&server).send().await.unwrap();
        (response.status() == 200).then(|| Watcher::reading(response))
    })
    .await;
    again.expect("snapshot").await;
    two.expect("snapshot").await;
    let metrics = server.get("/metrics").await.body;
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("lockstock_watchers 2\n"), "{metrics}");
}

#[tokio::test]
async fn without_watchers_nothing_is_recorded() {
    let server = Server::embedded().args(&["--max-watchers", "0"]).start();
    let id = server.create(10).await;
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
    assert_eq!(server.send(request(&server)).await.status, 503);
    // The store knows the holder, and nothing of its request.
    let listed = server.get("/api/locks/").await.body;
    assert_eq!(listed["locks"][0]["state"], "kept");
    assert!(listed["locks"][0]["holder"]["request"].is_null());
}

#[tokio::test]
async fn a_stopping_server_ends_its_streams_at_once() {
    let server = Server::embedded()
        .args(&["--drain-delay", "1h", "--drain-timeout", "1h"])
        .start();
    let mut watcher = Watcher::of(&server).await;
    watcher.expect("snapshot").await;
    server.process.terminate();
    watcher.expect("bye").await;
    assert!(watcher.next().await.is_none(), "the stream has ended");
    // It still serves requests, and no new stream.
    assert_eq!(server.get("/readyz").await.status, 503);
    let rejected = server.send(request(&server)).await;
    assert_eq!(rejected.status, 503);
    assert_eq!(rejected.body["code"], "shutting_down");
}

#[tokio::test]
async fn a_stream_outlives_the_request_timeout() {
    let server = Server::embedded()
        .args(&["--request-timeout", "100ms", "--update-wait", "50ms"])
        .args(&["--after-update", "release"])
        .start();
    let id = server.create(10).await;
    let mut watcher = Watcher::of(&server).await;
    watcher.expect("snapshot").await;
    // Each frame is 200 ms after the one before it.
    for stock in [9, 8, 7] {
        change(&server, &mut watcher, id, stock).await;
    }
}

#[tokio::test]
async fn a_stream_needs_the_read_scope_and_accepts_basic_credentials() {
    let file = KeyFile::new();
    let reader = file.add("reader", "read");
    let server = file.server().start();
    let rejected = server.send(request(&server)).await;
    assert_eq!(rejected.status, 401);
    assert!(rejected.header("www-authenticate").starts_with("Basic"));
    let mut watcher = Watcher::open(request(&server).bearer_auth(&reader)).await;
    watcher.expect("snapshot").await;
    let mut watcher = Watcher::open(request(&server).basic_auth("", Some(&reader))).await;
    watcher.expect("snapshot").await;
}
