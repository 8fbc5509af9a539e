//! Concurrency limits as clients see them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, Request, StatusCode};
use axum::routing::post as on_post;
use harness::{
    Gate, LEASE, TIMEOUT, disconnect, hang, on_each_store, post, response_with, send, sending,
};
use lockstock::Store;
use lockstock_http::{ConcurrencyLimitLayer, Key};
use lockstock_testkit::Redis;
use tokio::time::{sleep, timeout};

const TENANT: HeaderName = HeaderName::from_static("x-tenant");

fn two_permits(store: &Store) -> ConcurrencyLimitLayer {
    ConcurrencyLimitLayer::new(store, Key::header(TENANT), 2).lease(LEASE)
}

fn app(gate: &Gate, layer: &ConcurrencyLimitLayer) -> Router {
    let gate = gate.clone();
    let handler = async move || {
        gate.pass().await;
        "done"
    };
    Router::new()
        .route("/imports/", on_post(handler))
        .layer(layer.clone())
}

fn import(tenant: &str) -> Request<Body> {
    let mut request = post("/imports/");
    request
        .headers_mut()
        .insert(TENANT, tenant.parse().unwrap());
    request
}

#[tokio::test]
async fn requests_over_the_limit_are_rejected_with_retry_after() {
    on_each_store(async |[one, two]| {
        let gate = Gate::closed();
        let apps = [
            app(&gate, &two_permits(&one)),
            app(&gate, &two_permits(&two)),
        ];
        let clients = [0, 1].map(|n| sending(&apps[n], import("a")));
        gate.entered().await;
        gate.entered().await;
        for app in &apps {
            let full = send(app, import("a")).await;
            assert_eq!((full.status, &full.code()[..]), (429, "full"));
            // A permit is free as soon as a handler returns, not at the end of the lease.
            assert_eq!(full.retry_after(), Some(1));
        }
        gate.release(3);
        // Another tenant, and a request that needs no permit.
        assert_eq!(send(&apps[0], import("b")).await.status, 200);
        for client in clients {
            assert_eq!(client.await.unwrap().status, 200);
        }
        gate.release(10);
        for _ in 0..5 {
            assert_eq!(send(&apps[1], import("a")).await.status, 200);
            assert_eq!(send(&apps[1], post("/imports/")).await.status, 200);
        }
    })
    .await;
}

#[tokio::test]
async fn waiting_requests_get_permits() {
    on_each_store(async |[one, two]| {
        let gate = Gate::open();
        let waits = |store| app(&gate, &two_permits(store).wait(TIMEOUT));
        let apps = [waits(&one), waits(&two)];
        let clients = (0..20).map(|n| sending(&apps[n % 2], import("a")));
        for client in clients.collect::<Vec<_>>() {
            assert_eq!(client.await.unwrap().status, 200);
        }
        assert!(
            gate.passed() == 20 && gate.max_inside() <= 2,
            "{}",
            gate.max_inside()
        );
    })
    .await;
}

#[tokio::test]
async fn a_disconnect_does_not_stop_the_handler_and_the_permit_is_released() {
    on_each_store(async |[one, two]| {
        let (gate, layer) = (Gate::closed(), two_permits(&one));
        let mine = app(&gate, &layer);
        for _ in 0..2 {
            let client = sending(&mine, import("a"));
            gate.entered().await;
            disconnect(client).await;
        }
        assert_eq!(gate.inside(), 2, "still running");
        let other = app(&gate, &two_permits(&two));
        assert_eq!(send(&other, import("a")).await.status, 429);
        gate.release(3);
        timeout(TIMEOUT, layer.drain()).await.unwrap();
        assert_eq!(gate.passed(), 2);
        assert_eq!(send(&other, import("a")).await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_panic_resumes_in_the_caller_and_the_permit_is_released() {
    on_each_store(async |[one, two]| {
        let layer = ConcurrencyLimitLayer::new(&one, Key::header(TENANT), 1).lease(LEASE);
        let broken = Router::new()
            .route(
                "/imports/",
                on_post(async || -> StatusCode { panic!("boom") }),
            )
            .layer(layer.clone());
        let client = sending(&broken, import("a"));
        assert!(client.await.unwrap_err().is_panic());
        timeout(TIMEOUT, layer.drain()).await.unwrap();
        let one_of = ConcurrencyLimitLayer::new(&two, Key::header(TENANT), 1).lease(LEASE);
        let sound = app(&Gate::open(), &one_of);
        assert_eq!(send(&sound, import("a")).await.status, 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_renewed_while_the_handler_runs_up_to_a_maximum() {
    let layer = ConcurrencyLimitLayer::new(&Store::memory(), Key::header(TENANT), 1)
        .lease(Duration::from_secs(1))
        .auto_renew(Duration::from_secs(25));
    let slow = async || {
        sleep(Duration::from_secs(20)).await;
        "done"
    };
    let app = Router::new()
        .route("/imports/", on_post(slow))
        .route("/hangs/", on_post(hang))
        .layer(layer);
    let client = sending(&app, import("a"));
    sleep(Duration::from_secs(15)).await;
    assert_eq!(send(&app, import("a")).await.status, 429, "still held");
    assert_eq!(client.await.unwrap().status, 200);
    let mut hangs = import("a");
    *hangs.uri_mut() = "/hangs/".parse().unwrap();
    let stopped = sending(&app, hangs);
    sleep(Duration::from_secs(24)).await;
    assert!(!stopped.is_finished());
    let stopped = stopped.await.unwrap();
    assert_eq!((stopped.status, &stopped.code()[..]), (409, "lock_lost"));
    assert_eq!(send(&app, import("a")).await.status, 200);
}

#[tokio::test]
async fn an_unavailable_store_rejects_requests_unless_the_layer_fails_open() {
    let redis = Redis::start();
    let store = Store::connect(&redis.url()).await.unwrap();
    let gate = Gate::open();
    let closed = app(&gate, &two_permits(&store));
    let open = app(&gate, &two_permits(&store).fail_open());
    redis.kill();
    let rejected = send(&closed, import("a")).await;
    assert_eq!(
        (rejected.status, &rejected.code()[..]),
        (503, "store_unavailable")
    );
    assert_eq!(rejected.retry_after(), Some(1));
    assert_eq!(gate.passed(), 0);
    assert_eq!(send(&open, import("a")).await.status, 200);
    redis.restart();
    assert_eq!(send(&closed, import("a")).await.status, 200);
}

#[tokio::test]
async fn the_response_to_a_rejection_is_configurable() {
    let gate = Gate::closed();
    let layer = ConcurrencyLimitLayer::new(&Store::memory(), Key::header(TENANT), 1)
        .retry_after(Duration::from_secs(5))
        .on_rejection(|rejected, language| {
            response_with(StatusCode::SERVICE_UNAVAILABLE, rejected.detail(language))
        });
    let app = app(&gate, &layer);
    let client = sending(&app, import("a"));
    gate.entered().await;
    let full = send(&app, import("a")).await;
    assert_eq!(full.status, 503);
    assert!(full.body.contains("(limit: 1)") && full.retry_after() == Some(5));
    gate.release(1);
    assert_eq!(client.await.unwrap().status, 200);
}
