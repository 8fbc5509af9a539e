//! Cases of an idempotency key.

use super::*;

/// Headers of the payments that belong to the body.
const RECORDED: [&str; 9] = [
    "content-type",
    "content-encoding",
    "content-language",
    "content-disposition",
    "etag",
    "last-modified",
    "link",
    "location",
    "vary",
];

#[tokio::test]
async fn headers_of_the_body_are_recorded_whatever_else_is_chosen() {
    let payments = payments();
    let other = header::HeaderName::from_static("x-other");
    let app = payments.app(&in_store(&Store::memory()).headers([other]));
    let first = send(&app, pay("k")).await;
    let again = send(&app, pay("k")).await;
    assert!(is_replayed(&again));
    for name in RECORDED.into_iter().chain(["x-other"]) {
        assert_eq!(again.header(name), first.header(name), "{name}");
    }
    assert_eq!(again.header("set-cookie"), "");
}

#[tokio::test]
async fn a_redirect_from_a_post_to_its_result_is_recorded() {
    on_each_store(async |[one, two]| {
        let payments = payments();
        let apps = [payments.app(&in_store(&one)), payments.app(&in_store(&two))];
        let see_other = || with("k", &[("x-status", "303")]);
        let first = send(&apps[0], see_other()).await;
        let again = send(&apps[1], see_other()).await;
        assert_eq!((first.status, again.status), (303, 303));
        assert!(is_replayed(&again));
        assert_eq!(again.header("location"), "/payments/1/");
        assert_eq!(payments.made(), 1);
    })
    .await;
}

#[tokio::test]
async fn the_case_of_the_authorization_scheme_makes_no_other_caller() {
    let payments = payments();
    let app = payments.app(&in_store(&Store::memory()));
    for (authorization, body) in [
        ("Bearer Xy", "1: 12.50"),
        ("bearer Xy", "1: 12.50"),
        ("BEARER  Xy", "1: 12.50"),
        ("Bearer xy", "2: 12.50"),
        // Without a scheme, every character is part of the credentials.
        ("Xy", "3: 12.50"),
        ("xy", "4: 12.50"),
    ] {
        let response = send(&app, with("k", &[("authorization", authorization)])).await;
        assert_eq!(response.body, body, "{authorization}");
    }
}

