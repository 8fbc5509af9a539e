//! What the suites share.

#![allow(dead_code, reason = "not every suite needs all of it")]

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, Response, StatusCode};
use bytes::Bytes;
use lockstock::{LockKind, Store};
use lockstock_testkit::Redis;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

pub(crate) const LEASE: Duration = Duration::from_secs(20);
pub(crate) const SHORT: Duration = Duration::from_millis(200);
/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `test` on each kind of store, as two processes have it.
pub(crate) async fn on_each_store(test: impl AsyncFn([Store; 2])) {
    let memory = Store::memory();
    test([memory.clone(), memory]).await;
    let redis = Redis::start();
    let one = Store::connect(&redis.url()).await.unwrap();
    let two = Store::connect(&redis.url()).await.unwrap();
    test([one, two]).await;
}

/// An answer, read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// The code of a refusal that is told as RFC 9457 has it.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["type"], "about:blank");
        assert_eq!(problem["status"], self.status);
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        let title = StatusCode::from_u16(self.status).unwrap();
        assert_eq!(problem["title"], title.canonical_reason().unwrap());
        problem["code"].as_str().unwrap().to_owned()
    }

    pub(crate) fn retry_after(&self) -> Option<u64> {
        let seconds = self.headers.get("retry-after")?;
        Some(seconds.to_str().unwrap().parse().unwrap())
    }
}

pub(crate) async fn answer(response: Response<Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

pub(crate) async fn send(app: &Router, request: Request<Body>) -> Answer {
    let sent = timeout(PATIENCE, app.clone().oneshot(request));
    answer(sent.await.expect("answered").unwrap()).await
}

/// The same on a task of its own: aborted, it is a client that hangs up.
pub(crate) fn sending(app: &Router, request: Request<Body>) -> JoinHandle<Answer> {
    let app = app.clone();
    tokio::spawn(async move { send(&app, request).await })
}

/// A response in the words of a test.
pub(crate) fn response_with(status: StatusCode, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
}

pub(crate) fn post(path: &str) -> Request<Body> {
    Request::post(path).body(Body::empty()).unwrap()
}

/// Hangs up, and waits until that is done.
pub(crate) async fn hang_up(client: JoinHandle<Answer>) {
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
}

/// Waits until somebody waits for the lock called `name`.
pub(crate) async fn somebody_waits(store: &Store, name: &str) {
    let waits = async {
        loop {
            let lock = store.lock_info(LockKind::Lock, name).await.unwrap();
            if lock.is_some_and(|lock| !lock.waiters.is_empty()) {
                return;
            }
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, waits).await.expect("a waiter");
}

/// A place that handlers come to, and leave when they are let.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Inner>);

struct Inner {
    came: Semaphore,
    may_go: Semaphore,
    inside: AtomicUsize,
    most: AtomicUsize,
    passed: AtomicUsize,
}

impl Gate {
    pub(crate) fn shut() -> Self {
        Self(Arc::new(Inner {
            came: Semaphore::new(0),
            may_go: Semaphore::new(0),
            inside: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            passed: AtomicUsize::new(0),
        }))
    }

    pub(crate) fn open() -> Self {
        let gate = Self::shut();
        gate.let_go(1_000_000);
        gate
    }

    /// As a handler. Dropped inside, it has left without having passed.
    pub(crate) async fn pass(&self) {
        struct Inside<'a>(&'a Inner);
        impl Drop for Inside<'_> {
            fn drop(&mut self) {
                self.0.inside.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let inside = self.0.inside.fetch_add(1, Ordering::SeqCst) + 1;
        let _inside = Inside(&self.0);
        self.0.most.fetch_max(inside, Ordering::SeqCst);
        self.0.came.add_permits(1);
        self.0.may_go.acquire().await.unwrap().forget();
        self.0.passed.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until another handler has come.
    pub(crate) async fn came(&self) {
        let came = timeout(PATIENCE, self.0.came.acquire());
        came.await.expect("a handler").unwrap().forget();
    }

    pub(crate) fn let_go(&self, how_many: usize) {
        self.0.may_go.add_permits(how_many);
    }

    /// How many there were at once.
    pub(crate) fn most(&self) -> usize {
        self.0.most.load(Ordering::SeqCst)
    }

    pub(crate) fn inside(&self) -> usize {
        self.0.inside.load(Ordering::SeqCst)
    }

    pub(crate) fn passed(&self) -> usize {
        self.0.passed.load(Ordering::SeqCst)
    }
}

pub(crate) async fn for_ever() {
    pending().await
}
