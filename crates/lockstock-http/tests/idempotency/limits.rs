//! Requests and responses over the limits.

use http_body_util::BodyExt;

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
async fn a_response_over_the_limit_reaches_its_caller_and_has_no_second_effect() {
    let store = Store::memory();
    let layer = in_store(&store).response_limit(10);
    let made = Arc::new(AtomicUsize::new(0));
    let handler = |body: fn() -> Body| {
        let made = made.clone();
        async move || {
            made.fetch_add(1, Ordering::SeqCst);
            let headers = [
                ("content-type", "text/plain"),
                ("location", "/1/"),
                ("x-a", "b"),
            ];
            (StatusCode::CREATED, headers, body())
        }
    };
    let streamed = || {
        let chunks = b"1234567890123".chunks(3).map(Ok::<_, Infallible>);
        Body::from_stream(stream::iter(chunks))
    };
    let app = Router::new()
        .route("/whole/", any(handler(|| Body::from("1234567890123"))))
        .route("/streamed/", any(handler(streamed)))
        .layer(layer);
    let request = |path: &str| {
        let request = Request::post(path).header("idempotency-key", path);
        request.body(Body::empty()).unwrap()
    };
    for path in ["/whole/", "/streamed/"] {
        let first = send(&app, request(path)).await;
        assert_eq!(
            (first.status, &first.body[..]),
            (201, "1234567890123"),
            "{path}"
        );
        assert_eq!(first.header("content-type"), "text/plain");
        assert_eq!(first.header("x-a"), "b");
        assert_eq!(first.header("idempotent-body-omitted"), "");
        let again = send(&app, request(path)).await;
        assert_eq!((again.status, &again.body[..]), (201, ""), "{path}");
        assert_eq!(again.header("location"), "/1/");
        assert_eq!(again.header("content-type"), "");
        assert_eq!(again.header("idempotent-body-omitted"), "true");
    }
    assert_eq!(made.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_response_that_breaks_off_is_passed_on_and_has_no_second_effect() {
    let made = Arc::new(AtomicUsize::new(0));
    let handler = {
        let made = made.clone();
        async move || {
            made.fetch_add(1, Ordering::SeqCst);
            let chunks = [Ok("paid"), Err("the backend is gone")];
            (StatusCode::CREATED, Body::from_stream(stream::iter(chunks)))
        }
    };
    let app = Router::new()
        .route("/", any(handler))
        .layer(in_store(&Store::memory()));
    let request = || {
        let request = Request::post("/").header("idempotency-key", "k");
        request.body(Body::empty()).unwrap()
    };
    let first = app.clone().oneshot(request()).await.unwrap();
    let mut body = first.into_body();
    // With a length, a server would send the part as if it were the whole.
    assert_eq!(http_body::Body::size_hint(&body).exact(), None);
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "paid");
    assert!(body.frame().await.unwrap().is_err());
    let again = send(&app, request()).await;
    assert_eq!((again.status, &again.body[..]), (201, ""));
    assert_eq!(again.header("idempotent-body-omitted"), "true");
    assert_eq!(made.load(Ordering::SeqCst), 1);
}
