//! Disconnects, failing handlers and unavailable stores.

use super::*;

#[tokio::test]
async fn a_disconnect_does_not_stop_the_handler_and_a_retry_gets_its_response() {
    on_each_store(async |[one, two]| {
        let (payments, layer) = (Payments::new(Gate::closed()), in_store(&one));
        let apps = [payments.app(&layer), payments.app(&in_store(&two))];
        let client = sending(&apps[0], pay("k"));
        payments.gate.entered().await;
        disconnect(client).await;
        assert_eq!(send(&apps[1], pay("k")).await.status, 409, "still running");
        payments.gate.release(1);
        timeout(TIMEOUT, layer.drain()).await.unwrap();
        let result = send(&apps[1], pay("k")).await;
        assert_eq!((result.status, &result.body[..]), (201, "1: 12.50"));
        assert!(is_replayed(&result));
    })
    .await;
}

#[tokio::test]
async fn a_disconnect_while_sending_leaves_no_claim() {
    let (payments, store) = (payments(), Store::memory());
    let app = payments.app(&in_store(&store));
    let mut never_ends = pay("k");
    let chunks = stream::once(async { Ok::<_, Infallible>("12") });
    let chunks = futures_util::StreamExt::chain(chunks, stream::pending());
    *never_ends.body_mut() = Body::from_stream(chunks);
    let client = sending(&app, never_ends);
    // The layer is reading the body, or has not started.
    tokio::task::yield_now().await;
    disconnect(client).await;
    assert_eq!(send(&app, pay("k")).await.body, "1: 12.50");
}

#[tokio::test]
async fn a_panic_resumes_in_the_caller_and_the_key_is_free() {
    on_each_store(async |[one, two]| {
        let layer = in_store(&one);
        let broken = Router::new()
            .route("/payments/", any(async || -> StatusCode { panic!("boom") }))
            .layer(layer.clone());
        let client = sending(&broken, pay("k"));
        assert!(client.await.unwrap_err().is_panic());
        timeout(TIMEOUT, layer.drain()).await.unwrap();
        let payments = payments();
        for app in [payments.app(&layer), payments.app(&in_store(&two))] {
            assert_eq!(send(&app, pay("k")).await.body, "1: 12.50");
        }
    })
    .await;
}

#[tokio::test]
async fn an_error_of_the_service_is_unchanged_and_the_key_is_free() {
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
    let sound = service.oneshot(pay("k")).await.unwrap();
    let sound = read(sound.map(Body::new)).await;
    assert!(sound.body == "sound" && !is_replayed(&sound));
}

#[tokio::test]
async fn the_claim_of_a_dead_process_ends_with_its_lease() {
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
        // Like a crash: no release, no drop.
        std::mem::forget(claim.acquire().await.unwrap());
        let payments = payments();
        let app = payments.app(&in_store(&two));
        let anew = async {
            loop {
                let response = send(&app, pay("k")).await;
                if response.status == 201 {
                    return response;
                }
                assert_eq!(response.code(), "in_flight");
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TIMEOUT, anew).await.unwrap();
        assert_eq!(payments.made(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_unavailable_store_rejects_requests_unless_the_layer_fails_open() {
    let redis = Redis::start();
    let store = Store::connect(&redis.url()).await.unwrap();
    let payments = payments();
    let closed = payments.app(&in_store(&store));
    let open = payments.app(&in_store(&store).fail_open());
    send(&closed, pay("k")).await;
    redis.kill();
    for key in ["k", "l"] {
        let rejected = send(&closed, pay(key)).await;
        assert_eq!(
            (rejected.status, &rejected.code()[..]),
            (503, "store_unavailable")
        );
        assert_eq!(rejected.retry_after(), Some(1));
    }
    assert_eq!(payments.made(), 1);
    assert_eq!(send(&open, pay("m")).await.body, "2: 12.50");
    redis.restart();
    assert_eq!(send(&closed, pay("l")).await.body, "3: 12.50");
}

#[tokio::test]
async fn a_foreign_value_instead_of_a_record_rejects_the_request() {
    let (payments, store) = (payments(), Store::memory());
    let key = RequestKey {
        caller: String::new(),
        key: "k".to_owned(),
        fingerprint: [0; 32],
    };
    let records = store.cache::<String>("idempotency").codec(lockstock::Raw);
    records
        .set(key.id(), &"{}".to_owned(), LEASE)
        .await
        .unwrap();
    let app = payments.app(&in_store(&store));
    assert_eq!(send(&app, pay("k")).await.code(), "store_unavailable");
    assert_eq!(payments.made(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_renewed_while_the_request_is_processed() {
    let (payments, store) = (Payments::new(Gate::closed()), Store::memory());
    // Two layers with one store act as two processes.
    let short = || in_store(&store).claim_in(&store, Duration::from_secs(1));
    let apps = [(); 2].map(|()| payments.app(&short()));
    let first = sending(&apps[0], pay("k"));
    payments.gate.entered().await;
    sleep(Duration::from_secs(25)).await;
    assert_eq!(send(&apps[1], pay("k")).await.code(), "in_flight");
    payments.gate.release(1);
    assert_eq!(first.await.unwrap().status, 201);
    assert!(is_replayed(&send(&apps[1], pay("k")).await));
}
