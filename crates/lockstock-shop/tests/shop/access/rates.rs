//! The rate limit of a key or, without keys, of an address.

use reqwest::Method;
use serde_json::json;

use super::{KeyFile, send};
use crate::harness::{Response, Server};

const PRODUCTS: &str = "/api/products/";

/// A limit that no test waits for.
const LIMIT: [&str; 2] = ["--rate-limit", "3/h"];

async fn from_address(server: &Server, address: &str) -> Response {
    let request = server.request(Method::GET, PRODUCTS);
    server
        .send(request.header("X-Forwarded-For", address))
        .await
}

fn is_limited(response: &Response) -> bool {
    response.status == 429 && response.body["code"] == "rate_limited"
}

#[tokio::test]
async fn each_key_has_a_rate_of_its_own() {
    let file = KeyFile::new();
    let (web, phone) = (file.add("web", "read"), file.add("phone", "read"));
    let server = file.server().args(&LIMIT).start();
    for remaining in [2, 1, 0] {
        let response = send(&server, Method::GET, PRODUCTS, &web).await;
        assert_eq!(response.status, 200);
        assert_eq!(response.header("ratelimit-policy"), "\"key\";q=3;w=3600");
        let state = format!("\"key\";r={remaining};t=");
        assert!(
            response.header("ratelimit").starts_with(&state),
            "{response:?}"
        );
    }
    let rejected = server
        .request(Method::DELETE, PRODUCTS)
        .bearer_auth(&web)
        .header("Accept-Language", "ko");
    let rejected = server.send(rejected).await;
    assert!(is_limited(&rejected), "{rejected:?}");
    assert_eq!(
        rejected.body["error"],
        "1시간에 3번까지만 요청할 수 있습니다."
    );
    assert!((1..=1200).contains(&rejected.retry_after()), "{rejected:?}");
    assert!(rejected.header("ratelimit").starts_with("\"key\";r=0;t="));
    assert_eq!(
        send(&server, Method::GET, PRODUCTS, &phone).await.status,
        200
    );
    for _ in 0..5 {
        let health = server.get("/healthz").await;
        assert_eq!(health.status, 200);
        assert_eq!(health.header("ratelimit"), "");
    }
}

#[tokio::test]
async fn wrong_secrets_count_towards_the_address_and_leave_the_keys_of_others_alone() {
    let file = KeyFile::new();
    let web = file.add("web", "read");
    let server = file.server().args(&LIMIT).start();
    for _ in 0..3 {
        let guess = send(&server, Method::GET, PRODUCTS, "a guess").await;
        assert_eq!(guess.status, 401);
        assert_eq!(guess.header("ratelimit-policy"), "\"address\";q=3;w=3600");
    }
    assert!(is_limited(
        &send(&server, Method::GET, PRODUCTS, "a guess").await
    ));
    assert!(is_limited(&server.get("/docs/").await));
    assert_eq!(send(&server, Method::GET, PRODUCTS, &web).await.status, 200);
}

#[tokio::test]
async fn without_keys_each_address_has_a_rate_and_only_a_trusted_proxy_names_another() {
    let server = Server::embedded().args(&LIMIT).start();
    for number in 1..=3 {
        let response = from_address(&server, &format!("192.0.2.{number}")).await;
        assert_eq!(response.status, 200);
    }
    assert!(is_limited(&from_address(&server, "192.0.2.4").await));
    assert_eq!(server.get("/metrics").await.status, 200, "not of the API");

    let server = Server::embedded()
        .args(&LIMIT)
        .args(&["--trusted-proxies", "127.0.0.1"])
        .start();
    for _ in 0..3 {
        assert_eq!(from_address(&server, "192.0.2.1").await.status, 200);
    }
    assert!(is_limited(&from_address(&server, "192.0.2.1").await));
    assert_eq!(from_address(&server, "192.0.2.2").await.status, 200);
    let metrics = server.get("/metrics").await.body;
    let counted = "lockstock_rate_limited_total{policy=\"address\"} 1\n";
    assert!(metrics.as_str().unwrap().contains(counted), "{metrics}");
    // The members are those of the other 429, which has another code.
    let document = server.get("/openapi.json").await;
    let operation = &document.body["paths"][PRODUCTS]["get"]["responses"]["429"];
    let schema = &operation["content"]["application/json"]["schema"];
    assert_eq!(*schema, json!({ "$ref": "#/components/schemas/Busy" }));
}
