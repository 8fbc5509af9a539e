//! Traces of requests, as a collector gets them.

use lockstock_testkit::{CollectedSpan, Collector, Proxy, Redis};
use reqwest::Method;
use serde_json::{Value, json};

use crate::access::KeyFile;
use crate::harness::{PATIENCE, Server, ServerBuilder, eventually, new_database, product, sqlite};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Sends the spans of a server to a collector at `url`, without much delay, on a machine without
/// certificate authorities, which plain HTTP does not need.
fn traced(server: ServerBuilder, url: &str) -> ServerBuilder {
    server
        .args(&["--otlp-endpoint", url])
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .env("SSL_CERT_FILE", "/dev/null")
        .env("SSL_CERT_DIR", "/nowhere")
}

/// Returns the spans of a trace, once that of its request is among them.
fn trace(collector: &Collector, id: &str) -> (CollectedSpan, Vec<CollectedSpan>) {
    let is_request = |span: &&CollectedSpan| span.trace_id == id && span.kind == 2;
    let spans = collector.wait_for(|spans| spans.iter().any(|span| is_request(&span)));
    let request = spans.iter().find(is_request).unwrap().clone();
    let others = spans.into_iter();
    let others = others.filter(|span| span.trace_id == id && span.kind != 2);
    let mut others = others.collect::<Vec<_>>();
    others.sort_by_key(|span| span.start_ns);
    (request, others)
}

/// Returns the id of trace number `number`, and the header of a request that is part of it.
fn sampled(number: u8) -> (String, String) {
    let id = format!("{number:032x}");
    let header = format!("00-{id}-{PARENT}-01");
    (id, header)
}

async fn metric(server: &Server, name: &str) -> u64 {
    let metrics = server.get("/metrics").await.body;
    let mut lines = metrics.as_str().unwrap().lines();
    let value = lines.find_map(|line| line.strip_prefix(name)).unwrap();
    value.trim().parse().unwrap()
}

#[tokio::test]
async fn a_request_is_a_part_of_the_trace_of_its_client() {
    let collector = Collector::start();
    let server = traced(Server::embedded(), &collector.url())
        .args(&["--trusted-proxies", "127.0.0.1"])
        .start();
    let id = server.create(10).await;
    let patch = server
        .request(Method::PATCH, &product(id))
        .header("traceparent", format!("00-{TRACE}-{PARENT}-01"))
        .header("x-forwarded-for", "203.0.113.9")
        .header("x-request-id", "checkout-4711")
        .json(&json!({ "stock": 9 }));
    assert_eq!(server.send(patch).await.status, 200);

    let (request, parts) = trace(&collector, TRACE);
    assert_eq!(request.name, "PATCH /api/products/{id}/");
    assert_eq!(request.parent_id, PARENT);
    assert!(!request.is_error);
    let attributes = request.attributes.iter();
    let attributes = attributes.map(|(name, value)| (&**name, &**value));
    assert_eq!(
        attributes.collect::<Vec<_>>(),
        [
            ("client.address", "203.0.113.9"),
            ("http.request.method", "PATCH"),
            ("http.response.status_code", "200"),
            ("http.route", "/api/products/{id}/"),
            ("lockstock.request_id", "checkout-4711"),
            ("url.path", &*product(id)),
        ]
    );
    assert_eq!(request.resource["service.name"], "lockstock");

    let names = parts.iter().map(|span| &*span.name).collect::<Vec<_>>();
    assert_eq!(names, ["lock.wait", "lock.hold", "database.update"]);
    for part in &parts {
        assert_eq!(part.parent_id, request.span_id, "{part:?}");
        assert!(part.start_ns >= request.start_ns, "{part:?}");
        assert!(part.end_ns <= request.end_ns, "{part:?}");
    }
    let [wait, hold, update] = &parts[..] else {
        panic!("{parts:?}");
    };
    let lock = format!("product-update-lock-{id}");
    assert_eq!(wait.attribute("lockstock.lock.name"), lock);
    assert_eq!(wait.attribute("lockstock.lock.outcome"), "held");
    assert_ne!(hold.attribute("lockstock.lock.fence"), "");
    assert!(wait.end_ns <= update.start_ns && update.end_ns <= hold.end_ns);
    assert_eq!(update.attribute("db.system.name"), "sqlite");
    assert_eq!(update.attribute("db.operation.name"), "update");
}

