//! Updates at another server of the shop, which the server of the page relays.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

use futures_util::future::join_all;
use lockstock_testkit::{Authority, Redis};
use reqwest::Method;
use serde_json::json;

use crate::access::KeyFile;
use crate::harness::{Response, Server, eventually, new_database, product};
use crate::malformed_requests::raw;

/// The path of an update that is relayed to the first server in the list.
fn relayed(id: i64) -> String {
    format!("/board/replicas/0{}", &product(id)["/api".len()..])
}

/// Starts two servers of one shop. The first one can relay to the second one.
fn servers(redis: &Redis, args: &[&str]) -> [Server; 2] {
    let database = new_database();
    let other = Server::on(&redis.url(), &database).args(args).start();
    let list = ["--replicas", &other.url];
    let one = Server::on(&redis.url(), &database).args(args).args(&list);
    [one.start(), other]
}

async fn relay(server: &Server, id: i64, stock: i64) -> Response {
    let patch = server.request(Method::PATCH, &relayed(id));
    server.send(patch.json(&json!({ "stock": stock }))).await
}

/// Waits until a server has logged an update. Returns the number of updates in its log.
async fn logged_updates(server: &Server) -> usize {
    eventually("an update is logged", async || {
        let log = server.log();
        let updates = log
            .lines()
            .filter(|line| line.contains("PATCH\",\"path\":\"/api/"));
        Some(updates.count()).filter(|count| *count > 0)
    })
    .await
}

/// A server that accepts one request, sends `response` and closes the connection.
struct Peer {
    url: String,
    request: JoinHandle<String>,
}

impl Peer {
    fn responding(response: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let request = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut part = [0; 4096];
            while !request.ends_with(b"}") {
                let length = connection.read(&mut part).unwrap();
                assert!(length > 0, "the request ends early");
                request.extend_from_slice(&part[..length]);
            }
            connection.write_all(response.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        Self { url, request }
    }

    /// Returns the lines of the request, in lower case and in the order of the alphabet.
    fn lines(self) -> Vec<String> {
        let request = self.request.join().unwrap().to_lowercase();
        let mut lines = request.lines().map(str::to_owned).collect::<Vec<_>>();
        lines.sort();
        lines
    }
}

#[tokio::test]
async fn of_a_race_over_two_servers_from_one_page_one_request_wins() {
    let redis = Redis::start();
    let [one, other] = servers(&redis, &[]);
    let id = one.create(10).await;
    let responses = join_all((0..6).map(async |n| match n % 2 {
        0 => one.patch(id, json!({ "stock": 9 })).await,
        _ => relay(&one, id, 9).await,
    }))
    .await;
    let (won, refused) = responses
        .iter()
        .partition::<Vec<_>, _>(|response| response.status == 200);
    assert_eq!(won.len(), 1, "{responses:?}");
    for response in refused {
        assert_eq!(response.status, 429, "{response:?}");
        assert_eq!(response.body["code"], "busy");
        assert!(response.retry_after() > 0);
    }
    assert_eq!(other.stock(id).await, 9);
    let counted = "lockstock_http_requests_total{method=\"PATCH\",route=\"/api/products/{id}/\"";
    let metrics = other.get("/metrics").await.body;
    assert!(metrics.as_str().unwrap().contains(counted), "{metrics}");
}

#[tokio::test]
async fn only_the_listed_headers_are_relayed() {
    let peer = Peer::responding(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\netag: \"7\"\r\nretry-after: 5\r\n\
         set-cookie: a=b\r\nwww-authenticate: Basic\r\nlocation: /x\r\nserver: peer\r\n\
         content-length: 9\r\n\r\n{\"id\": 1}",
    );
    let address = peer.url["http://".len()..].to_owned();
    let server = Server::embedded()
        .args(&["--replicas", &peer.url])
        // Keys are not sent through a proxy.
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .start();
    let mut patch = server
        .request(Method::PATCH, &format!("{}?page=2", relayed(1)))
        .body("{\"stock\":9}");
    let sent = [
        ("accept", "application/problem+json"),
        ("accept-language", "ko"),
        ("authorization", "bearer secret"),
        ("content-type", "application/json"),
        ("idempotency-key", "4711"),
        ("if-match", "\"6\""),
        ("x-api-key", "other secret"),
        ("x-request-id", "race-1"),
    ];
    let dropped = [
        ("cookie", "session=1"),
        ("forwarded", "for=192.0.2.1"),
        ("origin", "http://shop.example"),
        ("referer", "http://shop.example/"),
        ("user-agent", "browser"),
        ("x-forwarded-for", "192.0.2.1"),
    ];
    for (name, value) in sent.iter().chain(&dropped) {
        patch = patch.header(*name, *value);
    }
    let response = server.send(patch).await;
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.body, json!({ "id": 1 }));
    assert_eq!(response.header("etag"), "\"7\"");
    assert_eq!(response.header("retry-after"), "5");
    assert_eq!(response.header("content-type"), "application/json");
    assert_eq!(response.header("x-request-id"), "race-1");
    for name in ["set-cookie", "www-authenticate", "location", "server"] {
        assert_eq!(response.header(name), "", "{name}");
    }

