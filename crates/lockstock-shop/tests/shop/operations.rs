//! Operation: health, metrics, OpenAPI document, logs, shutdown.

use std::time::Duration;

use lockstock_testkit::{Postgres, Redis};
use reqwest::Method;
use serde_json::{Value, json};

use crate::access::KeyFile;
use crate::harness::{Server, eventually, locked, product, sqlite};

#[tokio::test]
async fn metrics_count_requests_and_locks() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 429);
    server.get("/nowhere/at/all").await;
    let metrics = server.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4");
    let text = metrics.body.as_str().unwrap();
    for line in [
        "lockstock_http_requests_total{method=\"PATCH\",route=\"/api/products/{id}/\",status=\"200\"} 1",
        "lockstock_http_requests_total{method=\"PATCH\",route=\"/api/products/{id}/\",status=\"429\"} 1",
        "lockstock_http_requests_total{method=\"GET\",route=\"(none)\",status=\"404\"} 1",
        "lockstock_http_request_seconds_count{method=\"PATCH\",route=\"/api/products/{id}/\"} 2",
        "lockstock_lock_held_total 1",
        "lockstock_lock_busy_total 1",
        "lockstock_lock_lost_total 0",
        "lockstock_lock_wait_seconds_count 2",
        "lockstock_lock_hold_seconds_count 1",
        "lockstock_http_requests_in_flight 0",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn the_document_lists_every_route_and_the_docs_page_is_served() {
    let server = Server::embedded().start();
    let document = server.get("/openapi.json").await;
    assert_eq!(document.status, 200);
    let paths = document.body["paths"].as_object().unwrap();
    for (path, verbs) in [
        ("/api/products/", &["get", "post", "options"][..]),
        (
            "/api/products/{id}/",
            &["get", "put", "patch", "delete", "options"],
        ),
        ("/healthz", &["get"]),
        ("/readyz", &["get"]),
        ("/metrics", &["get"]),
    ] {
        for verb in verbs {
            assert!(paths[path][verb].is_object(), "{verb} {path}");
        }
    }
    let patch = &paths["/api/products/{id}/"]["patch"];
    for status in [
        "200", "400", "404", "409", "412", "413", "415", "428", "429", "503",
    ] {
        assert!(
            patch["responses"][status].is_object(),
            "PATCH can respond with {status}"
        );
    }
    let bodies = patch["requestBody"]["content"].as_object().unwrap();
    assert_eq!(bodies.len(), 3, "JSON, form, multipart");
    assert_eq!(server.get("/docs").await.status, 200);
    assert_eq!(server.get("/docs/").await.status, 200);
}

#[tokio::test]
async fn the_document_states_the_limits_of_this_server() {
    let server = Server::embedded()
        .args(&["--max-quantity", "5", "--reservation-ttl", "1m"])
        .args(&["--max-reservation-ttl", "1h", "--key-retention", "2h"])
        .args(&["--body-limit", "4096"])
        .start();
    let document = server.get("/openapi.json").await.body;
    let schemas = &document["components"]["schemas"];
    for body in ["PurchaseRequest", "ReservationRequest"] {
        let quantity = &schemas[body]["properties"]["quantity"];
        assert_eq!(quantity["maximum"], 5, "{body}");
    }
    for body in ["ReservationRequest", "ExtendRequest"] {
        let hold = &schemas[body]["properties"]["hold"];
        assert_eq!(hold["maximum"], 3600, "{body}");
        assert_eq!(hold["default"], 60, "{body}");
    }
    let buy = &document["paths"]["/api/products/{id}/purchases/"]["post"];
    let mut parameters = buy["parameters"].as_array().unwrap().iter();
    let key = parameters.find(|it| it["name"] == "Idempotency-Key");
    let key = key.unwrap()["description"].as_str().unwrap();
    assert!(key.contains("stored for 2 hours."), "{key}");
    let too_large = buy["responses"]["413"]["description"].as_str().unwrap();
    assert!(too_large.contains("4096 bytes"), "{too_large}");
}

#[tokio::test]
async fn each_operation_of_the_document_has_a_unique_id() {
    let server = Server::embedded().start();
    let document = server.get("/openapi.json").await.body;
    let paths = document["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|path| path.as_object().unwrap().values());
    let mut names = operations
        .map(|operation| operation["operationId"].as_str().unwrap())
        .collect::<Vec<_>>();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "generated clients have one method per id");
}

#[tokio::test]
async fn each_response_carries_the_request_id_that_is_logged() {
    let server = Server::embedded().start();
    let request = server
        .request(Method::GET, "/api/products/")
        .header("X-Request-Id", "checkout-4711");
    assert_eq!(
        server.send(request).await.header("x-request-id"),
        "checkout-4711"
    );
    let one = server.get("/api/products/").await;
    let two = server.get("/nowhere").await;
    assert_eq!(one.header("x-request-id").len(), 32);
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
    let id = one.header("x-request-id").to_owned();
    let log = eventually("logged", async || {
        let log = server.log();
        (log.contains("checkout-4711") && log.contains(&id)).then_some(log)
    })
    .await;
    let line: Value = log
        .lines()
        .find(|line| line.contains("checkout-4711"))
        .map(|line| serde_json::from_str(line).unwrap())
        .unwrap();
    assert_eq!(line["message"], "answered");
    assert_eq!(line["status"], 200);
    assert_eq!(line["span"]["path"], "/api/products/");
}

#[tokio::test]
async fn shutdown_fails_readyz_finishes_requests_and_releases_locks() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&[
            "--after-update",
            "release",
            "--update-lease",
            "60s",
            "--drain-delay",
            "2s",
        ])
        .failing("update.locked=return(1000)")
        .start();
    let id = server.create(10).await;
    let key = format!("product-update-lock-{id}");
    let update = server
        .request(Method::PATCH, &product(id))
        .json(&json!({ "stock": 9 }));
    let update = tokio::spawn(update.send());
    locked(&redis, id).await;
    server.process.terminate();
    let draining = eventually("draining", async || {
        let ready = server.get("/readyz").await;
        (ready.status == 503).then_some(ready)
    })
    .await;
    assert_eq!(draining.body["status"], "draining");
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(update.await.unwrap().unwrap().status(), 200);
    let status = server.process.wait(Duration::from_secs(20)).expect("exits");
    assert_eq!(status.code(), Some(0), "{}", server.log());
    assert_eq!(redis.command(&["EXISTS", &key]), Ok("0".to_owned()));
    assert_eq!(postgres.psql("shop", "SELECT stock FROM products"), "9");
}

