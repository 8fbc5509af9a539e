//! The guarantees of `Idempotency-Key` over HTTP.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lockstock_testkit::{Proxy, Redis};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::{
    Response, Server, eventually, every_lock_is_granted, lock_rows, locked, new_database, product,
    waited_for,
};

pub(crate) fn keyed(server: &Server, method: Method, path: &str, key: &str) -> RequestBuilder {
    server.request(method, path).header("idempotency-key", key)
}

/// Returns every kind of request that takes an idempotency key, on a product with enough stock.
async fn kinds(server: &Server) -> Vec<(Method, String, Value)> {
    let id = server.create(1000).await;
    let reserved = server
        .post(id, "reservations/", json!({ "quantity": 1 }))
        .await;
    let reservation = reserved.header("location").to_owned();
    let other = server
        .post(id, "reservations/", json!({ "quantity": 1 }))
        .await;
    let path = product(id);
    let new = json!({ "name": "Mug", "price": 1, "stock": 1 });
    vec![
        (Method::POST, "/api/products/".to_owned(), new.clone()),
        (Method::PATCH, path.clone(), json!({ "stock": 900 })),
        (
            Method::PUT,
            path.clone(),
            json!({ "name": "Mug", "price": 1, "stock": 800 }),
        ),
        (
            Method::POST,
            format!("{path}purchases/"),
            json!({ "quantity": 1 }),
        ),
        (
            Method::POST,
            format!("{path}reservations/"),
            json!({ "quantity": 1, "hold": 60 }),
        ),
        (
            Method::POST,
            format!("{reservation}extend/"),
            json!({ "hold": 7200 }),
        ),
        (
            Method::POST,
            format!("{}confirm/", other.header("location")),
            json!({}),
        ),
    ]
}

#[tokio::test]
async fn a_repeated_request_returns_the_recorded_response() {
    let redis = Redis::start();
    for server in [
        Server::embedded(),
        Server::on(&redis.url(), &new_database()),
    ] {
        let server = server.args(&["--after-update", "release"]).start();
        for (number, (method, path, body)) in kinds(&server).await.into_iter().enumerate() {
            let key = format!("key-{number}");
            let send = || server.send(keyed(&server, method.clone(), &path, &key).json(&body));
            let first = send().await;
            assert!(
                first.status.is_success(),
                "{method} {path} {:?}",
                first.body
            );
            assert_eq!(first.header("idempotent-replayed"), "");
            let id = first.body["product"]
                .as_i64()
                .or(first.body["id"].as_i64())
                .unwrap();
            let before = server.ledger(id).await;
            let again = send().await;
            assert_eq!(
                (again.status, &again.body),
                (first.status, &first.body),
                "{method} {path}"
            );
            assert_eq!(again.header("idempotent-replayed"), "true");
            for header in ["etag", "location", "content-type"] {
                assert_eq!(
                    again.header(header),
                    first.header(header),
                    "{method} {path}"
                );
            }
            assert_eq!(server.ledger(id).await, before);
            // Another body, another path, another method.
            let mut other = body.clone();
            other["name"] = json!("another");
            for (method, path, body) in [
                (method.clone(), path.clone(), &other),
                (Method::POST, "/api/products/".to_owned(), &other),
                (Method::PATCH, product(id), &body),
            ] {
                if (&method, &path) == (&Method::PATCH, &product(id))
                    && method == Method::PATCH
                    && number == 1
                {
                    continue;
                }
                let reused = server
                    .send(keyed(&server, method, &path, &key).json(body))
                    .await;
                assert_eq!(
                    (reused.status.as_u16(), &reused.body["code"]),
                    (422, &json!("key_reused"))
                );
            }
        }
    }
}

