//! Behind proxies and in browsers: links, client addresses, CORS, security headers.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Response, Server, eventually};

/// Returns the second page of a list, whose links the server builds.
async fn second_page(server: &Server, headers: &[(&str, &str)]) -> Value {
    let mut request = server.request(Method::GET, "/api/products/?page=2&page_size=1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.send(request).await.body["previous"].clone()
}

const FORWARDED_HTTPS: [(&str, &str); 4] = [
    ("X-Request-Id", "behind-a-proxy"),
    ("X-Forwarded-For", "203.0.113.9"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "shop.example"),
];

async fn with_two_products(args: &[&str]) -> Server {
    let server = Server::embedded().args(args).start();
    server.create(1).await;
    server.create(1).await;
    server
}

/// Returns the client address that the server has logged for a request.
async fn logged_client(server: &Server, request_id: &str) -> String {
    eventually("the request is logged", async || {
        let log = server.log();
        let mut lines = log.lines().filter(|line| line.contains("\"answered\""));
        let line = lines.find(|line| line.contains(request_id))?;
        let line: Value = serde_json::from_str(line).unwrap();
        Some(line["client"].as_str().unwrap_or_default().to_owned())
    })
    .await
}

#[tokio::test]
async fn forwarding_headers_count_only_from_a_trusted_proxy() {
    let server = with_two_products(&[]).await;
    let link = second_page(&server, &FORWARDED_HTTPS).await;
    let expected = format!("{}/api/products/?page_size=1", server.url);
    assert_eq!(link, expected, "any client can send these headers");
    assert_eq!(logged_client(&server, "behind-a-proxy").await, "127.0.0.1");

    let server = with_two_products(&["--trusted-proxies", "10.0.0.0/8,127.0.0.1"]).await;
    let link = second_page(&server, &FORWARDED_HTTPS).await;
    assert_eq!(link, "https://shop.example/api/products/?page_size=1");
    assert_eq!(
        logged_client(&server, "behind-a-proxy").await,
        "203.0.113.9"
    );
    let forwarded = "for=\"[2001:db8::7]:4711\";proto=https;host=shop.example";
    let headers = [("Forwarded", forwarded), ("X-Request-Id", "standard")];
    let link = second_page(&server, &headers).await;
    assert_eq!(link, "https://shop.example/api/products/?page_size=1");
    assert_eq!(logged_client(&server, "standard").await, "2001:db8::7");
}

#[tokio::test]
async fn links_begin_with_the_public_url() {
    let server = with_two_products(&["--public-url", "https://example.com/shop"]).await;
    let link = second_page(&server, &FORWARDED_HTTPS).await;
    assert_eq!(link, "https://example.com/shop/api/products/?page_size=1");
    let document = server.get("/openapi.json").await.body;
    assert_eq!(document["servers"][0]["url"], "https://example.com/shop");
    let unredirected = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let request = unredirected.get(format!("{}/api/products", server.url));
    let redirect = Response::read(request.send().await.unwrap()).await.unwrap();
    assert_eq!(redirect.status, 308);
    assert_eq!(redirect.header("location"), "/shop/api/products/");
    let buy = server
        .request(Method::POST, "/api/products/1/purchases/")
        .json(&json!({ "quantity": 1 }));
    let bought = server.send(buy).await;
    let location = bought.header("location");
    assert!(location.starts_with("/shop/api/purchases/"), "{location}");
}

#[tokio::test]
async fn the_root_is_the_board_in_a_browser_and_lists_the_entry_points_otherwise() {
    let server = Server::embedded().start();
    let entry_points = server.get("/").await;
    assert_eq!(entry_points.status, 200);
    let products = entry_points.body["products"].as_str().unwrap();
    assert_eq!(products, format!("{}/api/products/", server.url));
    let browser = server
        .request(Method::GET, "/")
        .header("Accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    let page = server.send(browser).await;
    assert!(
        page.body.as_str().unwrap().contains("<html"),
        "{:?}",
        page.body
    );
}

#[tokio::test]
async fn pages_of_other_origins_are_excluded_by_default() {
    let server = Server::embedded().start();
    let preflight = server
        .request(Method::OPTIONS, "/api/products/")
        .header("Origin", "https://shop.example")
        .header("Access-Control-Request-Method", "POST");
    let response = server.send(preflight).await;
    assert_eq!(response.header("access-control-allow-origin"), "");
    assert_eq!(
        response.status, 200,
        "the description of the route, as in DRF"
    );
}

#[tokio::test]
async fn pages_of_a_listed_origin_can_call_the_api() {
    let server = Server::embedded()
        .args(&[
            "--cors-origins",
            "https://shop.example,http://localhost:3000",
        ])
        .start();
    let from = |origin: &str| {
        server
            .request(Method::OPTIONS, "/api/products/")
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "PATCH")
            .header("Access-Control-Request-Headers", "idempotency-key,if-match")
    };
    let preflight = server.send(from("http://localhost:3000")).await;
    assert_eq!(preflight.status, 204);
    let allowed = preflight.header("access-control-allow-origin");
    assert_eq!(allowed, "http://localhost:3000");
    let methods = preflight.header("access-control-allow-methods");
    assert!(methods.contains("PATCH"), "{methods}");
    let headers = preflight
        .header("access-control-allow-headers")
        .to_lowercase();
    for name in [
        "idempotency-key",
        "if-match",
        "authorization",
        "content-type",
        "traceparent",
    ] {
        assert!(headers.contains(name), "{name}: {headers}");
    }
    let other = server.send(from("https://evil.example")).await;
    assert_eq!(other.header("access-control-allow-origin"), "");

    let id = server.create(3).await;
    let get = server
        .request(Method::GET, &crate::harness::product(id))
        .header("Origin", "https://shop.example");
    let response = server.send(get).await;
    let allowed = response.header("access-control-allow-origin");
    assert_eq!(allowed, "https://shop.example");
    let exposed = response.header("access-control-expose-headers");
    assert!(
        ["ETag", "Location", "Retry-After"]
            .iter()
            .all(|name| exposed.contains(name)),
        "{exposed}"
    );
    let vary = response.headers.get_all("vary").iter();
    let vary = vary.map(|it| it.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(vary, ["Accept", "Origin"]);
    let description = server.request(Method::OPTIONS, &crate::harness::product(id));
    assert_eq!(
        server.send(description).await.status,
        200,
        "not a preflight"
    );
}

#[tokio::test]
async fn no_response_is_sniffed_and_the_docs_have_a_policy() {
    let server = Server::embedded().start();
    for path in [
        "/",
        "/api/products/",
        "/nowhere",
        "/docs/",
        "/metrics",
        "/healthz",
    ] {
        let response = server.get(path).await;
        assert_eq!(
            response.header("x-content-type-options"),
            "nosniff",
            "{path}"
        );
    }
    let policy = server.get("/docs/").await;
    let policy = policy.header("content-security-policy");
    assert!(policy.contains("default-src 'none'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
}
