//! The address for operators.

use reqwest::Method;
use serde_json::Value;

use super::{KeyFile, send};
use crate::harness::{Response, Server, binary, eventually};

/// Returns the URL of the address for operators, which the server logs.
async fn url_for_operators(server: &Server) -> String {
    eventually("the address is logged", async || {
        let log = server.log();
        let line = log.lines().find(|line| line.contains("\"serving\""))?;
        let line: Value = serde_json::from_str(line).ok()?;
        Some(format!("http://{}", line["operate"].as_str()?))
    })
    .await
}

async fn get(url: String) -> Response {
    let response = reqwest::get(url).await.unwrap();
    Response::read(response).await.unwrap()
}

#[tokio::test]
async fn metrics_and_documentation_move_to_the_address_for_operators() {
    let file = KeyFile::new();
    let web = file.add("web", "write");
    let admin = file.add("operator", "admin");
    let server = file
        .server()
        .args(&["--operate-listen", "127.0.0.1:0"])
        .args(&["--public-url", "https://shop.example"])
        .start();
    let operate = url_for_operators(&server).await;
    for path in ["/metrics", "/docs/", "/openapi.json"] {
        assert_eq!(
            send(&server, Method::GET, path, &admin).await.status,
            404,
            "{path}"
        );
        // Loopback: no key.
        assert_eq!(get(format!("{operate}{path}")).await.status, 200, "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
        assert_eq!(get(format!("{operate}{path}")).await.status, 200, "{path}");
    }
    // So that the board and the documentation can call the API: reads need no key either.
    assert_eq!(get(format!("{operate}/api/products/")).await.status, 200);
    let stream = reqwest::get(format!("{operate}/api/locks/events")).await;
    assert_eq!(stream.unwrap().status(), 200);
    for (secret, status) in [("", 401), (&*web, 201)] {
        let create = reqwest::Client::new()
            .post(format!("{operate}/api/products/"))
            .bearer_auth(secret)
            .json(&serde_json::json!({ "name": "Mug", "price": 1 }));
        assert_eq!(create.send().await.unwrap().status(), status);
    }
    let listed = server.get("/").await.body;
    assert!(
        listed["products"].is_string() && listed["docs"].is_null(),
        "{listed}"
    );
    let listed = get(operate.clone()).await.body;
    assert!(
        listed["products"].is_string() && listed["docs"].is_string(),
        "{listed}"
    );
    let browser = reqwest::Client::new().get(&operate);
    let page = browser
        .header("Accept", "text/html,*/*")
        .send()
        .await
        .unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.text().await.unwrap().contains("board.js"));
    let browser = server
        .request(Method::GET, "/")
        .header("Accept", "text/html,*/*");
    assert_eq!(
        server.send(browser).await.status,
        200,
        "the entry points, and no page"
    );
    let document = get(format!("{operate}/openapi.json")).await.body;
    assert!(document["paths"]["/metrics"].is_object());
    assert_eq!(document["servers"][0]["url"], "/");
    assert_eq!(document["servers"][1]["url"], "https://shop.example");
    send(&server, Method::GET, "/api/products/", &web).await;
    let metrics = get(format!("{operate}/metrics")).await.body;
    assert!(
        metrics.as_str().unwrap().contains("key=\"web\""),
        "{metrics}"
    );
}

#[tokio::test]
async fn updates_at_other_servers_are_relayed_by_the_address_for_operators_only() {
    let file = KeyFile::new();
    let (reader, writer) = (file.add("reader", "read"), file.add("writer", "write"));
    // It needs no key: this server decides.
    let other = Server::embedded().start();
    let server = file
        .server()
        .args(&["--operate-listen", "127.0.0.1:0"])
        .args(&["--replicas", &other.url])
        .start();
    let operate = url_for_operators(&server).await;
    let path = format!("/board/replicas/0/products/{}/", other.create(5).await);
    for (secret, status) in [("", 401), (&*reader, 403), (&writer, 200)] {
        let update = reqwest::Client::new()
            .patch(format!("{operate}{path}"))
            .bearer_auth(secret)
            .json(&serde_json::json!({ "stock": 4 }));
        assert_eq!(update.send().await.unwrap().status(), status);
    }
    let at_api = send(&server, Method::PATCH, &path, &writer).await;
    assert_eq!(at_api.status, 404, "{at_api:?}");
}

#[tokio::test]
async fn an_address_for_operators_that_others_can_reach_needs_keys() {
    let file = KeyFile::new();
    let (web, admin) = (file.add("web", "write"), file.add("operator", "admin"));
    let server = file
        .server()
        .args(&["--operate-listen", "0.0.0.0:0"])
        .start();
    let operate = url_for_operators(&server).await;
    let metrics = operate.replace("0.0.0.0", "127.0.0.1") + "/metrics";
    for (secret, status) in [("", 401), (&*web, 403), (&admin, 200)] {
        let request = reqwest::Client::new().get(&metrics).bearer_auth(secret);
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    let output = binary()
        .args(["--listen", "127.0.0.1:0", "--operate-listen", "0.0.0.0:0"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        error.contains("reach 0.0.0.0:0") && error.contains("--api-key-file"),
        "{error}"
    );
    let taken = server.url.strip_prefix("http://").unwrap();
    let output = binary()
        .args(["--listen", "127.0.0.1:0", "--operate-listen", taken])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("choose another with --operate-listen"),
        "{error}"
    );
}
