//! At most so many requests at a time, as clients see it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod kit;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, Request, StatusCode};
use axum::routing::post as on_post;
use kit::{
    Gate, LEASE, PATIENCE, for_ever, hang_up, on_each_store, post, response_with, send, sending,
};
use lockstock::Store;
use lockstock_http::{ConcurrencyLimitLayer, Key};
use lockstock_testkit::Redis;
use tokio::time::{sleep, timeout};

const TENANT: HeaderName = HeaderName::from_static("x-tenant");

fn two_of(store: &Store) -> ConcurrencyLimitLayer {
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
async fn so_many_at_a_time_and_the_others_hear_when_to_come_back() {
    on_each_store(async |[one, two]| {
        let gate = Gate::shut();
        let apps = [app(&gate, &two_of(&one)), app(&gate, &two_of(&two))];
        let clients = [0, 1].map(|n| sending(&apps[n], import("a")));
        gate.came().await;
        gate.came().await;
        for app in &apps {
            let full = send(app, import("a")).await;
            assert_eq!((full.status, &full.code()[..]), (429, "full"));
            let seconds = full.retry_after().unwrap();
            assert!((1..=LEASE.as_secs()).contains(&seconds), "{seconds}");
        }
        gate.let_go(3);
        // Another tenant, and one that needs no permit.
        assert_eq!(send(&apps[0], import("b")).await.status, 200);
        for client in clients {
            assert_eq!(client.await.unwrap().status, 200);
        }
        gate.let_go(10);
        for _ in 0..5 {
            assert_eq!(send(&apps[1], import("a")).await.status, 200);
            assert_eq!(send(&apps[1], post("/imports/")).await.status, 200);
        }
    })
    .await;
}

#[tokio::test]
async fn who_waits_gets_a_permit_in_turn() {
    on_each_store(async |[one, two]| {
        let gate = Gate::open();
        let waits = |store| app(&gate, &two_of(store).wait(PATIENCE));
        let apps = [waits(&one), waits(&two)];
        let clients = (0..20).map(|n| sending(&apps[n % 2], import("a")));
        for client in clients.collect::<Vec<_>>() {
            assert_eq!(client.await.unwrap().status, 200);
        }
        assert!(gate.passed() == 20 && gate.most() <= 2, "{}", gate.most());
    })
    .await;
}

#[tokio::test]
async fn a_client_that_hangs_up_stops_nothing_and_the_permit_is_given_back() {
    on_each_store(async |[one, two]| {
        let (gate, layer) = (Gate::shut(), two_of(&one));
        let mine = app(&gate, &layer);
        for _ in 0..2 {
            let client = sending(&mine, import("a"));
            gate.came().await;
            hang_up(client).await;
        }
        assert_eq!(gate.inside(), 2, "they go on");
        let other = app(&gate, &two_of(&two));
        assert_eq!(send(&other, import("a")).await.status, 429);
        gate.let_go(3);
        timeout(PATIENCE, layer.drain()).await.unwrap();
        assert_eq!(gate.passed(), 2);
        assert_eq!(send(&other, import("a")).await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_panic_goes_on_in_the_caller_and_the_permit_is_given_back() {
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
        timeout(PATIENCE, layer.drain()).await.unwrap();
        let one_of = ConcurrencyLimitLayer::new(&two, Key::header(TENANT), 1).lease(LEASE);
        let sound = app(&Gate::open(), &one_of);
        assert_eq!(send(&sound, import("a")).await.status, 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_renewed_while_the_handler_works_up_to_a_cap() {
    let layer = ConcurrencyLimitLayer::new(&Store::memory(), Key::header(TENANT), 1)
        .lease(Duration::from_secs(1))
        .auto_renew(Duration::from_secs(25));
    let slow = async || {
        sleep(Duration::from_secs(20)).await;
        "done"
    };
    let app = Router::new()
        .route("/imports/", on_post(slow))
        .route("/hangs/", on_post(for_ever))
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
async fn a_store_that_is_down_is_no_permit_unless_said_otherwise() {
    let redis = Redis::start();
    let store = Store::connect(&redis.url()).await.unwrap();
    let gate = Gate::open();
    let closed = app(&gate, &two_of(&store));
    let open = app(&gate, &two_of(&store).fail_open());
    redis.kill();
    let refused = send(&closed, import("a")).await;
    assert_eq!(
        (refused.status, &refused.code()[..]),
        (503, "store_unavailable")
    );
    assert_eq!(refused.retry_after(), Some(1));
    assert_eq!(gate.passed(), 0);
    assert_eq!(send(&open, import("a")).await.status, 200);
    redis.restart();
    assert_eq!(send(&closed, import("a")).await.status, 200);
}

#[tokio::test]
async fn a_refusal_may_be_told_in_other_words() {
    let gate = Gate::shut();
    let layer = ConcurrencyLimitLayer::new(&Store::memory(), Key::header(TENANT), 1)
        .on_rejection(|refused| response_with(StatusCode::SERVICE_UNAVAILABLE, refused.detail()));
    let app = app(&gate, &layer);
    let client = sending(&app, import("a"));
    gate.came().await;
    let full = send(&app, import("a")).await;
    assert_eq!(full.status, 503);
    assert!(full.body.contains("as may be: 1") && full.retry_after().is_some());
    gate.let_go(1);
    assert_eq!(client.await.unwrap().status, 200);
}
