//! The name of a key is the caller: of idempotency keys, reservations, the ledger, the log and metrics.

use reqwest::Method;
use serde_json::{Value, json};

use super::{KeyFile, send};
use crate::harness::{Response, Server, eventually};

/// Sends an order with an idempotency key.
async fn order(server: &Server, path: &str, secret: &str, key: &str) -> Response {
    let request = server
        .request(Method::POST, path)
        .bearer_auth(secret)
        .header("Idempotency-Key", key)
        .json(&json!({ "quantity": 1 }));
    server.send(request).await
}

#[tokio::test]
async fn idempotency_keys_and_reservations_belong_to_the_name_of_a_key() {
    let file = KeyFile::new();
    let (web, phone) = (file.add("web", "write"), file.add("phone", "write"));
    let server = file.server().start();
    send(&server, Method::POST, "/api/products/", &web).await;
    let purchases = "/api/products/1/purchases/";
    let first = order(&server, purchases, &web, "key-1").await;
    assert_eq!(first.status, 201);
    // The header differs, and the caller does not.
    let again = server
        .request(Method::POST, purchases)
        .header("X-API-Key", &web)
        .header("Idempotency-Key", "key-1")
        .json(&json!({ "quantity": 1 }));
    let again = server.send(again).await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.body, first.body);
    let other = order(&server, purchases, &phone, "key-1").await;
    assert_eq!(other.status, 201);
    assert_eq!(other.header("idempotent-replayed"), "");
    assert_ne!(other.body["id"], first.body["id"]);

    let held = order(&server, "/api/products/1/reservations/", &web, "key-2").await;
    assert_eq!(held.status, 201, "{:?}", held.body);
    let reservation = held.body["id"].as_str().unwrap();
    let reservation = format!("/api/products/1/reservations/{reservation}/");
    for (secret, status) in [(&phone, 404), (&web, 200)] {
        let read = send(&server, Method::GET, &reservation, secret).await;
        assert_eq!(read.status, status);
    }
}

#[tokio::test]
async fn the_ledger_names_the_key_and_nothing_that_is_not_checked() {
    let file = KeyFile::new();
    let (web, phone) = (file.add("web", "write"), file.add("phone", "write"));
    let server = file.server().start();
    send(&server, Method::POST, "/api/products/", &web).await;
    order(&server, "/api/products/1/purchases/", &phone, "key").await;
    send(&server, Method::PATCH, "/api/products/1/", &web).await;
    let ledger = send(&server, Method::GET, "/api/products/1/ledger/", &web)
        .await
        .body;
    let callers = |ledger: &Value| {
        let entries = ledger["results"].as_array().unwrap().iter();
        entries
            .map(|entry| entry["caller"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(callers(&ledger), ["web", "phone", "web"]);

    let open = Server::embedded().start();
    send(&open, Method::POST, "/api/products/", "not checked").await;
    let ledger = open.get("/api/products/1/ledger/").await.body;
    assert_eq!(callers(&ledger), [Value::Null]);
}

#[tokio::test]
async fn log_and_metrics_name_the_key_and_contain_no_secret() {
    let file = KeyFile::new();
    let (web, admin) = (file.add("web", "write"), file.add("operator", "admin"));
    let server = file.server().args(&["--log", "debug"]).start();
    let tagged = server
        .request(Method::GET, "/api/products/")
        .bearer_auth(&web)
        .header("X-Request-Id", "by-web");
    server.send(tagged).await;
    let wrong = "lockstock_wrong-secret";
    send(&server, Method::GET, "/api/products/", wrong).await;
    let line = eventually("the request is logged", async || {
        let log = server.log();
        let line = log
            .lines()
            .find(|line| line.contains("answered") && line.contains("by-web"))?;
        serde_json::from_str::<Value>(line).ok()
    })
    .await;
    assert_eq!(line["key"], "web");
    let metrics = send(&server, Method::GET, "/metrics", &admin).await.body;
    let metrics = metrics.as_str().unwrap();
    let counted = "lockstock_key_requests_total{key=\"web\",status=\"success\"} 1\n";
    assert!(metrics.contains(counted), "{metrics}");
    let digests = file.text();
    let digests = digests.lines().map(|line| line.split(' ').nth(2).unwrap());
    let log = server.log();
    for secret in [&*web, &*admin, wrong].into_iter().chain(digests) {
        let secret = secret.trim_start_matches("sha256:");
        assert!(!log.contains(secret) && !metrics.contains(secret));
    }
}
