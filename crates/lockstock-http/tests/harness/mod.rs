//! Servers, clients and gates for all suites.

#![allow(dead_code, reason = "not every suite uses all of it")]

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
/// Longer than any step of a test takes.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// Runs `test` on each kind of store, with a client for each of two processes.
pub(crate) async fn on_each_store(test: impl AsyncFn([Store; 2])) {
    let memory = Store::memory();
    test([memory.clone(), memory]).await;
    let redis = Redis::start();
    let one = Store::connect(&redis.url()).await.unwrap();
    let two = Store::connect(&redis.url()).await.unwrap();
    test([one, two]).await;
}

/// Response with its whole body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TestResponse {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl TestResponse {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the code of an RFC 9457 problem.
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

pub(crate) async fn read(response: Response<Body>) -> TestResponse {
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    TestResponse {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

pub(crate) async fn send(app: &Router, request: Request<Body>) -> TestResponse {
    let sent = timeout(TIMEOUT, app.clone().oneshot(request));
    read(sent.await.expect("answered").unwrap()).await
}

/// Sends a request on its own task. Aborting the task disconnects the client.
pub(crate) fn sending(app: &Router, request: Request<Body>) -> JoinHandle<TestResponse> {
    let app = app.clone();
    tokio::spawn(async move { send(&app, request).await })
}

/// Returns a response for `on_rejection`.
pub(crate) fn response_with(status: StatusCode, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
}

pub(crate) fn post(path: &str) -> Request<Body> {
    Request::post(path).body(Body::empty()).unwrap()
}

/// Disconnects a client, and waits until its request is dropped.
pub(crate) async fn disconnect(client: JoinHandle<TestResponse>) {
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
}

/// Waits until the lock `name` is held, and has as many waiters.
pub(crate) async fn wait_for_waiters(store: &Store, name: &str, count: usize) {
    let waits = async {
        loop {
            let lock = store.lock_info(LockKind::Lock, name).await.unwrap();
            if lock.is_some_and(|lock| lock.waiters.len() == count) {
                return;
            }
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(TIMEOUT, waits).await.expect("the waiters");
}

/// Gate that holds handlers until the test releases them.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Inner>);

struct Inner {
    entered: Semaphore,
    permits: Semaphore,
    inside: AtomicUsize,
    max_inside: AtomicUsize,
    passed: AtomicUsize,
}

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(Inner {
            entered: Semaphore::new(0),
            permits: Semaphore::new(0),
            inside: AtomicUsize::new(0),
            max_inside: AtomicUsize::new(0),
            passed: AtomicUsize::new(0),
        }))
    }

    pub(crate) fn open() -> Self {
        let gate = Self::closed();
        gate.release(1_000_000);
        gate
    }

    /// Waits for the release of this handler. A handler that is dropped here has not passed.
    pub(crate) async fn pass(&self) {
        struct Inside<'a>(&'a Inner);
        impl Drop for Inside<'_> {
            fn drop(&mut self) {
                self.0.inside.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let inside = self.0.inside.fetch_add(1, Ordering::SeqCst) + 1;
        let _inside = Inside(&self.0);
        self.0.max_inside.fetch_max(inside, Ordering::SeqCst);
        self.0.entered.add_permits(1);
        self.0.permits.acquire().await.unwrap().forget();
        self.0.passed.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until another handler has entered.
    pub(crate) async fn entered(&self) {
        let entered = timeout(TIMEOUT, self.0.entered.acquire());
        entered.await.expect("a handler").unwrap().forget();
    }

    pub(crate) fn release(&self, how_many: usize) {
        self.0.permits.add_permits(how_many);
    }

    /// Maximum number of handlers at a time.
    pub(crate) fn max_inside(&self) -> usize {
        self.0.max_inside.load(Ordering::SeqCst)
    }

    pub(crate) fn inside(&self) -> usize {
        self.0.inside.load(Ordering::SeqCst)
    }

    pub(crate) fn passed(&self) -> usize {
        self.0.passed.load(Ordering::SeqCst)
    }
}

pub(crate) async fn hang() {
    pending().await
}
