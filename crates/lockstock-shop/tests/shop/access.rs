//! API keys: which requests need one of which scope, and the file that lists them.

mod callers;
mod key_files;
mod operators;
mod rates;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Response, Server, ServerBuilder, binary, product};

/// A file of API keys, written by `lockstock key new`.
pub(crate) struct KeyFile {
    folder: TempDir,
}

impl KeyFile {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("api-keys")
    }

    /// Adds a key and returns its secret.
    pub(crate) fn add(&self, name: &str, scope: &str) -> String {
        let output = self.create(name, scope, &["--json"]);
        assert!(output.status.success(), "{output:?}");
        let key: Value = serde_json::from_slice(&output.stdout).unwrap();
        key["secret"].as_str().unwrap().to_owned()
    }

    pub(crate) fn create(&self, name: &str, scope: &str, args: &[&str]) -> Output {
        binary()
            .args(["key", "new", name, "--scope", scope, "--file"])
            .arg(self.path())
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap()
    }

    /// Replaces the file, as its user would.
    pub(crate) fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
        self.set_mode(0o600);
    }

    pub(crate) fn set_mode(&self, mode: u32) {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.path(), permissions).unwrap();
    }

    pub(crate) fn server(&self) -> ServerBuilder {
        Server::embedded().args(&["--api-key-file", self.path().to_str().unwrap()])
    }
}

/// Sends a request with a secret, and a body if the method has one.
async fn send(server: &Server, method: Method, path: &str, secret: &str) -> Response {
    let mut request = server.request(method.clone(), path);
    if !secret.is_empty() {
        request = request.bearer_auth(secret);
    }
    if method == Method::POST || method == Method::PUT || method == Method::PATCH {
        request = request.json(&json!({ "name": "Mug", "price": 1, "stock": 5, "quantity": 1 }));
    }
    server.send(request).await
}

#[tokio::test]
async fn each_request_needs_a_key_whose_scope_includes_it() {
    let file = KeyFile::new();
    let (read, write) = (file.add("reports", "read"), file.add("web", "write"));
    let admin = file.add("operator", "admin");
    let server = file.server().start();
    let created = send(&server, Method::POST, "/api/products/", &write).await;
    assert_eq!(created.status, 201, "{:?}", created.body);

    let one = product(1);
    for (method, path, lowest) in [
        (Method::GET, "/api/products/", "read"),
        (Method::HEAD, &*one, "read"),
        (Method::OPTIONS, &*one, "read"),
        (Method::GET, "/api/products/1/ledger/", "read"),
        (Method::GET, "/docs/", "read"),
        (Method::GET, "/openapi.json", "read"),
        (Method::POST, "/api/products/1/purchases/", "write"),
        (Method::GET, "/metrics", "admin"),
        // Before the method is looked at, as in DRF.
        (Method::DELETE, "/api/products/", "write"),
        (Method::GET, "/healthz", "none"),
        (Method::GET, "/readyz", "none"),
        (Method::GET, "/", "none"),
        (Method::GET, "/nowhere", "none"),
    ] {
        let scopes = [
            ("none", ""),
            ("read", &read),
            ("write", &write),
            ("admin", &admin),
        ];
        let position = |name| scopes.iter().position(|(scope, _)| *scope == name);
        for (scope, secret) in scopes {
            let response = send(&server, method.clone(), path, secret).await;
            let is_rejected = response.status == 401 || response.status == 403;
            let is_below = position(scope) < position(lowest);
            assert_eq!(
                is_rejected, is_below,
                "{method} {path} as {scope}: {response:?}"
            );
            if is_below {
                let expected = if scope == "none" { 401 } else { 403 };
                assert_eq!(response.status, expected, "{method} {path} as {scope}");
            }
        }
    }
}

#[tokio::test]
async fn a_rejection_is_that_of_drf_in_each_format() {
    let file = KeyFile::new();
    let read = file.add("reports", "read");
    let server = file.server().start();
    let no_key = server.get("/api/products/").await;
    assert_eq!(no_key.status, 401);
    assert_eq!(no_key.header("www-authenticate"), "Bearer");
    assert_eq!(
        no_key.body,
        json!({ "detail": "Authentication credentials were not provided." })
    );
    let wrong = send(&server, Method::GET, "/api/products/", "wrong").await;
    assert_eq!(
        (wrong.status.as_u16(), &wrong.body["detail"]),
        (401, &json!("Invalid token."))
    );
    let forbidden = server
        .request(Method::DELETE, &product(1))
        .bearer_auth(&read)
        .header("Accept", "application/problem+json")
        .header("Accept-Language", "ko");
    let forbidden = server.send(forbidden).await;
    assert_eq!(forbidden.status, 403);
    assert_eq!(forbidden.header("content-type"), "application/problem+json");
    assert_eq!(forbidden.body["title"], "Forbidden");
    assert_eq!(
        forbidden.body["detail"],
        "이 작업을 수행할 권한이 없습니다."
    );
}