#[tokio::test]
async fn a_rejected_request_has_the_code_of_its_error() {
    let collector = Collector::start();
    let redis = Redis::start();
    let server = Server::on(&redis.url(), &new_database()).args(&["--store-timeout", "1s"]);
    let server = traced(server, &collector.url()).start();
    let id = server.create(10).await;
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);

    let send = async |number, method, path: &str, body: Value| {
        let (trace_id, traceparent) = sampled(number);
        let request = server.request(method, path).json(&body);
        let status = server
            .send(request.header("traceparent", traceparent))
            .await
            .status;
        let (request, parts) = trace(&collector, &trace_id);
        let status_code = request.attribute("http.response.status_code");
        assert_eq!(status_code, status.as_str());
        (request, parts)
    };
    let purchases = format!("{}purchases/", product(id));
    for (number, method, path, body, code) in [
        (
            1,
            Method::PATCH,
            &product(id),
            json!({ "stock": 8 }),
            "busy",
        ),
        (
            2,
            Method::PATCH,
            &product(id),
            json!({ "stock": -1 }),
            "invalid",
        ),
        (
            3,
            Method::POST,
            &purchases,
            json!({ "quantity": 99 }),
            "insufficient_stock",
        ),
    ] {
        let (request, parts) = send(number, method, path, body).await;
        assert_eq!(request.attribute("lockstock.error_code"), code);
        // An error of the client.
        assert!(!request.is_error && request.attribute("error.type").is_empty());
        if code == "busy" {
            assert_eq!(parts[0].name, "lock.wait");
            assert_eq!(parts[0].attribute("lockstock.lock.outcome"), "kept");
        }
    }
    redis.kill();
    let body = json!({ "stock": 8 });
    let (request, parts) = send(4, Method::PATCH, &product(id), body).await;
    let code = request.attribute("lockstock.error_code");
    assert!(request.is_error && !code.is_empty(), "{request:?}");
    assert_eq!(request.attribute("error.type"), code);
    assert_eq!(parts[0].attribute("lockstock.lock.outcome"), "unavailable");
}

#[tokio::test]
async fn a_method_or_a_path_that_a_client_makes_up_is_no_name_of_a_span() {
    let collector = Collector::start();
    let server = traced(Server::embedded(), &collector.url()).start();
    for (number, method, path, name) in [
        (1, "GET", "/made/up", "GET"),
        (2, "BREW", "/api/products/", "HTTP /api/products/"),
    ] {
        let (id, traceparent) = sampled(number);
        let request = server.request(method.parse().unwrap(), path);
        server
            .send(request.header("traceparent", traceparent))
            .await;
        let (request, _) = trace(&collector, &id);
        assert_eq!(request.name, name);
        assert_eq!(request.attribute("url.path"), path);
    }
    let (request, _) = trace(&collector, &sampled(2).0);
    assert_eq!(request.attribute("http.request.method"), "_OTHER");
}

#[tokio::test]
async fn a_trace_that_is_not_sampled_is_not_sent() {
    let collector = Collector::start();
    let server = traced(Server::embedded(), &collector.url())
        .args(&["--otlp-sample", "0"])
        .start();
    let send = async |traceparent: &str| {
        let request = server.request(Method::GET, "/api/products/");
        let request = request.header("traceparent", traceparent);
        assert_eq!(server.send(request).await.status, 200);
    };
    assert_eq!(server.get("/api/products/").await.status, 200);
    send(&format!("00-{TRACE}-{PARENT}-00")).await;
    send("00-malformed-01").await;
    let (id, traceparent) = sampled(7);
    send(&traceparent).await;
    // In the order in which they end.
    let (_, parts) = trace(&collector, &id);
    assert_eq!(
        parts.len(),
        2,
        "database.count and database.list: {parts:?}"
    );
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace_id == id), "{spans:?}");
}

#[tokio::test]
async fn the_variables_of_opentelemetry_are_read() {
    let collector = Collector::start();
    let server = Server::embedded()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .env("OTEL_EXPORTER_OTLP_HEADERS", "X-Tenant=shop")
        .env("OTEL_SERVICE_NAME", "web-shop")
        .env(
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        )
        .env("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .start();
    assert_eq!(server.get("/healthz").await.status, 200);
    let (id, traceparent) = sampled(1);
    let request = server.request(Method::GET, "/healthz");
    server
        .send(request.header("traceparent", traceparent))
        .await;
    let (request, _) = trace(&collector, &id);
    assert_eq!(request.name, "GET /healthz");
    assert_eq!(request.resource["service.name"], "web-shop");
    assert_eq!(request.resource["deployment.environment.name"], "test");
    let bytes = String::from_utf8_lossy(&collector.bytes()).into_owned();
    assert!(bytes.contains("\"x-tenant\": \"shop\""), "{bytes}");
    assert_eq!(collector.spans().len(), 1, "the sampler");
}

#[tokio::test]
async fn a_collector_that_is_down_costs_spans_and_no_request() {
    let collector = Collector::start();
    let proxy = Proxy::start(collector.address());
    proxy.cut();
    let url = format!("http://{}", proxy.address());
    let server = traced(Server::embedded(), &url).start();
    let failed = "lockstock_spans_dropped_total{reason=\"export_failed\"}";
    for expected in 0..3 {
        eventually("spans are dropped", async || {
            assert_eq!(server.get("/healthz").await.status, 200);
            (metric(&server, failed).await > expected).then_some(())
        })
        .await;
    }
    let log = server.log();
    assert_eq!(log.matches("does not take spans").count(), 1, "{log}");
    assert!(log.contains("Connection refused"), "{log}");

    proxy.pass();
    eventually("spans are exported again", async || {
        server.get("/healthz").await;
        server.log().contains("takes spans again").then_some(())
    })
    .await;
    assert_ne!(metric(&server, "lockstock_spans_exported_total").await, 0);
}

#[tokio::test]
async fn a_collector_that_does_not_reply_delays_neither_requests_nor_the_exit() {
    let collector = Collector::start();
    let proxy = Proxy::start(collector.address());
    proxy.stall();
    let url = format!("http://{}", proxy.address());
    let server = traced(Server::embedded(), &url)
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "4")
        .start();
    let full = "lockstock_spans_dropped_total{reason=\"queue_full\"}";
    eventually("the queue is full", async || {
        assert_eq!(server.get("/api/products/").await.status, 200);
        (metric(&server, full).await > 8).then_some(())
    })
    .await;
    let log = server.log();
    assert_eq!(log.matches("more spans end").count(), 1, "{log}");
    server.process.terminate();
    let status = server.process.wait(PATIENCE).expect("exits");
    assert_eq!(status.code(), Some(0));
    assert!(server.log().contains("the last spans were not sent"));
}