#[tokio::test]
async fn shutdown_ends_at_the_drain_timeout() {
    let server = Server::embedded()
        .args(&["--drain-timeout", "200ms"])
        .failing("update.locked=return(60000)")
        .start();
    let id = server.create(10).await;
    let update = server
        .request(Method::PATCH, &product(id))
        .json(&json!({ "stock": 9 }));
    let update = tokio::spawn(update.send());
    eventually("under way", async || {
        let metrics = server.get("/metrics").await.body;
        let text = metrics.as_str().unwrap();
        text.contains("lockstock_http_requests_in_flight 1")
            .then_some(())
    })
    .await;
    server.process.terminate();
    let status = server.process.wait(Duration::from_secs(20)).expect("exits");
    assert_eq!(status.code(), Some(0));
    assert!(update.await.unwrap().is_err());
}

#[tokio::test]
async fn acknowledged_updates_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let database = crate::harness::sqlite(&folder.path().join("shop.sqlite3"));
    let mut acknowledged = Vec::new();
    for _ in 0..3 {
        let server = Server::on("memory://", &database).start();
        for (id, stock) in &acknowledged {
            assert_eq!(server.stock(*id).await, *stock);
        }
        for stock in 0..20 {
            let id = server.create(100).await;
            assert_eq!(
                server.patch(id, json!({ "stock": stock })).await.status,
                200
            );
            acknowledged.push((id, stock));
        }
        server.process.kill();
    }
}