#[tokio::test]
async fn the_same_key_from_two_callers_is_two_keys() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    let path = format!("{}purchases/", product(id));
    let buy = |caller: Option<&str>| {
        let request = keyed(&server, Method::POST, &path, "k").json(&json!({ "quantity": 1 }));
        server.send(match caller {
            Some(caller) => request.header("x-api-key", caller),
            None => request,
        })
    };
    let [anonymous, ann, bob] = [
        buy(None).await,
        buy(Some("ann")).await,
        buy(Some("bob")).await,
    ];
    assert!(
        [&anonymous, &ann, &bob]
            .iter()
            .all(|response| response.status == 201)
    );
    assert_eq!(buy(Some("ann")).await.body, ann.body);
    assert_ne!(ann.body["id"], bob.body["id"]);
    assert_eq!(server.stock(id).await, 7);
}

#[tokio::test]
async fn a_rejection_is_not_recorded() {
    let server = Server::embedded().start();
    let id = server.create(1).await;
    let path = format!("{}purchases/", product(id));
    let buy = |body: Value| server.send(keyed(&server, Method::POST, &path, "k").json(&body));
    assert_eq!(buy(json!({ "quantity": 0 })).await.status, 400);
    assert_eq!(buy(json!({ "quantity": 2 })).await.status, 409);
    assert_eq!(buy(json!({ "quantity": 1 })).await.status, 201);
}

#[tokio::test]
async fn a_malformed_key_is_rejected_before_any_effect() {
    let server = Server::embedded().start();
    let id = server.create(5).await;
    let path = format!("{}purchases/", product(id));
    let long = "k".repeat(256);
    for key in ["", " ", "a b", "\"\"", &long] {
        let buy = keyed(&server, Method::POST, &path, key).json(&json!({ "quantity": 1 }));
        let rejected = server.send(buy).await;
        assert_eq!(
            (rejected.status.as_u16(), &rejected.body["code"]),
            (400, &json!("key_malformed"))
        );
    }
    let two = keyed(&server, Method::POST, &path, "a").header("idempotency-key", "b");
    assert_eq!(
        server
            .send(two.json(&json!({ "quantity": 1 })))
            .await
            .status,
        400
    );
    assert_eq!(server.stock(id).await, 5);
    let longest = keyed(&server, Method::POST, &path, &long[1..]).json(&json!({ "quantity": 1 }));
    assert_eq!(server.send(longest).await.status, 201);
}

#[tokio::test]
async fn a_too_large_body_is_413_with_a_key_too() {
    let server = Server::embedded().args(&["--body-limit", "1000"]).start();
    let id = server.create(5).await;
    let large = json!({ "name": "x".repeat(2000) });
    let patch = keyed(&server, Method::PATCH, &product(id), "k").json(&large);
    let rejected = server.send(patch).await;
    assert_eq!(
        (rejected.status.as_u16(), &rejected.body["code"]),
        (413, &json!("body_too_large"))
    );
}

#[tokio::test]
async fn a_key_in_flight_is_409_at_its_server_and_another_returns_the_record() {
    let redis = Redis::start();
    let database = new_database();
    let patience = ["--update-lease", "60s", "--update-wait", "50s"];
    let [server, other] =
        [(); 2].map(|()| Server::on(&redis.url(), &database).args(&patience).start());
    let id = server.create(5).await;
    // A locked row keeps the update in flight.
    let transaction = lock_rows(&database, &[id]).await;
    let patch = |server: &Server| {
        let request = keyed(server, Method::PATCH, &product(id), "k");
        let request = request.json(&json!({ "stock": 4 }));
        async move { request.send().await.unwrap() }
    };
    let first = tokio::spawn(patch(&server));
    locked(&redis, id).await;
    let request = keyed(&server, Method::PATCH, &product(id), "k");
    let rejected = server.send(request.json(&json!({ "stock": 4 }))).await;
    assert_eq!(
        (rejected.status.as_u16(), &rejected.body["code"]),
        (409, &json!("in_flight"))
    );
    assert!(rejected.retry_after() >= 1);
    let second = tokio::spawn(patch(&other));
    if !every_lock_is_granted() {
        waited_for(&redis, &format!("product-update-lock-{id}")).await;
    }
    transaction.rollback().await.unwrap();
    let mut replayed = Vec::new();
    for response in [first, second] {
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        replayed.push(response.headers().contains_key("idempotent-replayed"));
    }
    replayed.sort_unstable();
    assert_eq!(replayed, [false, true]);
    assert_eq!(other.ledger(id).await.len(), 2);
}