#[tokio::test]
async fn the_last_spans_are_sent_before_the_exit() {
    let collector = Collector::start();
    let server = Server::embedded()
        .args(&["--otlp-endpoint", &collector.url()])
        .env("OTEL_BSP_SCHEDULE_DELAY", "3600000")
        .start();
    let (id, traceparent) = sampled(1);
    let request = server.request(Method::GET, "/api/products/");
    server
        .send(request.header("traceparent", traceparent))
        .await;
    assert!(collector.spans().is_empty());
    server.process.terminate();
    let status = server.process.wait(PATIENCE).expect("exits");
    assert_eq!(status.code(), Some(0));
    let spans = collector.spans();
    assert!(spans.iter().any(|span| span.trace_id == id), "{spans:?}");
}

#[tokio::test]
async fn no_span_contains_a_secret_or_what_the_client_sent_beside_the_path() {
    let collector = Collector::start();
    let redis = Redis::start_with(&["--requirepass", "open-sesame"]);
    let store = redis
        .url()
        .replace("redis://", "redis://default:open-sesame@");
    let database = new_database().replace("postgres@", "postgres:hush-hush@");
    let file = KeyFile::new();
    let secret = file.add("web", "write");
    let server =
        Server::on(&store, &database).args(&["--api-key-file", file.path().to_str().unwrap()]);
    let server = traced(server, &collector.url()).start();
    let send = async |number, method, path: &str, body: Value| {
        let (_, traceparent) = sampled(number);
        let request = server
            .request(method, path)
            .bearer_auth(&secret)
            .header("traceparent", traceparent)
            .header("idempotency-key", format!("key-of-the-client-{number}"))
            .header("user-agent", "agent-of-the-client");
        server.send(request.json(&body)).await
    };
    let new = json!({ "name": "name-of-the-product", "price": 1, "stock": 5 });
    let created = send(1, Method::POST, "/api/products/", new).await;
    assert_eq!(created.status, 201, "{created:?}");
    let path = format!("{}?search=query-of-the-client", product(1));
    let updated = send(2, Method::PATCH, &path, json!({ "name": "other-name" })).await;
    assert_eq!(updated.status, 200, "{updated:?}");
    let (request, _) = trace(&collector, &sampled(2).0);
    assert_eq!(request.attribute("lockstock.caller"), "web");

    let bytes = String::from_utf8_lossy(&collector.bytes()).into_owned();
    assert!(bytes.contains("database.create"), "{bytes}");
    for secret in [
        &secret,
        "open-sesame",
        "hush-hush",
        "key-of-the-client",
        "agent-of-the-client",
        "query-of-the-client",
        "name-of-the-product",
        "other-name",
    ] {
        assert!(!bytes.contains(secret), "{secret} in {bytes}");
    }
}

#[tokio::test]
async fn the_lines_of_a_request_have_the_ids_of_its_span() {
    let collector = Collector::start();
    for (number, format) in [(1, "json"), (2, "text")] {
        let folder = tempfile::tempdir().unwrap();
        let database = sqlite(&folder.path().join("shop.sqlite3"));
        let server = Server::on("memory://", &database)
            // Other spans are no part of a line at any level.
            .args(&["--log-format", format, "--log", "lockstock=debug"]);
        let server = traced(server, &collector.url()).start();
        let id = server.create(10).await;
        let (trace_id, traceparent) = sampled(number);
        let patch = server
            .request(Method::PATCH, &product(id))
            .header("traceparent", traceparent)
            .json(&json!({ "stock": 9 }));
        assert_eq!(server.send(patch).await.status, 200);
        let (request, _) = trace(&collector, &trace_id);
        let lines = eventually("the request is logged", async || {
            let log = server.log();
            let lines = log.lines().filter(|line| line.contains(&trace_id));
            let lines = lines.map(str::to_owned).collect::<Vec<_>>();
            let is_complete = lines.iter().any(|line| line.contains("answered"));
            is_complete.then_some(lines)
        })
        .await;
        assert!(lines.len() > 1, "the lock is logged too: {lines:?}");
        for line in lines {
            assert!(line.contains(&request.span_id), "{line}");
            assert!(
                !line.contains("lock.wait") && !line.contains("database"),
                "{line}"
            );
        }
    }
}
