//! The stream itself: its head, its limits and its end.

use reqwest::Method;

use super::{Watcher, request};
use crate::harness::Server;

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
