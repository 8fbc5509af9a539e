//! Requests and responses over the limits.

use super::*;

#[tokio::test]
async fn a_body_over_the_limit_is_rejected_before_the_handler_runs() {
    let (payments, store) = (payments(), Store::memory());
    let app = payments.app(&in_store(&store).body_limit(10));
    let chunks = |text: &'static str| {
        let chunks = text.as_bytes().chunks(3).map(Ok::<_, Infallible>);
        Body::from_stream(stream::iter(chunks))
    };
    for body in [Body::from("12345678901"), chunks("12345678901")] {
        let mut request = pay("k");
        *request.body_mut() = body;
        let rejected = send(&app, request).await;
        assert_eq!(
            (rejected.status, &rejected.code()[..]),
            (413, "body_too_large")
        );
    }
    let mut broken = pay("k");
    let error = [Ok("123"), Err("gone")];
    *broken.body_mut() = Body::from_stream(stream::iter(error));
    let rejected = send(&app, broken).await;
    assert_eq!(
        (rejected.status, &rejected.code()[..]),
        (400, "body_unreadable")
    );
    assert_eq!(payments.made(), 0);
    // A chunked body is the same request.
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
async fn a_response_over_the_limit_is_recorded_without_its_body() {
    let store = Store::memory();
    let layer = in_store(&store).response_limit(10);
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
