//! Passwords, API keys and idempotency keys appear in no response, metric or log line of any level, in no
//! panic message, in no output of a command, and not in the list of processes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use lockstock_testkit::{Authority, Postgres, Redis};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Server, binary, eventually, install_provider};

const STORE_PASSWORD: &str = "open-sesame";
const DATABASE_PASSWORD: &str = "hush-hush";
const IDEMPOTENCY_KEYS: [&str; 3] = ["key-of-a-purchase", "key-of-an-update", "key-of-a-panic"];
/// Of a client that has no valid key.
const WRONG_SECRET: &str = "lockstock_guessed-secret";

/// Writes a file that only its user can read, and returns its path.
fn private_file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// Runs a command to its end and returns all that it prints.
fn printed(args: &[&str]) -> String {
    let output = binary().args(args).stdin(Stdio::null()).output().unwrap();
    [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8(bytes).unwrap())
        .concat()
}

#[tokio::test]
async fn no_secret_is_logged_answered_printed_or_listed() {
    let redis = Redis::start_with(&["--requirepass", STORE_PASSWORD]);
    let postgres = Postgres::start();
    let folder = tempfile::tempdir().unwrap();
    let store = redis
        .url()
        .replace("redis://", &format!("redis://default:{STORE_PASSWORD}@"));
    let database = postgres
        .create_database("shop")
        .replace("postgres@", &format!("postgres:{DATABASE_PASSWORD}@"));
    let store = private_file(folder.path(), "store", &store);
    let database = private_file(folder.path(), "database", &database);
    let keys = folder.path().join("api-keys").display().to_string();
    let new_key = [
        "key", "new", "web", "--scope", "admin", "--file", &keys, "--json",
    ];
    let key: Value = serde_json::from_str(&printed(&new_key)).unwrap();
    let api_key = key["secret"].as_str().unwrap();
    let digest = fs::read_to_string(&keys).unwrap();
    let digest = digest
        .split(' ')
        .find_map(|word| word.strip_prefix("sha256:"));

    let authority = Authority::new();
    let certificate = authority.issue(&["127.0.0.1"]);
    let path = |path: &Path| path.display().to_string();
    let options = ["--store-file", &store, "--database-file", &database];
    let mut command = binary();
    command
        .args(["--listen", "127.0.0.1:0", "--no-samples", "--log", "trace"])
        .args(options)
        .args(["--api-key-file", &keys, "--after-update", "release"])
        .args(["--tls-cert", &path(certificate.file())])
        .args(["--tls-key", &path(certificate.key_file())])
        .args(["--store-timeout", "1s", "--database-timeout", "1s"]);
    let server = Server::from(command)
        .env("RUST_BACKTRACE", "full")
        .failing("update.written=3*off->1*panic(broken on purpose)")
        .start();
    install_provider();
    let pem = reqwest::Certificate::from_pem(&fs::read(authority.file()).unwrap()).unwrap();
    let client = Client::builder().timeout(PATIENCE).tls_certs_only([pem]);
    let client = client.build().unwrap();
    let request = |method: Method, path: &str| {
        let request = client.request(method, format!("{}{path}", server.url));
        request.bearer_auth(api_key)
    };
    let mut seen = String::new();
    let send = async |request: RequestBuilder, seen: &mut String| {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        *seen += &format!("{:?}\n", response.headers());
        *seen += &response.text().await.unwrap();
        status
    };
    let new = json!({ "name": "Mug", "price": 1, "stock": 9 });
    let created = request(Method::POST, "/api/products/").json(&new);
    assert_eq!(send(created, &mut seen).await, 201);
    let purchase = "/api/products/1/purchases/";
    for _ in 0..2 {
        let buy = request(Method::POST, purchase).header("Idempotency-Key", IDEMPOTENCY_KEYS[0]);
        let buy = buy.json(&json!({ "quantity": 1 }));
        assert_eq!(send(buy, &mut seen).await, 201);
    }
    for stock in [8, 8, 7] {
        let change = request(Method::PATCH, "/api/products/1/");
        let change = change.header("Idempotency-Key", IDEMPOTENCY_KEYS[1]);
        send(change.json(&json!({ "stock": stock })), &mut seen).await;
    }
    for stock in 1..6 {
        let change = request(Method::PATCH, "/api/products/1/");
        send(change.json(&json!({ "stock": stock })), &mut seen).await;
    }
    let wrong = client.get(format!("{}/api/products/", server.url));
    let wrong = wrong
        .bearer_auth(WRONG_SECRET)
        .header("X-API-Key", WRONG_SECRET);
    send(wrong, &mut seen).await;
    for page in [
        "/metrics",
        "/readyz",
        "/openapi.json",
        "/docs/",
        "/api/products/1/ledger/",
    ] {
        send(request(Method::GET, page), &mut seen).await;
    }
    let process = format!("/proc/{}", server.process.id());
    for list in ["cmdline", "environ"] {
        seen += &String::from_utf8_lossy(&fs::read(format!("{process}/{list}")).unwrap());
    }
    let checked = |command: &[&'static str]| [command, &options[..]].concat();
    for command in [
        &["config", "print"][..],
        &["config", "print", "--json"],
        &["doctor"],
        &["doctor", "--json"],
    ] {
        let output = printed(&checked(command));
        assert!(output.contains("database"), "{output}");
        seen += &output;
    }

    redis.kill();
    postgres.kill();
    for key in [None, Some(IDEMPOTENCY_KEYS[2])] {
        let change = request(Method::PATCH, "/api/products/1/").json(&json!({ "stock": 1 }));
        let change = match key {
            Some(key) => change.header("Idempotency-Key", key),
            None => change,
        };
        assert_eq!(send(change, &mut seen).await, 503);
    }
    for page in ["/readyz", "/metrics"] {
        send(request(Method::GET, page), &mut seen).await;
    }
    for command in [&["doctor"][..], &["doctor", "--json"], &["locks"]] {
        let options = if command[0] == "locks" {
            &options[..2]
        } else {
            &options
        };
        seen += &printed(&[command, options].concat());
    }
    let log = eventually("the outage is logged", async || {
        let log = server.log();
        let is_down = log.contains("the store is down") && log.contains("the database is down");
        is_down.then_some(log)
    })
    .await;
    for part in ["broken on purpose", "\"TRACE\"", "h2::", "sqlx", "hyper"] {
        assert!(log.contains(part), "nothing of {part} in the log");
    }
    seen += &log;
    let secrets = [
        STORE_PASSWORD,
        DATABASE_PASSWORD,
        WRONG_SECRET,
        api_key,
        digest.unwrap(),
    ];
    for secret in secrets.into_iter().chain(IDEMPOTENCY_KEYS) {
        let secret = secret.trim_start_matches("lockstock_");
        if let Some(at) = seen.find(secret) {
            let from = seen[..at].rfind('\n').map_or(0, |at| at + 1);
            let line = seen[from..].lines().next().unwrap_or_default();
            panic!("{secret} in {line}");
        }
    }
}
