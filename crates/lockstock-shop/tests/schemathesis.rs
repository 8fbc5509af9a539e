//! The OpenAPI document describes the server: schemathesis generates valid and invalid requests,
//! single ones and chains, and checks the responses against the document.
//!
//! All checks are on in all phases. The test configures what the document cannot express:
//!
//! - A valid request may be 412 or 422, because it depends on the state (`If-Match`,
//!   `Idempotency-Key`) as 404 and 409 do.
//! - Cancelled and sold reservations and the ledger of a deleted product remain readable: the check
//!   `use_after_free` is off for the four operations that read them.
//! - Chains send no `Idempotency-Key`: a replayed response may describe a product that the chain has
//!   deleted since, and `ensure_resource_availability` would report it as missing.
//! - The reservations that exist, to read, extend, confirm and cancel.
//! - `"9"` is valid for 9, and 9 for `"9"`: the server accepts both as Django REST framework does.
//!   The document mentions this in words and has one type for each field, so that generated clients
//!   have one too.
//! - The stream of live events never ends, so it is left out. `tests/shop/board/` has its tests.
//! - Multipart bodies with control characters in the names of their parts are left out, because
//!   schemathesis does not encode them.
//!
//! The server requires an API key, so that schemathesis also checks that each operation whose security
//! the document states rejects requests without one.
//!
//! The first two are in `schemathesis/schemathesis.toml`, the others in `schemathesis/hooks.py`.
//! The server runs with `--after-update release`: with a cool-down after each update, nearly every
//! update would be 429.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lockstock_testkit::{Process, free_port, python};

/// Upper bound of the time until the server is ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Number of requests per operation and chain, and a seed that makes failures reproducible.
const EXAMPLES: &str = "40";
const SEED: &str = "1";

/// The secret of the API key, and its digest.
const SECRET: &str = "the-secret";
const KEY_LINE: &str =
    "test admin sha256:5a90063288c04e4df59164f25bacb191f42f8f7e11b127030cb01fffd22af956\n";

/// Responses that must occur, otherwise the run proves nothing: method, route, status.
const EXPECTED: &[(&str, &str, u16)] = &[
    ("POST", "/api/products/", 201),
    ("PUT", "/api/products/{id}/", 200),
    ("PATCH", "/api/products/{id}/", 200),
    ("DELETE", "/api/products/{id}/", 204),
    ("POST", "/api/products/{id}/purchases/", 201),
    ("GET", "/api/locks/", 200),
    ("DELETE", "/api/locks/", 404),
    ("GET", "/api/products/{id}/purchases/", 200),
    ("GET", "/api/products/{id}/ledger/", 200),
    ("GET", "/api/purchases/{id}/", 200),
    ("POST", "/api/products/{id}/reservations/", 201),
    ("GET", "/api/products/{id}/reservations/{rid}/", 200),
    ("DELETE", "/api/products/{id}/reservations/{rid}/", 204),
    (
        "POST",
        "/api/products/{id}/reservations/{rid}/confirm/",
        201,
    ),
    ("POST", "/api/products/{id}/reservations/{rid}/extend/", 200),
];

#[test]
fn the_server_conforms_to_its_openapi_document() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let _server = serve(port, folder.path());
    // One of the samples.
    let product = 2;
    let reservation = || reserve(port, product);

    let python = python();
    let configuration = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis");
    let output = Command::new(python.with_file_name("schemathesis"))
        .arg("--config-file")
        .arg(configuration.join("schemathesis.toml"))
        .args(["run", "--no-color", "--continue-on-failure"])
        .args(["--max-examples", EXAMPLES, "--seed", SEED])
        // Examples of earlier runs would change this one.
        .args(["--generation-database", "none"])
        .args(["--exclude-operation-id", "watch_locks"])
        // The report contains complete requests, so that each can be repeated.
        .args(["--output-sanitize", "false"])
        .args(["--header", &format!("Authorization: Bearer {SECRET}")])
        .arg(format!("http://127.0.0.1:{port}/openapi.json"))
        .env("SCHEMATHESIS_HOOKS", configuration.join("hooks.py"))
        .env("PRODUCT", product.to_string())
        .envs(["HELD", "CONFIRMED", "CANCELLED"].map(|name| (name, reservation())))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // Schemathesis writes files into its working directory.
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("schemathesis beside {}: {error}", python.display()));
    let report = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}{errors}");

    let metrics = get(port, "/metrics").unwrap();
    for (method, route, status) in EXPECTED {
        let labels = format!("{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}");
        let counted = format!("lockstock_http_requests_total{labels}");
        assert!(
            metrics.contains(&counted),
            "no {status} for {method} {route}: raise EXAMPLES or change SEED\n{report}"
        );
    }
}

/// Starts the shop with its samples, on SQLite and with the memory store.
fn serve(port: u16, folder: &Path) -> Process {
    let database = format!("sqlite://{}", folder.join("shop.sqlite3").display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstock"));
    for (name, _) in std::env::vars() {
        if name.starts_with("LOCKSTOCK_") {
            command.env_remove(name);
        }
    }
    let key_file = folder.join("api-keys");
    std::fs::write(&key_file, KEY_LINE).unwrap();
    std::fs::set_permissions(&key_file, Permissions::from_mode(0o600)).unwrap();
    command
        .arg("--api-key-file")
        .arg(&key_file)
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .args(["--store", "memory://", "--database", &database])
        .args(["--after-update", "release", "--log", "warn"])
        // No request exceeds these because the machine is slow.
        .args(["--update-lease", "60s", "--update-wait", "30s"])
        .args(["--database-timeout", "20s"])
        .stdout(Stdio::null());
    let server = Process::spawn(command).unwrap();
    let deadline = Instant::now() + START_TIMEOUT;
    while get(port, "/readyz").is_none_or(|response| !response.starts_with("HTTP/1.1 200")) {
        assert!(server.exited().is_none(), "the server exited");
        assert!(Instant::now() < deadline, "the server is not ready");
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}

/// Reserves one of a product and returns the id of the reservation.
fn reserve(port: u16, product: u32) -> String {
    let path = format!("/api/products/{product}/reservations/");
    let response = send(port, "POST", &path, "quantity=1").unwrap();
    let (_, location) = response
        .split_once(&path)
        .unwrap_or_else(|| panic!("{response}"));
    location.split('/').next().unwrap_or_default().to_owned()
}

fn get(port: u16, path: &str) -> Option<String> {
    send(port, "GET", path, "")
}

/// Sends a request and returns the whole response, or `None` if the connection fails.
fn send(port: u16, method: &str, path: &str, form: &str) -> Option<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let length = form.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\
         Authorization: Bearer {SECRET}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{form}"
    );
    connection.write_all(request.as_bytes()).ok()?;
    let mut response = String::new();
    connection.read_to_string(&mut response).ok()?;
    Some(response)
}
