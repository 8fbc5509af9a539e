//! `Idempotency-Key`, as clients see it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod kit;

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
use kit::{Answer, Gate, PATIENCE, SHORT, answer, hang_up, on_each_store, send, sending};
use lockstock::Store;
use lockstock_http::{BoxError, Idempotency, Record, Records, RequestKey, StoreRecords};
use lockstock_testkit::Redis;
use tokio::time::{sleep, timeout};
use tower::{Layer, ServiceExt, service_fn};

const LEASE: Duration = Duration::from_secs(20);

fn in_store(store: &Store) -> Idempotency<Body> {
    Idempotency::in_store(store)
}

/// A service that numbers its effects. The request says with what status it is answered.
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

    fn app(&self, layer: &Idempotency<Body>) -> Router {
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

fn is_replayed(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == "true"
}

#[tokio::test]
async fn the_same_request_again_is_answered_again() {
    on_each_store(async |[one, two]| {
        let payments = payments();
        let apps = [payments.app(&in_store(&one)), payments.app(&in_store(&two))];
        let first = send(&apps[0], pay("k")).await;
        assert_eq!((first.status, &first.body[..]), (201, "1: 12.50"));
        assert!(!is_replayed(&first));
        assert_eq!(first.header("x-other"), "not recorded");
        // As a string of RFC 8941 it is the same key.
        for (app, key) in apps.iter().zip(["k", "\"k\""]) {
            let again = send(app, pay(key)).await;
            assert_eq!((again.status, &again.body), (201, &first.body));
            for name in ["content-type", "etag", "location"] {
                assert_eq!(again.header(name), first.header(name), "{name}");
            }
            assert!(is_replayed(&again));
            assert!(!again.headers.contains_key("x-other"));
            assert!(!again.headers.contains_key("set-cookie"));
        }
        assert_eq!(payments.made(), 1);
        assert_eq!(
            send(&apps[1], pay("l")).await.body,
            "2: 12.50",
            "another key"
        );
    })
    .await;
}

#[tokio::test]
async fn the_key_with_another_request_is_refused() {
    on_each_store(async |[one, two]| {
        let payments = payments();
        let apps = [payments.app(&in_store(&one)), payments.app(&in_store(&two))];
        send(&apps[0], pay("k")).await;
        let mut others = [(); 5].map(|()| pay("k"));
        *others[0].method_mut() = Method::PATCH;
        *others[1].uri_mut() = "/payments/?a=2".parse().unwrap();
        *others[2].uri_mut() = "/other/?a=1".parse().unwrap();
        *others[3].body_mut() = Body::from("12.51");
        let json = HeaderValue::from_static("application/json");
        others[4].headers_mut().insert(header::CONTENT_TYPE, json);
        for (n, other) in others.into_iter().enumerate() {
            let refused = send(&apps[n % 2], other).await;
            assert_eq!((refused.status, &refused.code()[..]), (422, "key_reused"));
        }
        assert_eq!(payments.made(), 1);
        assert!(is_replayed(&send(&apps[1], pay("k")).await));
    })
    .await;
}

#[tokio::test]
async fn a_key_in_flight_is_told_so_here_and_in_other_processes() {
    on_each_store(async |[one, two]| {
        let payments = Payments::new(Gate::shut());
        let apps = [payments.app(&in_store(&one)), payments.app(&in_store(&two))];
        let first = sending(&apps[0], pay("k"));
        payments.gate.came().await;
        for app in &apps {
            let refused = send(app, pay("k")).await;
            assert_eq!((refused.status, &refused.code()[..]), (409, "in_flight"));
            assert_eq!(refused.retry_after(), Some(1));
        }
        payments.gate.let_go(1);
        let first = first.await.unwrap();
        for app in &apps {
            let again = send(app, pay("k")).await;
            assert_eq!((again.status, again.body), (201, first.body.clone()));
        }
        assert_eq!(payments.made(), 1);
    })
    .await;
}

#[tokio::test]
async fn of_many_at_once_one_is_carried_out_and_all_hear_the_same_in_the_end() {
    on_each_store(async |[one, two]| {
        let payments = payments();
        let apps = [payments.app(&in_store(&one)), payments.app(&in_store(&two))];
        let clients = (0..20).map(|n| {
            let app = apps[n % 2].clone();
            tokio::spawn(async move {
                loop {
                    let answer = send(&app, pay("k")).await;
                    if answer.status != 409 {
                        return answer;
                    }
                    sleep(Duration::from_millis(1)).await;
                }
            })
        });
        let mut first = 0;
        for client in clients.collect::<Vec<_>>() {
            let answer = client.await.unwrap();
            assert_eq!((answer.status, &answer.body[..]), (201, "1: 12.50"));
            first += usize::from(!is_replayed(&answer));
        }
        assert_eq!((first, payments.made()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn a_refusal_is_not_recorded_unless_said_otherwise() {
    on_each_store(async |[one, two]| {
        let payments = payments();
        let apps = [payments.app(&in_store(&one)), payments.app(&in_store(&two))];
        for (n, status) in ["400", "404", "409", "429", "500", "503", "302"]
            .iter()
            .enumerate()
        {
            let refused = send(&apps[n % 2], with("k", &[("x-status", status)])).await;
            assert_eq!(&refused.status.to_string(), status);
            assert!(!is_replayed(&refused) && !refused.header("x-other").is_empty());
        }
        // Another request with it is as good: nothing has been done.
        assert_eq!(send(&apps[0], pay("k")).await.status, 201);
        assert_eq!(payments.made(), 8);

        let all = in_store(&one).recorded(|_| true);
        let app = payments.app(&all);
        for _ in 0..2 {
            let refused = send(&app, with("l", &[("x-status", "409")])).await;
            assert_eq!((refused.status, &refused.body[..]), (409, "9: 12.50"));
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_no_key_is_refused() {
    let payments = payments();
    let app = payments.app(&in_store(&Store::memory()));
    let long = "k".repeat(256);
    for key in ["", " ", "a b", "\"\"", "\"a", "a\tb", "\"a\";b=1", &long] {
        let refused = send(&app, pay(key)).await;
        assert_eq!(
            (refused.status, &refused.code()[..]),
            (400, "key_malformed"),
            "{key}"
        );
    }
    let refused = send(&app, with("a", &[("idempotency-key", "a")])).await;
    assert_eq!(refused.code(), "key_malformed");
    let mut latin = pay("k");
    let key = HeaderValue::from_bytes(b"k\xe9").unwrap();
    latin.headers_mut().insert("idempotency-key", key);
    assert_eq!(send(&app, latin).await.code(), "key_malformed");
    assert_eq!(payments.made(), 0);
    assert_eq!(send(&app, pay(&long[..255])).await.status, 201);
}

#[tokio::test]
async fn without_a_key_it_is_carried_out_each_time_unless_one_is_required() {
    let (payments, store) = (payments(), Store::memory());
    let plain = || Request::post("/payments/").body(Body::empty()).unwrap();
    let lax = payments.app(&in_store(&store));
    for made in 1..3 {
        assert_eq!(send(&lax, plain()).await.status, 201);
        assert_eq!(payments.made(), made);
    }
    let strict = payments.app(&in_store(&store).require());
    let refused = send(&strict, plain()).await;
    assert_eq!((refused.status, &refused.code()[..]), (400, "key_missing"));
    let get = Request::get("/payments/").body(Body::empty()).unwrap();
    assert_eq!(send(&strict, get).await.status, 201, "a GET needs none");
}

#[tokio::test]
async fn which_methods_have_keys_is_a_setting() {
    let (payments, store) = (payments(), Store::memory());
    let app = payments.app(&in_store(&store).methods([Method::PUT]));
    for (method, made) in [("POST", 2), ("PUT", 3)] {
        for _ in 0..2 {
            let mut request = pay("k");
            *request.method_mut() = method.parse().unwrap();
            assert_eq!(send(&app, request).await.status, 201);
        }
        assert_eq!(payments.made(), made);
    }
}

#[tokio::test]
async fn keys_never_show_across_callers() {
    let (payments, store) = (payments(), Store::memory());
    let app = payments.app(&in_store(&store));
    let callers = [
        &[][..],
        &[("authorization", "Bearer a")],
        &[("authorization", "Bearer b")],
        &[("x-api-key", "Bearer a")],
        &[("authorization", "Bearer a"), ("x-api-key", "b")],
    ];
    for round in [false, true] {
        for (n, caller) in callers.iter().enumerate() {
            let answer = send(&app, with("k", caller)).await;
            assert_eq!(answer.body, format!("{}: 12.50", n + 1));
            assert_eq!(is_replayed(&answer), round);
        }
    }
    let by_cookie = in_store(&store).caller(|parts| format!("{:?}", parts.headers.get("cookie")));
    let app = payments.app(&by_cookie);
    for (cookie, body) in [("a", "6: 12.50"), ("b", "7: 12.50"), ("a", "6: 12.50")] {
        assert_eq!(
            send(&app, with("k", &[("cookie", cookie)])).await.body,
            body
        );
    }
}

#[tokio::test]
async fn an_expired_record_is_as_none() {
    on_each_store(async |[one, two]| {
        let payments = payments();
        let brief = |store| {
            let records = StoreRecords::new(store).expire_after(SHORT);
            payments.app(&Idempotency::over(records).claim_in(store, LEASE))
        };
        let apps = [brief(&one), brief(&two)];
        send(&apps[0], pay("k")).await;
        let anew = async {
            loop {
                let answer = send(&apps[1], pay("k")).await;
                if !is_replayed(&answer) {
                    return answer;
                }
                assert_eq!(answer.body, "1: 12.50");
                sleep(Duration::from_millis(5)).await;
            }
        };
        let anew = timeout(PATIENCE, anew).await.unwrap();
        assert_eq!(anew.body, "2: 12.50");
    })
    .await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_anything_is_done() {
    let (payments, store) = (payments(), Store::memory());
    let app = payments.app(&in_store(&store).body_limit(10));
    let chunks = |text: &'static str| {
        let chunks = text.as_bytes().chunks(3).map(Ok::<_, Infallible>);
        Body::from_stream(stream::iter(chunks))
    };
    for body in [Body::from("12345678901"), chunks("12345678901")] {
        let mut request = pay("k");
        *request.body_mut() = body;
        let refused = send(&app, request).await;
        assert_eq!(
            (refused.status, &refused.code()[..]),
            (413, "body_too_large")
        );
    }
    let mut broken = pay("k");
    let error = [Ok("123"), Err("gone")];
    *broken.body_mut() = Body::from_stream(stream::iter(error));
    let refused = send(&app, broken).await;
    assert_eq!(
        (refused.status, &refused.code()[..]),
        (400, "body_unreadable")
    );
    assert_eq!(payments.made(), 0);
    // However it is sent, it is one request.
    for body in [Body::from("1234567890"), chunks("1234567890")] {
        let mut request = pay("k");
        *request.body_mut() = body;
        assert_eq!(send(&app, request).await.body, "1: 1234567890");
    }
    let plain = Request::post("/payments/").body(Body::from("12345678901"));
    assert_eq!(
        send(&app, plain.unwrap()).await.status,
        201,
        "without a key"
    );
}

#[tokio::test]
async fn an_answer_over_the_limit_is_recorded_without_its_body() {
    let store = Store::memory();
    let layer = in_store(&store).answer_limit(10);
    let made = Arc::new(AtomicUsize::new(0));
    let handler = |streamed: bool| {
        let made = made.clone();
        async move || {
            made.fetch_add(1, Ordering::SeqCst);
            let body = match streamed {
                true => {
                    let chunks = b"12345678901".chunks(3).map(Ok::<_, Infallible>);
                    Body::from_stream(stream::iter(chunks))
                }
                false => Body::from("12345678901"),
            };
            let headers = [
                ("content-type", "text/plain"),
                ("location", "/1/"),
                ("x-a", "b"),
            ];
            (StatusCode::CREATED, headers, body)
        }
    };
    let app = Router::new()
        .route("/whole/", any(handler(false)))
        .route("/streamed/", any(handler(true)))
        .layer(layer);
    let request = |path: &str| {
        let request = Request::post(path).header("idempotency-key", path);
        request.body(Body::empty()).unwrap()
    };
    for (path, first_body) in [("/whole/", "12345678901"), ("/streamed/", "")] {
        let first = send(&app, request(path)).await;
        assert_eq!((first.status, &first.body[..]), (201, first_body), "{path}");
        let omitted = first.header("idempotent-body-omitted") == "true";
        assert_eq!(omitted, first_body.is_empty());
        let again = send(&app, request(path)).await;
        assert_eq!((again.status, &again.body[..]), (201, ""), "{path}");
        assert_eq!(again.header("location"), "/1/");
        assert_eq!(again.header("content-type"), "");
        assert_eq!(again.header("idempotent-body-omitted"), "true");
    }
    assert_eq!(made.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_client_that_hangs_up_stops_nothing_and_the_key_tells_the_result() {
    on_each_store(async |[one, two]| {
        let (payments, layer) = (Payments::new(Gate::shut()), in_store(&one));
        let apps = [payments.app(&layer), payments.app(&in_store(&two))];
        let client = sending(&apps[0], pay("k"));
        payments.gate.came().await;
        hang_up(client).await;
        assert_eq!(send(&apps[1], pay("k")).await.status, 409, "it goes on");
        payments.gate.let_go(1);
        timeout(PATIENCE, layer.finished()).await.unwrap();
        let result = send(&apps[1], pay("k")).await;
        assert_eq!((result.status, &result.body[..]), (201, "1: 12.50"));
        assert!(is_replayed(&result));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_hangs_up_while_it_sends_leaves_nothing_behind() {
    let (payments, store) = (payments(), Store::memory());
    let app = payments.app(&in_store(&store));
    let mut never_ends = pay("k");
    let chunks = stream::once(async { Ok::<_, Infallible>("12") });
    let chunks = futures_util::StreamExt::chain(chunks, stream::pending());
    *never_ends.body_mut() = Body::from_stream(chunks);
    let client = sending(&app, never_ends);
    // Whatever it is doing by now.
    tokio::task::yield_now().await;
    hang_up(client).await;
    assert_eq!(send(&app, pay("k")).await.body, "1: 12.50");
}

#[tokio::test]
async fn a_panic_goes_on_in_the_caller_and_the_key_may_be_used_again() {
    on_each_store(async |[one, two]| {
        let layer = in_store(&one);
        let broken = Router::new()
            .route("/payments/", any(async || -> StatusCode { panic!("boom") }))
            .layer(layer.clone());
        let client = sending(&broken, pay("k"));
        assert!(client.await.unwrap_err().is_panic());
        timeout(PATIENCE, layer.finished()).await.unwrap();
        let payments = payments();
        for app in [payments.app(&layer), payments.app(&in_store(&two))] {
            assert_eq!(send(&app, pay("k")).await.body, "1: 12.50");
        }
    })
    .await;
}

#[tokio::test]
async fn an_error_of_the_service_is_left_alone_and_the_key_may_be_used_again() {
    #[derive(Debug, PartialEq)]
    struct Broken;
    let layer = in_store(&Store::memory());
    let service = layer.layer(service_fn(async |request: Request<Body>| {
        match request.headers().contains_key("x-break") {
            true => Err(Broken),
            false => Ok("sound".into_response()),
        }
    }));
    for _ in 0..2 {
        let broken = with("k", &[("x-break", "1")]);
        assert_eq!(service.clone().oneshot(broken).await.unwrap_err(), Broken);
    }
    let sound = answer(service.oneshot(pay("k")).await.unwrap()).await;
    assert!(sound.body == "sound" && !is_replayed(&sound));
}

#[tokio::test]
async fn a_claim_of_a_process_that_died_ends_with_its_lease() {
    on_each_store(async |[one, two]| {
        let key = RequestKey {
            caller: String::new(),
            key: "k".to_owned(),
            fingerprint: [0; 32],
        };
        let claim = one
            .lock(format!("idempotency:{}", key.id()))
            .lease(SHORT)
            .unwrap();
        // As a crash: no release, no drop.
        std::mem::forget(claim.acquire().await.unwrap());
        let payments = payments();
        let app = payments.app(&in_store(&two));
        let anew = async {
            loop {
                let answer = send(&app, pay("k")).await;
                if answer.status == 201 {
                    return answer;
                }
                assert_eq!(answer.code(), "in_flight");
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, anew).await.unwrap();
        assert_eq!(payments.made(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_store_that_is_down_is_no_answer_unless_said_otherwise() {
    let redis = Redis::start();
    let store = Store::connect(&redis.url()).await.unwrap();
    let payments = payments();
    let closed = payments.app(&in_store(&store));
    let open = payments.app(&in_store(&store).fail_open());
    send(&closed, pay("k")).await;
    redis.kill();
    for key in ["k", "l"] {
        let refused = send(&closed, pay(key)).await;
        assert_eq!(
            (refused.status, &refused.code()[..]),
            (503, "store_unavailable")
        );
        assert_eq!(refused.retry_after(), Some(1));
    }
    assert_eq!(payments.made(), 1);
    assert_eq!(send(&open, pay("m")).await.body, "2: 12.50");
    redis.restart();
    assert_eq!(send(&closed, pay("l")).await.body, "3: 12.50");
}

#[tokio::test]
async fn a_foreign_value_in_the_place_of_a_record_is_no_answer() {
    let (payments, store) = (payments(), Store::memory());
    let key = RequestKey {
        caller: String::new(),
        key: "k".to_owned(),
        fingerprint: [0; 32],
    };
    let records = store.cache("idempotency");
    records.set(key.id(), "{}", LEASE).await.unwrap();
    let app = payments.app(&in_store(&store));
    assert_eq!(send(&app, pay("k")).await.code(), "store_unavailable");
    assert_eq!(payments.made(), 0);
}

#[tokio::test]
async fn a_refusal_may_be_told_in_other_words() {
    let layer = in_store(&Store::memory())
        .require()
        .refuse(|refused| (StatusCode::IM_A_TEAPOT, refused.code()).into_response());
    let payments = Payments::new(Gate::shut());
    let app = payments.app(&layer);
    let client = sending(&app, pay("k"));
    payments.gate.came().await;
    let refused = send(&app, pay("k")).await;
    assert_eq!((refused.status, &refused.body[..]), (418, "in_flight"));
    assert_eq!(refused.retry_after(), Some(1), "added");
    assert_eq!(send(&app, pay("")).await.body, "key_malformed");
    payments.gate.let_go(1);
    assert_eq!(client.await.unwrap().status, 201);
}

/// Records that an application has with its effects, and what may go wrong with them.
#[derive(Default)]
struct Ledger {
    committed: Mutex<HashMap<String, Record>>,
    saved: AtomicUsize,
    breaks: bool,
}

impl Records for Ledger {
    async fn find(&self, key: &RequestKey) -> Result<Option<Record>, BoxError> {
        Ok(self.committed.lock().unwrap().get(&key.id()).cloned())
    }

    async fn save(&self, _: &RequestKey, _: &Record) -> Result<(), BoxError> {
        self.saved.fetch_add(1, Ordering::SeqCst);
        if self.breaks {
            return Err("the disk is full".into());
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_handler_may_record_in_its_own_transaction() {
    let ledger = Arc::new(Ledger::default());
    let handler = {
        let ledger = ledger.clone();
        async move |Extension(key): Extension<RequestKey>| {
            let location = HeaderValue::from_static("/payments/1/");
            let record =
                Record::new(&key, StatusCode::CREATED, "paid").header(header::LOCATION, location);
            ledger.committed.lock().unwrap().insert(key.id(), record);
            // Whoever committed it, the answer is lost.
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let layer = Idempotency::over(ledger.clone());
    let app = Router::new().route("/payments/", any(handler)).layer(layer);
    assert_eq!(send(&app, pay("k")).await.status, 503);
    let settled = send(&app, pay("k")).await;
    assert_eq!((settled.status, &settled.body[..]), (201, "paid"));
    assert!(is_replayed(&settled) && settled.header("location") == "/payments/1/");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_recorded_stands_and_its_claim_is_kept() {
    let ledger = Arc::new(Ledger {
        breaks: true,
        ..Ledger::default()
    });
    let (payments, store) = (payments(), Store::memory());
    let layer = Idempotency::over(ledger.clone()).claim_in(&store, LEASE);
    let app = payments.app(&layer);
    assert_eq!(send(&app, pay("k")).await.status, 201);
    assert_eq!(ledger.saved.load(Ordering::SeqCst), 3, "tried again");
    assert_eq!(send(&app, pay("k")).await.code(), "in_flight");
    sleep(LEASE).await;
    assert_eq!(send(&app, pay("k")).await.body, "2: 12.50");
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_renewed_while_the_request_is_carried_out() {
    let (payments, store) = (Payments::new(Gate::shut()), Store::memory());
    // Two layers with one store: two processes.
    let short = || in_store(&store).claim_in(&store, Duration::from_secs(1));
    let apps = [(); 2].map(|()| payments.app(&short()));
    let first = sending(&apps[0], pay("k"));
    payments.gate.came().await;
    sleep(Duration::from_secs(25)).await;
    assert_eq!(send(&apps[1], pay("k")).await.code(), "in_flight");
    payments.gate.let_go(1);
    assert_eq!(first.await.unwrap().status, 201);
    assert!(is_replayed(&send(&apps[1], pay("k")).await));
}