#[tokio::test]
async fn a_key_that_one_server_has_refused_takes_no_effect_at_another() {
    let (redis, database) = (Redis::start(), new_database());
    let (rest, name) = database.rsplit_once('/').unwrap();
    let (credentials, address) = rest.rsplit_once('@').unwrap();
    let proxy = Proxy::start(address.parse().unwrap());
    let slow_database = format!("{credentials}@{}/{name}", proxy.address());
    let there = Server::on(&redis.url(), &database)
        .args(&["--after-update", "release"])
        .start();
    let here = Server::on(&redis.url(), &slow_database).start();
    let id = there.create(0).await;
    let path = format!("{}purchases/", product(id));
    let buy =
        |server: &Server| keyed(server, Method::POST, &path, "k").json(&json!({ "quantity": 1 }));
    proxy.stall();
    let first = tokio::spawn(buy(&here).send());
    here.in_flight(1).await;
    let refused = there.send(buy(&there)).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.body["code"]),
        (409, &json!("insufficient_stock"))
    );
    assert_eq!(there.patch(id, json!({ "stock": 5 })).await.status, 200);
    proxy.pass();
    let first = Response::read(first.await.unwrap().unwrap()).await.unwrap();
    assert_eq!(
        (first.status.as_u16(), &first.body["code"]),
        (409, &json!("in_flight"))
    );
    assert_eq!(first.retry_after(), 1);
    assert_eq!(there.stock(id).await, 5);
    let again = here.send(buy(&here)).await;
    assert_eq!(again.status, 201);
    assert_eq!(there.send(buy(&there)).await.body, again.body);
    assert_eq!(there.stock(id).await, 4);
}

#[tokio::test]
async fn a_disconnected_client_gets_the_result_by_its_key() {
    let server = Server::embedded()
        .args(&["--after-update", "release"])
        .failing("update.locked=1*return(1000)")
        .start();
    let id = server.create(5).await;
    let patch = || keyed(&server, Method::PATCH, &product(id), "k").json(&json!({ "stock": 4 }));
    let disconnected = tokio::spawn(patch().send());
    server.paused().await;
    disconnected.abort();
    let response = eventually("the recorded response", async || {
        let response = server.send(patch()).await;
        (response.status != 409).then_some(response)
    });
    let response = response.await;
    assert_eq!(
        (
            response.status.as_u16(),
            response.header("idempotent-replayed")
        ),
        (200, "true")
    );
    assert_eq!(server.ledger(id).await.len(), 2);
}

#[tokio::test]
async fn a_key_can_be_reused_after_its_retention() {
    let server = Server::embedded().args(&["--key-retention", "1s"]).start();
    let id = server.create(5).await;
    let path = format!("{}purchases/", product(id));
    let buy =
        || server.send(keyed(&server, Method::POST, &path, "k").json(&json!({ "quantity": 1 })));
    let begun = Instant::now();
    let first = buy().await;
    eventually("the key is forgotten", async || {
        let response = buy().await;
        assert_eq!(response.status, 201);
        (response.body["id"] != first.body["id"]).then_some(())
    })
    .await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "not before");
}

#[tokio::test]
async fn forms_with_another_boundary_are_the_same_request() {
    let server = Server::embedded().start();
    let id = server.create(5).await;
    let path = format!("{}purchases/", product(id));
    let buy = || {
        let form = reqwest::multipart::Form::new().text("quantity", "1");
        server.send(keyed(&server, Method::POST, &path, "k").multipart(form))
    };
    let first = buy().await;
    assert_eq!(first.status, 201);
    assert_eq!(buy().await.body, first.body);
}

