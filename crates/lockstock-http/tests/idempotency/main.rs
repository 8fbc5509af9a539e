//! `Idempotency-Key` as clients see it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cases;
mod failures;
#[path = "../harness/mod.rs"]
mod harness;
mod limits;
mod process_first;
mod record_stores;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::any;
use axum::{Extension, Router};
use bytes::Bytes;
use futures_util::stream;
use harness::{
    Gate, SHORT, TIMEOUT, TestResponse, disconnect, on_each_store, read, response_with, send,
    sending,
};
use lockstock::Store;
use lockstock_http::{
    BoxError, IdempotencyLayer, LockstockRecordStore, RecordStore, RecordedResponse, RequestKey,
};
use lockstock_testkit::Redis;
use tokio::time::{sleep, timeout};
use tower::{Layer, ServiceExt, service_fn};

const LEASE: Duration = Duration::from_secs(20);

fn in_store(store: &Store) -> IdempotencyLayer {
    IdempotencyLayer::in_store(store)
}

/// Service that numbers its effects. A header of the request sets the status of the response.
#[derive(Clone)]
struct Payments {
    gate: Gate,
    made: Arc<AtomicUsize>,
}

impl Payments {
    fn new(gate: Gate) -> Self {
        let made = Arc::default();
        Self { gate, made }
    }

    fn app(&self, layer: &IdempotencyLayer) -> Router {
        let this = self.clone();
        let handler = async move |asked: HeaderMap, body: Bytes| {
            let number = this.made.fetch_add(1, Ordering::SeqCst) + 1;
            this.gate.pass().await;
            let status = asked.get("x-status").map_or(StatusCode::CREATED, |status| {
                status.to_str().unwrap().parse().unwrap()
            });
            let headers = [
                ("content-type", "text/x-payment".to_owned()),
                ("etag", format!("\"{number}\"")),
                ("location", format!("/payments/{number}/")),
                ("content-encoding", "identity".to_owned()),
                ("content-language", "en".to_owned()),
                ("content-disposition", "inline".to_owned()),
                ("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT".to_owned()),
                ("link", "</>; rel=up".to_owned()),
                ("vary", "accept".to_owned()),
                ("x-other", "not recorded".to_owned()),
                ("set-cookie", "session=secret".to_owned()),
            ];
            let body = String::from_utf8_lossy(&body).into_owned();
            (status, headers, format!("{number}: {body}"))
        };
        Router::new()
            .route("/payments/", any(handler.clone()))
            .route("/other/", any(handler))
            .layer(layer.clone())
            .layer(DefaultBodyLimit::disable())
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }
}

fn payments() -> Payments {
    Payments::new(Gate::open())
}

fn pay(key: &str) -> Request<Body> {
    with(key, &[])
}

fn with(key: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::post("/payments/?a=1").header("idempotency-key", key);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from("12.50")).unwrap()
}

fn is_replayed(response: &TestResponse) -> bool {
    response.header("idempotent-replayed") == "true"
}