#[tokio::test]
async fn a_repeated_request_gets_the_recorded_response() {
    on_each_store(async |[one, two]| {
        let payments = payments();
        let apps = [payments.app(&in_store(&one)), payments.app(&in_store(&two))];
        let first = send(&apps[0], pay("k")).await;
        assert_eq!((first.status, &first.body[..]), (201, "1: 12.50"));
        assert!(!is_replayed(&first));
        assert_eq!(first.header("x-other"), "not recorded");
        // The RFC 8941 string is the same key.
        for (app, key) in apps.iter().zip(["k", "\"k\""]) {
            let again = send(app, pay(key)).await;
            assert_eq!((again.status, &again.body), (201, &first.body));
            for name in RECORDED {
                assert!(!first.header(name).is_empty(), "{name}");
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
async fn a_key_with_another_request_is_rejected() {
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
            let rejected = send(&apps[n % 2], other).await;
            assert_eq!((rejected.status, &rejected.code()[..]), (422, "key_reused"));
        }
        assert_eq!(payments.made(), 1);
        assert!(is_replayed(&send(&apps[1], pay("k")).await));
    })
    .await;
}

#[tokio::test]
async fn a_key_in_flight_is_rejected_in_every_process() {
    on_each_store(async |[one, two]| {
        let payments = Payments::new(Gate::closed());
        let apps = [payments.app(&in_store(&one)), payments.app(&in_store(&two))];
        let first = sending(&apps[0], pay("k"));
        payments.gate.entered().await;
        for app in &apps {
            let rejected = send(app, pay("k")).await;
            assert_eq!((rejected.status, &rejected.code()[..]), (409, "in_flight"));
            assert_eq!(rejected.retry_after(), Some(1));
        }
        payments.gate.release(1);
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
async fn of_many_concurrent_requests_one_is_processed_and_all_get_its_response() {
    on_each_store(async |[one, two]| {
        let payments = payments();
        let apps = [payments.app(&in_store(&one)), payments.app(&in_store(&two))];
        let clients = (0..20).map(|n| {
            let app = apps[n % 2].clone();
            tokio::spawn(async move {
                loop {
                    let response = send(&app, pay("k")).await;
                    if response.status != 409 {
                        return response;
                    }
                    sleep(Duration::from_millis(1)).await;
                }
            })
        });
        let mut first = 0;
        for client in clients.collect::<Vec<_>>() {
            let response = client.await.unwrap();
            assert_eq!((response.status, &response.body[..]), (201, "1: 12.50"));
            first += usize::from(!is_replayed(&response));
        }
        assert_eq!((first, payments.made()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn errors_are_not_recorded_by_default() {
    on_each_store(async |[one, two]| {
        let payments = payments();
        let apps = [payments.app(&in_store(&one)), payments.app(&in_store(&two))];
        for (n, status) in ["400", "404", "409", "429", "500", "503", "302", "307"]
            .iter()
            .enumerate()
        {
            let rejected = send(&apps[n % 2], with("k", &[("x-status", status)])).await;
            assert_eq!(&rejected.status.to_string(), status);
            assert!(!is_replayed(&rejected) && !rejected.header("x-other").is_empty());
        }
        // The key is free for another request, because no response was recorded.
        assert_eq!(send(&apps[0], pay("k")).await.status, 201);
        assert_eq!(payments.made(), 9);

        let all = in_store(&one).record_if(|_| true);
        let app = payments.app(&all);
        for _ in 0..2 {
            let rejected = send(&app, with("l", &[("x-status", "409")])).await;
            assert_eq!((rejected.status, &rejected.body[..]), (409, "10: 12.50"));
        }
    })
    .await;
}

#[tokio::test]
async fn a_malformed_key_is_rejected() {
    let payments = payments();
    let app = payments.app(&in_store(&Store::memory()));
    let long = "k".repeat(256);
    for key in ["", " ", "a b", "\"\"", "\"a", "a\tb", "\"a\";b=1", &long] {
        let rejected = send(&app, pay(key)).await;
        assert_eq!(
            (rejected.status, &rejected.code()[..]),
            (400, "key_malformed"),
            "{key}"
        );
    }
    let rejected = send(&app, with("a", &[("idempotency-key", "a")])).await;
    assert_eq!(rejected.code(), "key_malformed");
    let mut latin = pay("k");
    let key = HeaderValue::from_bytes(b"k\xe9").unwrap();
    latin.headers_mut().insert("idempotency-key", key);
    assert_eq!(send(&app, latin).await.code(), "key_malformed");
    assert_eq!(payments.made(), 0);
    assert_eq!(send(&app, pay(&long[..255])).await.status, 201);
}

#[tokio::test]
async fn requests_without_a_key_are_processed_unless_one_is_required() {
    let (payments, store) = (payments(), Store::memory());
    let plain = || Request::post("/payments/").body(Body::empty()).unwrap();
    let lax = payments.app(&in_store(&store));
    for made in 1..3 {
        assert_eq!(send(&lax, plain()).await.status, 201);
        assert_eq!(payments.made(), made);
    }
    let strict = payments.app(&in_store(&store).require());
    let rejected = send(&strict, plain()).await;
    assert_eq!(
        (rejected.status, &rejected.code()[..]),
        (400, "key_missing")
    );
    let get = Request::get("/payments/").body(Body::empty()).unwrap();
    assert_eq!(send(&strict, get).await.status, 201, "a GET needs none");
}

#[tokio::test]
async fn methods_with_keys_are_configurable() {
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
async fn keys_are_invisible_to_other_callers() {
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
            let response = send(&app, with("k", caller)).await;
            assert_eq!(response.body, format!("{}: 12.50", n + 1));
            assert_eq!(is_replayed(&response), round);
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
async fn a_key_with_an_expired_record_is_new() {
    on_each_store(async |[one, two]| {
        let payments = payments();
        let brief = |store| {
            let records = LockstockRecordStore::new(store).expire_after(SHORT);
            payments.app(&IdempotencyLayer::new(records).claim_in(store, LEASE))
        };
        let apps = [brief(&one), brief(&two)];
        send(&apps[0], pay("k")).await;
        let anew = async {
            loop {
                let response = send(&apps[1], pay("k")).await;
                if !is_replayed(&response) {
                    return response;
                }
                assert_eq!(response.body, "1: 12.50");
                sleep(Duration::from_millis(5)).await;
            }
        };
        let anew = timeout(TIMEOUT, anew).await.unwrap();
        assert_eq!(anew.body, "2: 12.50");
    })
    .await;
}

#[tokio::test]
async fn the_response_to_a_rejection_is_configurable() {
    let layer = in_store(&Store::memory())
        .require()
        .on_rejection(|rejected, _| response_with(StatusCode::IM_A_TEAPOT, rejected.code()));
    let payments = Payments::new(Gate::closed());
    let app = payments.app(&layer);
    let client = sending(&app, pay("k"));
    payments.gate.entered().await;
    let rejected = send(&app, pay("k")).await;
    assert_eq!((rejected.status, &rejected.body[..]), (418, "in_flight"));
    assert_eq!(rejected.retry_after(), Some(1), "added by the layer");
    assert_eq!(send(&app, pay("")).await.body, "key_malformed");
    payments.gate.release(1);
    assert_eq!(client.await.unwrap().status, 201);
}