#[tokio::test]
async fn the_example_of_each_request_body_is_harmless_to_send() {
    let server = Server::embedded().start();
    let document = server.get("/openapi.json").await.body;
    let mut bodies = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Some(contents) = operation["requestBody"]["content"].as_object() else {
                continue;
            };
            for (kind, content) in contents {
                assert!(content["example"].is_object(), "{method} {path} {kind}");
                bodies += 1;
            }
        }
    }
    assert!(bodies >= 18, "{bodies}");
    let id = server.create(10).await;
    let before = server.get(&product(id)).await.body;
    let patch = &document["paths"]["/api/products/{id}/"]["patch"]["requestBody"]["content"];
    let example = patch["application/json"]["example"].clone();
    let after = server.patch(id, example).await;
    assert_eq!(after.status, 200, "{:?}", after.body);
    for field in ["name", "description", "price"] {
        assert_eq!(after.body[field], before[field], "{field} is left alone");
    }
}

#[tokio::test]
async fn the_format_of_the_log_can_be_chosen() {
    // Standard error is not a terminal here.
    for (format, is_json) in [("auto", true), ("json", true), ("text", false)] {
        let server = Server::embedded().args(&["--log-format", format]).start();
        assert_eq!(server.get("/nowhere/").await.status, 404);
        let line = eventually("the request is logged", async || {
            let log = server.log();
            let line = log.lines().find(|line| line.contains("/nowhere/"))?;
            Some(line.to_owned())
        })
        .await;
        assert_eq!(
            serde_json::from_str::<Value>(&line).is_ok(),
            is_json,
            "{line}"
        );
        assert!(!line.contains('\u{1b}'), "{line}");
    }
}

#[tokio::test]
async fn the_line_of_a_response_has_its_caller_its_client_and_its_error_in_both_formats() {
    let keys = KeyFile::new();
    let secret = keys.add("web", "read");
    for format in ["json", "text"] {
        let server = keys
            .server()
            .args(&["--log-format", format, "--trusted-proxies", "127.0.0.1"])
            .start();
        let request = server
            .request(Method::GET, "/api/products/999/")
            .bearer_auth(&secret)
            // What is beyond the first untrusted address may be forged.
            .header("x-forwarded-for", "198.51.100.1, 203.0.113.9")
            .header("x-request-id", "checkout-4711");
        assert_eq!(server.send(request).await.status, 404);
        let line = eventually("the request is logged", async || {
            let log = server.log();
            let line = log.lines().find(|line| line.contains("checkout-4711"))?;
            Some(line.to_owned())
        })
        .await;
        let parts = match format {
            "json" => [
                r#""message":"answered""#,
                r#""status":404"#,
                r#""code":"not_found""#,
                r#""key":"web""#,
                r#""client":"203.0.113.9""#,
                r#""path":"/api/products/999/""#,
            ],
            _ => [
                "answered",
                "status=404",
                r#"code="not_found""#,
                r#"key="web""#,
                "client=203.0.113.9",
                r#"path="/api/products/999/""#,
            ],
        };
        for part in parts {
            assert!(line.contains(part), "{part} is missing in {line}");
        }
    }
}

#[tokio::test]
async fn the_log_has_the_code_of_an_error() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
    let request = server
        .request(Method::PATCH, &product(id))
        .header("X-Request-Id", "rejected")
        .json(&json!({ "stock": 8 }));
    assert_eq!(server.send(request).await.status, 429);
    server.get("/api/products/999/").await;
    eventually("the error of DRF is logged", async || {
        server
            .log()
            .contains("\"code\":\"not_found\"")
            .then_some(())
    })
    .await;
    let lines = eventually("the request is logged", async || {
        let log = server.log();
        let lines = log.lines().filter(|line| line.contains("rejected"));
        let lines = lines.map(str::to_owned).collect::<Vec<_>>();
        (!lines.is_empty()).then_some(lines)
    })
    .await;
    assert_eq!(lines.len(), 1, "one line for a rejected request: {lines:?}");
    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(
        (&line["status"], &line["code"]),
        (&json!(429), &json!("busy"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_warns_once_if_redis_may_evict_held_locks() {
    let redis = Redis::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let folder = tempfile::tempdir().unwrap();
    let database = sqlite(&folder.path().join("shop.sqlite3"));
    let server = Server::on(&redis.url(), &database).start();
    let warnings = || server.log().matches("\"policy\":\"allkeys-lru\"").count();
    eventually("the policy in the log", async || {
        (warnings() > 0).then_some(())
    })
    .await;
    for _ in 0..3 {
        assert_eq!(server.get("/readyz").await.status, 200);
    }
    assert_eq!(warnings(), 1);
}
