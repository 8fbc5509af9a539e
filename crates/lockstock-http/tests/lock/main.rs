//! Locks and cool-downs as clients see them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../harness/mod.rs"]
mod harness;
mod keys;
mod observer;

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::extract::Path;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post as on_post;
use axum::{Extension, Router};
use bytes::Bytes;
use harness::{
    Gate, LEASE, SHORT, TIMEOUT, TestResponse, disconnect, hang, on_each_store, post,
    response_with, send, sending, wait_for_waiters,
};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use lockstock::{Acquired, Store};
use lockstock_http::{
    ConcurrencyLimitLayer, HeldLock, IdempotencyLayer, Key, LockLayer, NothingWritten,
    OutcomeUnknown, Preconditions, PreconditionsLayer, Rejection, RequestKey,
};
use lockstock_testkit::Redis;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tower::{Layer, ServiceExt, service_fn};

const PATH: &str = "/reports/{name}/";

fn exclusive(store: &Store) -> LockLayer {
    LockLayer::exclusive(store, Key::path(PATH), LEASE)
}

fn cooldown(store: &Store) -> LockLayer {
    LockLayer::cooldown(store, Key::path(PATH), LEASE)
}

/// Service whose handler passes the gate and returns its fence.
fn app(gate: &Gate, guard: &LockLayer) -> Router {
    let gate = gate.clone();
    let handler = async move |held: Option<Extension<HeldLock>>| {
        gate.pass().await;
        held.map_or("no lock".to_owned(), |held| held.fence.to_string())
    };
    Router::new()
        .route(PATH, on_post(handler.clone()))
        .route("/free/", on_post(handler))
        .layer(guard.clone())
}

/// Service that responds with the status in its path.
fn mirror(guard: &LockLayer) -> Router {
    let handler = async |Path(name): Path<String>| {
        let (status, outcome) = name.split_once('-').unwrap();
        let status = StatusCode::from_u16(status.parse().unwrap()).unwrap();
        let mut response = status.into_response();
        match outcome {
            "unknown" => drop(response.extensions_mut().insert(OutcomeUnknown)),
            "nothing" => drop(response.extensions_mut().insert(NothingWritten)),
            _ => {}
        }
        response
    };
    Router::new()
        .route(PATH, on_post(handler))
        .layer(guard.clone())
}

fn fence(response: &TestResponse) -> u64 {
    assert_eq!(response.status, 200, "{response:?}");
    response.body.parse().unwrap()
}

#[tokio::test]
async fn concurrent_requests_are_rejected_with_retry_after() {
    on_each_store(async |[one, two]| {
        let gate = Gate::closed();
        let apps = [app(&gate, &exclusive(&one)), app(&gate, &exclusive(&two))];
        let first = sending(&apps[0], post("/reports/weekly/"));
        gate.entered().await;
        for app in &apps {
            // Another spelling of the same path.
            let busy = send(app, post("/reports/week%6Cy/")).await;
            assert_eq!((busy.status, &busy.code()[..]), (429, "busy"));
            // The lock is free as soon as the handler returns, not at the end of the lease.
            assert_eq!(busy.retry_after(), Some(1));
        }
        gate.release(2);
        let other = send(&apps[1], post("/reports/monthly/")).await;
        let first = first.await.unwrap();
        gate.release(1);
        let next = send(&apps[1], post("/reports/weekly/")).await;
        assert_eq!(other.status, 200);
        assert!(fence(&next) > fence(&first));
    })
    .await;
}

#[tokio::test]
async fn of_five_requests_in_two_processes_one_is_processed() {
    on_each_store(async |[one, two]| {
        let gate = Gate::open();
        let apps = [app(&gate, &cooldown(&one)), app(&gate, &cooldown(&two))];
        let mut clients = JoinSet::new();
        for n in 0..5 {
            let app = apps[n % 2].clone();
            clients.spawn(async move { send(&app, post("/reports/weekly/")).await });
        }
        let responses = clients.join_all().await;
        let mut statuses: Vec<_> = responses.iter().map(|response| response.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 429, 429, 429, 429]);
        assert_eq!(gate.passed(), 1);
        let lost = responses.iter().filter(|response| response.status == 429);
        assert!(lost.clone().all(|lost| lost.retry_after().is_some()));
    })
    .await;
}