    let mut expected = sent
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect::<Vec<_>>();
    expected.extend([
        String::new(),
        "content-length: 11".to_owned(),
        format!("host: {address}"),
        "patch /api/products/1/ http/1.1".to_owned(),
        "{\"stock\":9}".to_owned(),
    ]);
    expected.sort();
    assert_eq!(peer.lines(), expected);
}

#[tokio::test]
async fn a_relayed_update_needs_a_key_that_may_write_and_counts_towards_its_rate() {
    let file = KeyFile::new();
    let (reader, writer) = (file.add("reader", "read"), file.add("writer", "write"));
    let redis = Redis::start();
    let path = file.path();
    let keys = ["--api-key-file", path.to_str().unwrap()];
    let database = new_database();
    let other = Server::on(&redis.url(), &database).args(&keys).start();
    let one = Server::on(&redis.url(), &database)
        .args(&keys)
        .args(&["--replicas", &other.url, "--rate-limit", "3/h"])
        .start();
    let new = json!({ "name": "Mug", "price": 1, "stock": 10 });
    let create = other.request(Method::POST, "/api/products/").json(&new);
    let created = other.send(create.bearer_auth(&writer)).await;
    let id = created.body["id"].as_i64().unwrap();
    let relay = async |secret: &str| {
        let patch = one.request(Method::PATCH, &relayed(id));
        let patch = patch.json(&json!({ "stock": 9 }));
        let patch = patch.header("X-Request-ID", "race-1");
        one.send(match secret {
            "" => patch,
            _ => patch.header("X-API-Key", secret),
        })
        .await
    };
    let anonymous = relay("").await;
    assert_eq!(anonymous.status, 401, "{anonymous:?}");
    assert_eq!(anonymous.header("www-authenticate"), "Bearer");
    assert_eq!(relay(&reader).await.status, 403);
    let written = relay(&writer).await;
    assert_eq!(written.status, 200, "{written:?}");
    // This server itself has rejected the others.
    assert_eq!(logged_updates(&other).await, 1, "{}", other.log());
    assert!(written.header("ratelimit").starts_with("\"key\";r=2;t="));
    // The other server knows the key and the request.
    let path = format!("{}ledger/", product(id));
    let ledger = other.request(Method::GET, &path).bearer_auth(&reader);
    let entries = other.send(ledger).await.body;
    let entry = &entries["results"][1];
    assert_eq!(entry["caller"], "writer", "{entries}");
    assert_eq!(entry["request"], "race-1", "{entries}");
    for code in ["busy", "busy", "rate_limited"] {
        let refused = relay(&writer).await;
        assert_eq!(refused.status, 429, "{refused:?}");
        assert_eq!(refused.body["code"], code, "{refused:?}");
    }
}

#[tokio::test]
async fn a_list_that_sends_keys_in_plain_text_is_a_warning() {
    let file = KeyFile::new();
    file.add("web", "write");
    for (url, is_warned) in [("http://192.0.2.1", true), ("http://127.0.0.1", false)] {
        let server = file.server().args(&["--replicas", url]).start();
        // Later than all warnings.
        eventually("the address is logged", async || {
            server.log().contains("\"serving\"").then_some(())
        })
        .await;
        let log = server.log();
        assert_eq!(
            log.contains("--replicas has URLs without TLS"),
            is_warned,
            "{log}"
        );
    }
}