#[tokio::test]
async fn ten_concurrent_requests_with_one_key_buy_once() {
    let server = Server::embedded().start();
    let id = server.create(5).await;
    let path = format!("{}purchases/", product(id));
    let requests = (0..10).map(|_| {
        server.send(keyed(&server, Method::POST, &path, "k").json(&json!({ "quantity": 1 })))
    });
    for response in join_all(requests).await {
        assert!(
            matches!(response.status.as_u16(), 201 | 409),
            "{:?}",
            response.body
        );
    }
    assert_eq!(server.stock(id).await, 4);
}

#[tokio::test]
async fn a_repeated_update_does_not_wait_for_the_lock_of_its_product() {
    let redis = Redis::start();
    let database = new_database();
    let start = |after: &str| {
        Server::on(&redis.url(), &database)
            .args(&["--update-lease", "60s", "--update-wait", "50s"])
            .args(&["--after-update", after])
            .start()
    };
    let (keeping, releasing) = (start("keep"), start("release"));
    let id = keeping.create(5).await;
    let contended = keeping.create(5).await;
    let patch = |server: &Server, id, key| {
        let request = keyed(server, Method::PATCH, &product(id), key);
        let request = request.json(&json!({ "stock": 4 }));
        async move { Response::read(request.send().await.unwrap()).await.unwrap() }
    };
    assert_eq!(patch(&keeping, id, "a").await.status, 200);
    assert_eq!(patch(&releasing, contended, "b").await.status, 200);
    // A locked row lets another update hold the lock.
    let transaction = lock_rows(&database, &[contended]).await;
    let other = tokio::spawn(patch(&releasing, contended, "other"));
    locked(&redis, contended).await;
    let assert_replayed = |again: Response| {
        assert_eq!(
            (again.status.as_u16(), &again.body["version"]),
            (200, &json!(2))
        );
        assert_eq!(again.header("idempotent-replayed"), "true");
    };
    assert_replayed(patch(&keeping, id, "a").await);
    assert_replayed(patch(&releasing, contended, "b").await);
    transaction.rollback().await.unwrap();
    assert_eq!(other.await.unwrap().body["version"], 3);
    redis.kill();
    assert_replayed(patch(&releasing, contended, "b").await);
}

#[tokio::test]
async fn repeated_and_new_updates_that_arrive_together_get_their_own_responses() {
    const PRODUCTS: usize = 24;
    let redis = Redis::start();
    let server = Server::on(&redis.url(), &new_database())
        .args(&["--after-update", "release"])
        .start();
    let ids = join_all((0..PRODUCTS).map(|_| server.create(5))).await;
    // Every second request is the same in each round.
    let is_same = |number: usize| number.is_multiple_of(2);
    let stock_in = |round: usize, number: usize| if is_same(number) { 0 } else { round };
    let patch = async |round, number: usize| {
        let stock = stock_in(round, number);
        let key = format!("key-{number}-{stock}");
        let request = keyed(&server, Method::PATCH, &product(ids[number]), &key);
        server.send(request.json(&json!({ "stock": stock }))).await
    };
    for round in 1..=4 {
        let responses = join_all((0..PRODUCTS).map(|number| patch(round, number))).await;
        for (number, response) in responses.into_iter().enumerate() {
            let version = if is_same(number) { 2 } else { round + 1 };
            assert_eq!(response.status, 200, "{:?}", response.body);
            assert_eq!(response.body["stock"], stock_in(round, number));
            assert_eq!(response.body["version"], version);
            let replayed = response.header("idempotent-replayed") == "true";
            assert_eq!(
                replayed,
                is_same(number) && round > 1,
                "{number} in round {round}"
            );
        }
    }
    for (number, id) in ids.iter().enumerate() {
        let updates = if is_same(number) { 1 } else { 4 };
        assert_eq!(server.ledger(*id).await.len(), 1 + updates);
    }
}