#[tokio::test]
async fn a_success_keeps_the_lock_and_an_error_releases_it() {
    on_each_store(async |[one, two]| {
        for (name, kept) in [
            ("200-known", true),
            ("204-known", true),
            ("200-nothing", false),
            ("302-known", false),
            // A POST that redirects to its result has had its effect.
            ("303-known", true),
            ("400-known", false),
            ("503-known", false),
            ("503-unknown", true),
        ] {
            let apps = [mirror(&cooldown(&one)), mirror(&cooldown(&two))];
            let path = format!("/reports/{name}/");
            let first = send(&apps[0], post(&path)).await;
            assert_ne!(first.status, 429);
            let again = send(&apps[1], post(&path)).await;
            assert_eq!(again.status == 429, kept, "{name}: {again:?}");
            if kept {
                // Kept to the end of the lease, which the body names.
                assert!(again.retry_after().unwrap() > LEASE.as_secs() / 2);
                assert!(again.body.contains("20 s"), "{}", again.body);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn success_is_configurable() {
    let store = Store::memory();
    let statuses = mirror(&cooldown(&store).success_status([StatusCode::NOT_FOUND]));
    for (name, next) in [("404-known", 429), ("201-known", 201)] {
        let path = format!("/reports/{name}/");
        send(&statuses, post(&path)).await;
        assert_eq!(send(&statuses, post(&path)).await.status, next);
    }
    let closure = mirror(&cooldown(&store).success(|response| response.status == 418));
    send(&closure, post("/reports/418-known/")).await;
    assert_eq!(
        send(&closure, post("/reports/418-known/")).await.status,
        429
    );
}

#[tokio::test]
async fn retry_after_is_configurable_and_never_later_than_the_lease() {
    let (gate, store) = (Gate::closed(), Store::memory());
    let layers = [
        exclusive(&store).retry_after(Duration::from_secs(5)),
        exclusive(&store).retry_after(Duration::from_secs(3600)),
    ];
    let first = sending(&app(&gate, &layers[0]), post("/reports/weekly/"));
    gate.entered().await;
    let busy = send(&app(&gate, &layers[0]), post("/reports/weekly/")).await;
    assert_eq!(busy.retry_after(), Some(5));
    let busy = send(&app(&gate, &layers[1]), post("/reports/weekly/")).await;
    assert!(busy.retry_after().unwrap() <= LEASE.as_secs(), "{busy:?}");
    gate.release(1);
    assert_eq!(first.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_rejection_is_in_the_language_of_the_client() {
    let store = Store::memory();
    let lock = store.lock("/reports/weekly/").lease(LEASE).unwrap();
    let _held = lock.acquire().await.unwrap();
    let app = app(&Gate::open(), &exclusive(&store));
    for (accepted, language, detail) in [
        (
            "ko-KR,ko;q=0.9,en;q=0.8",
            "ko",
            "다른 요청을 처리하고 있습니다.",
        ),
        ("en", "en", "Another request is being processed."),
    ] {
        let mut request = post("/reports/weekly/");
        let accepted = accepted.parse().unwrap();
        request.headers_mut().insert("accept-language", accepted);
        let busy = send(&app, request).await;
        assert!(busy.body.contains(detail), "{}", busy.body);
        assert_eq!(busy.header("content-language"), language);
        assert_eq!(busy.header("vary"), "Accept-Language");
    }
}

#[tokio::test]
async fn a_handler_without_its_layer_names_the_layer() {
    let app = Router::new()
        .route("/lock/", on_post(async |_: HeldLock| ()))
        .route("/conditions/", on_post(async |_: Preconditions| ()))
        .route("/key/", on_post(async |_: RequestKey| ()))
        .route(
            "/optional/",
            on_post(async |held: Option<HeldLock>, key: Option<RequestKey>| {
                assert!(held.is_none() && key.is_none());
            }),
        );
    for (path, layer) in [
        ("/lock/", "LockLayer"),
        ("/conditions/", "PreconditionsLayer"),
        ("/key/", "IdempotencyLayer"),
    ] {
        let response = send(&app, post(path)).await;
        assert_eq!(response.status, 500);
        assert!(response.body.contains(layer), "{}", response.body);
    }
    assert_eq!(send(&app, post("/optional/")).await.status, 200);
}

#[tokio::test]
async fn exclusive_releases_after_a_success_too() {
    on_each_store(async |[one, two]| {
        let apps = [mirror(&exclusive(&one)), mirror(&exclusive(&two))];
        for n in 0..6 {
            let response = send(&apps[n % 2], post("/reports/200-known/")).await;
            assert_eq!(response.status, 200);
        }
    })
    .await;
}

#[tokio::test]
async fn waiting_requests_are_processed_one_at_a_time() {
    on_each_store(async |[one, two]| {
        let gate = Gate::open();
        let waits = |store| app(&gate, &exclusive(store).wait(TIMEOUT));
        let apps = [waits(&one), waits(&two)];
        let clients = (0..20).map(|n| sending(&apps[n % 2], post("/reports/weekly/")));
        let mut fences = Vec::new();
        for client in clients.collect::<Vec<_>>() {
            fences.push(fence(&client.await.unwrap()));
        }
        fences.sort_unstable();
        fences.dedup();
        assert_eq!(
            (fences.len(), gate.passed(), gate.max_inside()),
            (20, 20, 1)
        );
    })
    .await;
}

#[tokio::test]
async fn a_disconnect_does_not_stop_the_handler_and_the_lock_is_released() {
    on_each_store(async |[one, two]| {
        let (gate, guard) = (Gate::closed(), exclusive(&one));
        let first = sending(&app(&gate, &guard), post("/reports/weekly/"));
        gate.entered().await;
        disconnect(first).await;
        assert_eq!(gate.inside(), 1, "still running");
        let other = app(&gate, &exclusive(&two));
        assert_eq!(send(&other, post("/reports/weekly/")).await.status, 429);
        gate.release(2);
        timeout(TIMEOUT, guard.drain()).await.unwrap();
        assert_eq!((gate.inside(), gate.passed()), (0, 1));
        assert_eq!(send(&other, post("/reports/weekly/")).await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_request_that_disconnects_while_waiting_is_never_processed() {
    on_each_store(async |[one, two]| {
        let (gate, guard) = (Gate::closed(), exclusive(&two).wait(TIMEOUT));
        let first = sending(&app(&gate, &exclusive(&one)), post("/reports/weekly/"));
        gate.entered().await;
        let waiting = app(&gate, &guard);
        let second = sending(&waiting, post("/reports/weekly/"));
        wait_for_waiters(&two, "/reports/weekly/", 1).await;
        disconnect(second).await;
        gate.release(1);
        assert_eq!(first.await.unwrap().status, 200);
        timeout(TIMEOUT, guard.drain()).await.unwrap();
        assert_eq!(gate.passed(), 1);
        gate.release(1);
        assert_eq!(send(&waiting, post("/reports/weekly/")).await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_panic_resumes_in_the_caller_and_the_lock_is_released() {
    on_each_store(async |[one, two]| {
        let guard = cooldown(&one);
        let broken = Router::new()
            .route(PATH, on_post(async || -> StatusCode { panic!("boom") }))
            .layer(guard.clone());
        let client = sending(&broken, post("/reports/weekly/"));
        let panic = client.await.unwrap_err().into_panic();
        assert_eq!(panic.downcast_ref(), Some(&"boom"));
        timeout(TIMEOUT, guard.drain()).await.unwrap();
        let sound = app(&Gate::open(), &cooldown(&two));
        assert_eq!(send(&sound, post("/reports/weekly/")).await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn a_panic_under_several_locks_releases_all_of_them() {
    on_each_store(async |[one, two]| {
        let outer = LockLayer::cooldown(&one, Key::from_fn(|_| Some("outer".to_owned())), LEASE);
        let inner = LockLayer::cooldown(&one, Key::from_fn(|_| Some("inner".to_owned())), LEASE);
        let handler = async || -> StatusCode { panic!("boom") };
        let broken = Router::new()
            .route(PATH, on_post(handler))
            .layer(inner.clone())
            .layer(outer.clone());
        let client = sending(&broken, post("/reports/weekly/"));
        let panic = client.await.unwrap_err().into_panic();
        assert_eq!(panic.downcast_ref(), Some(&"boom"));
        timeout(TIMEOUT, inner.drain()).await.unwrap();
        timeout(TIMEOUT, outer.drain()).await.unwrap();
        for name in ["outer", "inner"] {
            let lock = two.lock(name).lease(LEASE).unwrap();
            let free = lock.try_acquire().await.unwrap();
            assert!(matches!(free, Acquired::Held(_)), "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn losing_the_lock_stops_the_handler() {
    on_each_store(async |[one, two]| {
        let gate = Gate::closed();
        let short = LockLayer::cooldown(&one, Key::path(PATH), SHORT);
        let lost = send(&app(&gate, &short), post("/reports/weekly/")).await;
        assert_eq!((lost.status, &lost.code()[..]), (409, "lock_lost"));
        assert_eq!((gate.inside(), gate.passed()), (0, 0), "stopped");
        // A lost lock does not block other requests.
        let patient = exclusive(&two).wait(TIMEOUT);
        let next = send(&app(&Gate::open(), &patient), post("/reports/weekly/")).await;
        assert_eq!(next.status, 200);
    })
    .await;
}

#[tokio::test]
async fn losing_the_lock_stops_the_handler_under_other_layers_too() {
    on_each_store(async |[one, _]| {
        let gate = Gate::closed();
        let two = ConcurrencyLimitLayer::new(&one, Key::from_fn(|_| Some("all".to_owned())), 2);
        let once = IdempotencyLayer::in_store(&one);
        let late = app(
            &gate,
            &LockLayer::exclusive(&one, Key::path("/other/"), LEASE),
        )
        .layer(once.clone())
        .layer(two.clone())
        .layer(LockLayer::exclusive(&one, Key::path(PATH), SHORT));
        let mut request = post("/reports/weekly/");
        let key = "k".parse().unwrap();
        request.headers_mut().insert("idempotency-key", key);
        let lost = send(&late, request).await;
        assert_eq!((lost.status, &lost.code()[..]), (409, "lock_lost"));
        // The handler is on the task of the innermost layer.
        timeout(TIMEOUT, once.drain()).await.unwrap();
        timeout(TIMEOUT, two.drain()).await.unwrap();
        assert_eq!((gate.inside(), gate.passed()), (0, 0), "stopped");
    })
    .await;
}

#[tokio::test]
async fn a_handler_that_compares_fences_can_finish_without_its_lock() {
    on_each_store(async |[one, two]| {
        let other = app(&Gate::open(), &exclusive(&two).wait(TIMEOUT));
        let handler = async move |Extension(held): Extension<HeldLock>| {
            sleep_until(held.deadline).await;
            // The next holder, while this handler is still running.
            let next = send(&other, post("/reports/weekly/")).await;
            (fence(&next) > held.fence).to_string()
        };
        let guard = LockLayer::exclusive(&one, Key::path(PATH), SHORT).finish_when_lost();
        let late = Router::new().route(PATH, on_post(handler)).layer(guard);
        let response = send(&late, post("/reports/weekly/")).await;
        assert_eq!((response.status, &response.body[..]), (200, "true"));
    })
    .await;
}

#[tokio::test]
async fn an_unavailable_store_rejects_requests_unless_the_layer_fails_open() {
    let redis = Redis::start();
    let store = Store::connect(&redis.url()).await.unwrap();
    let gate = Gate::open();
    let (closed, open) = (exclusive(&store), exclusive(&store).fail_open());
    let apps = [app(&gate, &closed), app(&gate, &open)];
    assert!(fence(&send(&apps[1], post("/reports/weekly/")).await) > 0);
    redis.kill();
    let rejected = send(&apps[0], post("/reports/weekly/")).await;
    assert_eq!(
        (rejected.status, &rejected.code()[..]),
        (503, "store_unavailable")
    );
    assert_eq!(rejected.retry_after(), Some(1));
    let address = redis.address().port().to_string();
    assert!(!rejected.body.contains(&address), "{}", rejected.body);
    assert_eq!(gate.passed(), 1);
    let admitted = send(&apps[1], post("/reports/weekly/")).await;
    assert_eq!((admitted.status, &admitted.body[..]), (200, "no lock"));
    redis.restart();
    assert!(fence(&send(&apps[0], post("/reports/weekly/")).await) > 0);
}

#[tokio::test]
async fn the_response_to_a_rejection_is_configurable() {
    let store = Store::memory();
    let held = store.lock("/reports/weekly/").lease(LEASE).unwrap();
    let _held = held.acquire().await.unwrap();
    let plain = exclusive(&store).on_rejection(|rejection, language| match rejection {
        Rejection::Busy { kept, lease, .. } => response_with(
            StatusCode::LOCKED,
            format!("kept: {kept}, lease: {lease:?}"),
        ),
        other => other.problem(language),
    });
    let busy = send(&app(&Gate::open(), &plain), post("/reports/weekly/")).await;
    assert_eq!(
        (busy.status, &busy.body[..]),
        (423, "kept: false, lease: 20s")
    );
    assert_eq!(busy.retry_after(), Some(1), "added by the layer");
    let own = exclusive(&store).on_rejection(|rejected, _| {
        let mut response = response_with(rejected.status(), "");
        response.headers_mut().insert("retry-after", 7.into());
        response
    });
    let busy = send(&app(&Gate::open(), &own), post("/reports/weekly/")).await;
    assert_eq!((busy.status, busy.retry_after()), (429, Some(7)));
    assert_eq!(busy.headers.get_all("retry-after").iter().count(), 1);
}

#[tokio::test]
async fn the_response_to_a_rejection_keeps_its_extensions() {
    let store = Store::memory();
    let lock = store.lock("/reports/weekly/").lease(LEASE).unwrap();
    let _held = lock.acquire().await.unwrap();
    let layer = exclusive(&store).on_rejection(|rejection, _| {
        let mut response = response_with(rejection.status(), "");
        response.extensions_mut().insert(rejection.code());
        response
    });
    let busy = app(&Gate::open(), &layer).oneshot(post("/reports/weekly/"));
    let busy = busy.await.unwrap();
    assert_eq!(busy.extensions().get(), Some(&"busy"));
}

#[tokio::test]
async fn an_error_of_the_service_is_unchanged_and_the_lock_is_released() {
    #[derive(Debug, PartialEq)]
    struct Broken;
    let store = Store::memory();
    let guard = LockLayer::cooldown(&store, Key::path("/"), LEASE);
    let service = guard.layer(service_fn(async |_: Request<()>| {
        Err::<Response<Full<Bytes>>, _>(Broken)
    }));
    for _ in 0..3 {
        let response = service.clone().oneshot(Request::new(())).await;
        assert_eq!(response.unwrap_err(), Broken);
    }
}

/// Body that cannot be made from bytes.
type Boxed = UnsyncBoxBody<Bytes, io::Error>;

#[tokio::test]
async fn any_response_body_of_bytes_works() {
    let store = Store::memory();
    let cooldown = LockLayer::cooldown(&store, Key::path("/"), LEASE);
    let limit = ConcurrencyLimitLayer::new(&store, Key::from_fn(|_| Some("all".to_owned())), 1);
    let service = service_fn(async |request: Request<Full<Bytes>>| {
        let body: Boxed = UnsyncBoxBody::new(request.into_body().map_err(|never| match never {}));
        Ok::<_, Infallible>(Response::new(body))
    });
    let layers = (
        PreconditionsLayer::new(),
        IdempotencyLayer::in_store(&store),
        cooldown,
        limit,
    );
    let service = layers.layer(service);
    let request = || Request::new(Full::from("hello"));
    let first = service.clone().oneshot(request()).await.unwrap();
    assert_eq!(first.status(), 200);
    let body = first.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&body[..], b"hello");
    let second = service.oneshot(request()).await.unwrap();
    assert_eq!(second.status(), 429);
    assert!(
        !second
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn drain_waits_for_running_handlers() {
    let (gate, guard) = (Gate::closed(), exclusive(&Store::memory()));
    let client = sending(&app(&gate, &guard), post("/reports/weekly/"));
    gate.entered().await;
    disconnect(client).await;
    let early = timeout(Duration::from_secs(1), guard.drain()).await;
    assert!(early.is_err(), "still running");
    gate.release(1);
    timeout(TIMEOUT, guard.drain()).await.unwrap();
}

#[tokio::test]
#[should_panic(expected = "a lease must be between")]
async fn a_lease_out_of_range_panics() {
    let _ = LockLayer::exclusive(&Store::memory(), Key::path(PATH), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_loses_its_lock_after_the_lease() {
    let store = Store::memory();
    let hangs = Router::new()
        .route(PATH, on_post(hang))
        .layer(exclusive(&store));
    let response = send(&hangs, post("/reports/weekly/")).await;
    assert_eq!(response.status, 409);
}
