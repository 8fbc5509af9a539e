//! The live events and the list of locks, as clients of the API see them.

mod events;
mod listing;
mod relay;
mod replicas;
mod streams;

use std::collections::VecDeque;

use lockstock_testkit::Redis;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{PATIENCE, Response, Server, new_database, product};

/// An event of a stream.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}

/// A client that reads a stream of events.
pub(crate) struct Watcher {
    response: reqwest::Response,
    unread: Vec<u8>,
    events: VecDeque<Event>,
}

impl Watcher {
    /// Opens the stream of a server.
    pub(crate) async fn of(server: &Server) -> Self {
        Self::open(request(server)).await
    }

    pub(crate) async fn open(request: RequestBuilder) -> Self {
        Self::reading(request.send().await.unwrap())
    }

    pub(crate) fn reading(response: reqwest::Response) -> Self {
        assert_eq!(response.status(), 200);
        Self {
            response,
            unread: Vec::new(),
            events: VecDeque::new(),
        }
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Returns the next event, `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let chunk = timeout(PATIENCE, self.response.chunk());
            let chunk = chunk.await.expect("an event arrives in time").unwrap()?;
            self.unread.extend_from_slice(&chunk);
            while let Some(end) = self.unread.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.unread.drain(..end + 2).collect();
                self.events
                    .extend(parse(std::str::from_utf8(&block).unwrap()));
            }
        }
    }

    /// Returns the data of the next event, which has this name.
    pub(crate) async fn expect(&mut self, name: &str) -> Value {
        let event = self.next().await.expect("the stream goes on");
        assert_eq!(event.name, name, "{event:?}");
        event.data
    }

    /// Reads frames until `found` returns a value for what a frame has about one lock.
    pub(crate) async fn lock<T>(&mut self, found: impl FnMut(&Value) -> Option<T>) -> T {
        self.part("locks", found).await
    }

    /// Reads frames until `found` returns a value for what a frame has about one product.
    pub(crate) async fn product<T>(&mut self, found: impl FnMut(&Value) -> Option<T>) -> T {
        self.part("products", found).await
    }

    async fn part<T>(&mut self, part: &str, mut found: impl FnMut(&Value) -> Option<T>) -> T {
        loop {
            let frame = self.expect("frame").await;
            for item in frame[part].as_array().into_iter().flatten() {
                if let Some(value) = found(item) {
                    return value;
                }
            }
        }
    }

    /// Reads frames until each of `kinds` has been the kind of an event of the request `id`. Returns
    /// these events, in the order of `kinds`.
    pub(crate) async fn events_of(&mut self, id: &str, kinds: &[&str]) -> Vec<Value> {
        let mut seen: Vec<Value> = Vec::new();
        self.lock(|lock| {
            let events = lock["events"].as_array().into_iter().flatten();
            seen.extend(events.filter(|event| event["request"] == id).cloned());
            let of_kind = |kind: &&str| seen.iter().find(|event| event["kind"] == **kind).cloned();
            kinds.iter().map(of_kind).collect::<Option<Vec<_>>>()
        })
        .await
    }
}

fn parse(block: &str) -> Option<Event> {
    let field = |name: &str| {
        let mut lines = block.lines();
        lines.find_map(|line| line.strip_prefix(name).map(str::to_owned))
    };
    Some(Event {
        name: field("event: ")?,
        id: field("id: ").unwrap_or_default(),
        data: serde_json::from_str(&field("data: ")?).unwrap(),
    })
}

/// Builds a request for the stream.
pub(crate) fn request(server: &Server) -> RequestBuilder {
    server
        .request(Method::GET, "/api/locks/events")
        .header("Accept", "text/event-stream")
}

/// Sends a PATCH with an id of its own.
pub(crate) async fn patch_as(server: &Server, request: &str, id: i64, stock: i64) -> Response {
    let patch = server
        .request(Method::PATCH, &product(id))
        .header("X-Request-ID", request)
        .json(&json!({ "stock": stock }));
    server.send(patch).await
}

/// Runs `test` on a server whose locks are in memory, and on one with Redis.
pub(crate) async fn on_each_store(args: &[&str], test: impl AsyncFn(&Server)) {
    test(&Server::embedded().args(args).start()).await;
    let redis = Redis::start();
    let server = Server::on(&redis.url(), &new_database());
    test(&server.args(args).start()).await;
}

/// Returns the name of the lock of a product.
pub(crate) fn lock_name(id: i64) -> String {
    format!("product-update-lock-{id}")
}