#[tokio::test]
async fn a_secret_may_come_in_several_headers_and_a_browser_may_open_the_documentation() {
    let file = KeyFile::new();
    let read = file.add("reports", "read");
    let server = file.server().start();
    for (name, value) in [
        ("Authorization", format!("Bearer {read}")),
        ("Authorization", format!("token {read}")),
        ("X-API-Key", read.clone()),
    ] {
        let request = server
            .request(Method::GET, "/api/products/")
            .header(name, &value);
        let response = server.send(request).await;
        assert_eq!(response.status, 200, "{name}");
        assert_eq!(response.header("cache-control"), "private", "{name}");
    }
    let page = server.get("/docs/").await;
    assert_eq!(page.status, 401);
    assert!(
        page.header("www-authenticate").starts_with("Basic "),
        "{page:?}"
    );
    for (path, status) in [
        ("/docs/", 200),
        ("/openapi.json", 200),
        ("/api/products/", 401),
    ] {
        let request = server
            .request(Method::GET, path)
            .basic_auth("any", Some(&read));
        // A browser sends Basic credentials by itself, also to a request that a foreign page makes.
        assert_eq!(server.send(request).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn a_key_that_may_not_write_is_offered_no_fields_to_write() {
    let file = KeyFile::new();
    let (read, write) = (file.add("reports", "read"), file.add("web", "write"));
    let server = file.server().start();
    send(&server, Method::POST, "/api/products/", &write).await;
    for path in ["/api/products/", &product(1)] {
        let offered = send(&server, Method::OPTIONS, path, &write).await.body;
        assert!(offered.get("actions").is_some(), "{offered}");
        let offered = send(&server, Method::OPTIONS, path, &read).await.body;
        assert!(offered.get("actions").is_none(), "{offered}");
    }
}

#[tokio::test]
async fn the_openapi_document_states_the_scope_of_each_operation() {
    let file = KeyFile::new();
    let read = file.add("reports", "read");
    let document = send(&file.server().start(), Method::GET, "/openapi.json", &read)
        .await
        .body;
    let schemes = &document["components"]["securitySchemes"];
    assert_eq!(schemes["bearer"]["scheme"], "bearer");
    assert_eq!(schemes["apiKey"]["name"], "X-API-Key");
    let of = |path: &str, method: &str| document["paths"][path][method]["security"].clone();
    let needs = |scope| json!([{ "bearer": [scope] }, { "apiKey": [scope] }]);
    assert_eq!(of("/api/products/", "get"), needs("read"));
    assert_eq!(of("/api/products/{id}/", "patch"), needs("write"));
    assert_eq!(of("/metrics", "get"), needs("admin"));
    assert_eq!(of("/healthz", "get"), Value::Null);
    let responses = &document["paths"]["/api/products/{id}/"]["patch"]["responses"];
    assert!(responses["401"]["headers"]["WWW-Authenticate"].is_object());
    assert!(responses["403"]["content"]["application/problem+json"].is_object());

    let document = Server::embedded().start().get("/openapi.json").await.body;
    assert!(document["components"]["securitySchemes"].is_null());
    assert!(document["paths"]["/api/products/"]["get"]["responses"]["401"].is_null());
}

#[tokio::test]
async fn a_race_sends_the_secret_of_a_key() {
    let file = KeyFile::new();
    let write = file.add("web", "write");
    let server = file.server().start();
    send(&server, Method::POST, "/api/products/", &write).await;
    let race = |args: &[&str], secret: &str| {
        let mut command = binary();
        command
            .args(["race", "--json", "--url", &server.url])
            .args(args);
        command.env("LOCKSTOCK_API_KEY", secret).output().unwrap()
    };
    let output = race(&[], "");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        error.contains("401") && error.contains("LOCKSTOCK_API_KEY"),
        "{error}"
    );
    let output = race(&[], &write);
    assert!(output.status.success(), "{output:?}");
    let secret = file.folder.path().join("secret");
    std::fs::write(&secret, format!("{write}\n")).unwrap();
    send(&server, Method::POST, "/api/products/", &write).await;
    let output = race(
        &["--product", "2", "--secret-file", secret.to_str().unwrap()],
        "",
    );
    assert!(output.status.success(), "{output:?}");
}

/// The rule for listeners.
#[tokio::test]
async fn an_address_that_others_can_reach_needs_keys() {
    let file = KeyFile::new();
    file.add("web", "write");
    let server = file.server().args(&["--listen", "0.0.0.0:0"]).start();
    let url = server.url.replace("0.0.0.0", "127.0.0.1");
    let response = reqwest::get(format!("{url}/api/products/")).await.unwrap();
    assert_eq!(response.status(), 401);
    let log = server.log();
    assert!(
        log.contains("without TLS") && log.contains("--tls-cert"),
        "{log}"
    );
    let output = binary().args(["--listen", "0.0.0.0:0"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    for word in ["--api-key-file", "lockstock key --help", "--insecure"] {
        assert!(error.contains(word), "{error}");
    }
}