#[tokio::test]
async fn a_server_that_is_down_or_stands_still_has_a_code() {
    let redis = Redis::start();
    let [one, other] = servers(&redis, &[]);
    let impatient = Server::embedded()
        .args(&["--replicas", &other.url, "--request-timeout", "1s"])
        .start();
    let id = one.create(10).await;
    assert_eq!(relay(&one, id, 9).await.status, 200);
    other.process.pause();
    let silent = relay(&impatient, id, 8).await;
    other.process.resume();
    assert_eq!(silent.status, 504, "{silent:?}");
    assert_eq!(silent.body["code"], "replica_timeout");

    other.process.kill();
    // One without a connection from before.
    let one = Server::embedded().args(&["--replicas", &other.url]).start();
    let down = relay(&one, id, 8).await;
    assert_eq!(down.status, 502, "{down:?}");
    assert_eq!(down.body["code"], "replica_unreachable");
    let detail = "The other server cannot be reached. Nothing was written.";
    assert_eq!(down.body["detail"], detail);
    let korean = one
        .request(Method::PATCH, &relayed(id))
        .header("Accept", "application/problem+json")
        .header("Accept-Language", "ko")
        .json(&json!({ "stock": 8 }));
    let korean = one.send(korean).await;
    assert_eq!(korean.header("content-type"), "application/problem+json");
    let detail = "다른 서버에 연결할 수 없습니다. 아무것도 저장되지 않았습니다.";
    assert_eq!(korean.body["detail"], detail, "{korean:?}");
    assert!(!korean.body.to_string().contains("127.0.0.1"));
    // The log has the reason.
    eventually("the reason is logged", async || {
        one.log().contains("refused").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_has_a_code() {
    let peer = Peer::responding("");
    let server = Server::embedded().args(&["--replicas", &peer.url]).start();
    let failed = relay(&server, 1, 9).await;
    assert_eq!(failed.status, 502, "{failed:?}");
    assert_eq!(failed.body["code"], "replica_failed");
    peer.request.join().unwrap();
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    target.set_nonblocking(true).unwrap();
    let location = format!("location: http://{}/\r\n", target.local_addr().unwrap());
    let response =
        format!("HTTP/1.1 307 Temporary Redirect\r\n{location}content-length: 0\r\n\r\n");
    let peer = Peer::responding(response.leak());
    let server = Server::embedded().args(&["--replicas", &peer.url]).start();
    let redirected = relay(&server, 1, 9).await;
    assert_eq!(redirected.status, 502, "{redirected:?}");
    assert_eq!(redirected.body["code"], "replica_redirects");
    assert_eq!(redirected.header("location"), "");
    assert!(target.accept().is_err(), "the redirect was followed");
}

#[tokio::test]
async fn nothing_but_an_update_at_a_listed_server_is_relayed() {
    let redis = Redis::start();
    let [one, other] = servers(&redis, &[]);
    let id = one.create(10).await;
    for path in [
        format!("/board/replicas/1/products/{id}/"),
        format!("/board/replicas/-1/products/{id}/"),
        format!("/board/replicas/http:%2F%2F127.0.0.1/products/{id}/"),
        "/board/replicas/0/products/x/".to_owned(),
        "/board/replicas/0/products/1.5/".to_owned(),
        format!("/board/replicas/0/products/..%2Fproducts%2F{id}/"),
        "/board/replicas/0/products/".to_owned(),
        format!("/board/replicas/0/products/{id}/ledger/"),
        format!("/board/replicas/0/purchases/{id}/"),
        "/board/replicas/0/".to_owned(),
    ] {
        let patch = one.request(Method::PATCH, &path);
        let response = one.send(patch.json(&json!({ "stock": 9 }))).await;
        assert_eq!(response.status, 404, "{path} {response:?}");
    }
    for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
        let request = one.request(method.clone(), &relayed(id));
        let response = one.send(request.json(&json!({ "stock": 9 }))).await;
        assert_eq!(response.status, 405, "{method} {response:?}");
    }
    // A server without a list has no such route.
    assert_eq!(relay(&other, id, 9).await.status, 404);
    assert_eq!(one.stock(id).await, 10);
    assert_eq!(relay(&one, id, 9).await.status, 200);
    assert_eq!(logged_updates(&other).await, 1, "{}", other.log());
}

#[tokio::test]
async fn a_body_that_is_too_large_is_rejected_before_it_is_relayed() {
    let redis = Redis::start();
    let [one, other] = servers(&redis, &["--body-limit", "64"]);
    let id = one.create(10).await;
    let large = format!("{{\"stock\": 9{}}}", " ".repeat(64));
    let head = format!(
        "PATCH {} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n",
        relayed(id)
    );
    let length = large.len();
    for request in [
        format!("{head}Content-Length: {length}\r\n\r\n{large}"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{large}\r\n0\r\n\r\n"),
    ] {
        let rejected = raw(&one, request.as_bytes()).await;
        assert!(rejected.starts_with("HTTP/1.1 413 "), "{rejected}");
        assert!(
            rejected.contains("\"code\":\"body_too_large\""),
            "{rejected}"
        );
    }
    let patch = one.request(Method::PATCH, &relayed(id)).body("…");
    let coded = one.send(patch.header("Content-Encoding", "gzip")).await;
    assert_eq!(coded.status, 415, "{coded:?}");
    assert_eq!(relay(&one, id, 9).await.status, 200);
    assert_eq!(logged_updates(&other).await, 1, "{}", other.log());
}

#[tokio::test]
async fn a_replica_with_https_is_verified_by_the_authorities_of_the_system() {
    let authority = Authority::new();
    let certificate = authority.issue(&["127.0.0.1"]);
    let (file, key) = (certificate.file(), certificate.key_file());
    let other = Server::embedded()
        .args(&["--tls-cert", file.to_str().unwrap()])
        .args(&["--tls-key", key.to_str().unwrap()])
        .start();
    assert!(other.url.starts_with("https://"));
    let trusted = authority.file();
    let foreign = Authority::new();
    for (authorities, status) in [(trusted, 404), (foreign.file(), 502)] {
        let one = Server::embedded()
            .args(&["--replicas", &other.url])
            .env("SSL_CERT_FILE", authorities.to_str().unwrap())
            .env("SSL_CERT_DIR", "/nowhere")
            .start();
        // The other server has no product.
        let response = relay(&one, 1, 9).await;
        assert_eq!(response.status, status, "{response:?}");
        let code = response.body["code"].as_str().unwrap_or_default();
        assert_eq!(code == "replica_unreachable", status == 502);
    }
}
