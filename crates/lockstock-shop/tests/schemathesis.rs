//! The OpenAPI document is true: schemathesis makes requests of it, as the document allows them
//! and as it does not, one by one and in chains, and compares the answers with what it says.
//!
//! All its checks are on, in all its phases. What it has to be told beyond the document:
//!
//! - that a valid request may be answered 412 or 422, for what there is does not fit it (an
//!   `If-Match`, an `Idempotency-Key`), as it may be answered 404 or 409 anyway;
//! - that what was cancelled or sold, and the ledger of a deleted product, is still shown: the
//!   check `use_after_free` is off for the four operations that look at those, and for no other;
//! - to send no `Idempotency-Key` in chains: what is answered again for one may be of a product
//!   that the chain has deleted since, which `ensure_resource_availability` takes for lost;
//! - which reservations there are to look at, to extend, to confirm and to cancel;
//! - that `"9"` is no mistake for 9, nor 9 for `"9"`: the server reads both as Django REST
//!   framework does. The document says so in words, and has one type for each field, so that
//!   clients made of it have one too;
//! - to leave out multipart bodies with control characters in the names of their parts, which
//!   it does not encode.
//!
//! The first two are in `schemathesis/schemathesis.toml`, the others in `schemathesis/hooks.py`.
//! The server runs with `--after-update release`: with a cool-down of seconds after each update
//! nearly all of them would be answered 429, and nothing else would be seen.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lockstock_testkit::{Process, free_port, python};

/// How long the server may take to answer its first request.
const START: Duration = Duration::from_secs(30);

/// So many requests per operation and chain; a seed, so that a failure can be had again.
const EXAMPLES: &str = "40";
const SEED: &str = "1";

/// What has to have succeeded, or nothing was tried: `method`, `route`, `status`.
const REACHED: &[(&str, &str, u16)] = &[
    ("POST", "/api/products/", 201),
    ("PUT", "/api/products/{id}/", 200),
    ("PATCH", "/api/products/{id}/", 200),
    ("DELETE", "/api/products/{id}/", 204),
    ("POST", "/api/products/{id}/purchases/", 201),
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
fn the_document_says_what_the_server_does() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let _server = serve(port, folder.path());
    // Of one of the samples.
    let product = 2;
    let reservation = || reserve(port, product);

    let python = python();
    let told = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis");
    let output = Command::new(python.with_file_name("schemathesis"))
        .arg("--config-file")
        .arg(told.join("schemathesis.toml"))
        .args(["run", "--no-color", "--continue-on-failure"])
        .args(["--max-examples", EXAMPLES, "--seed", SEED])
        // What an earlier run has found would change what this one tries.
        .args(["--generation-database", "none"])
        // So that each request in the report can be sent again as it is.
        .args(["--output-sanitize", "false"])
        .arg(format!("http://127.0.0.1:{port}/openapi.json"))
        .env("SCHEMATHESIS_HOOKS", told.join("hooks.py"))
        .env("PRODUCT", product.to_string())
        .envs(["HELD", "BOUGHT", "GIVEN_BACK"].map(|which| (which, reservation())))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // It writes notes of its own into the folder it is run in.
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("schemathesis beside {}: {error}", python.display()));
    let report = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}{errors}");

    let metrics = get(port, "/metrics").unwrap();
    for (method, route, status) in REACHED {
        let labels = format!("{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}");
        let counted = format!("lockstock_http_requests_total{labels}");
        assert!(
            metrics.contains(&counted),
            "no {method} {route} was answered {status}: raise EXAMPLES or change SEED\n{report}"
        );
    }
}

/// The shop with its samples, on SQLite and with its locks in memory.
fn serve(port: u16, folder: &Path) -> Process {
    let database = format!("sqlite://{}", folder.join("shop.sqlite3").display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstock"));
    for (name, _) in std::env::vars() {
        if name.starts_with("LOCKSTOCK_") {
            command.env_remove(name);
        }
    }
    command
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .args(["--store", "memory://", "--database", &database])
        .args(["--after-update", "release", "--log", "warn"])
        .stdout(Stdio::null());
    let server = Process::spawn(command).unwrap();
    let deadline = Instant::now() + START;
    while get(port, "/readyz").is_none_or(|answer| !answer.starts_with("HTTP/1.1 200")) {
        assert!(server.exited().is_none(), "the server ended at once");
        assert!(Instant::now() < deadline, "the server does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}

/// Reserves one of a product, and answers the reservation's id.
fn reserve(port: u16, product: u32) -> String {
    let path = format!("/api/products/{product}/reservations/");
    let answer = ask(port, "POST", &path, "quantity=1").unwrap();
    let (_, place) = answer
        .split_once(&path)
        .unwrap_or_else(|| panic!("{answer}"));
    place.split('/').next().unwrap_or_default().to_owned()
}

fn get(port: u16, path: &str) -> Option<String> {
    ask(port, "GET", path, "")
}

/// The whole answer, if there is one.
fn ask(port: u16, method: &str, path: &str, form: &str) -> Option<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let length = form.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{form}"
    );
    connection.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    Some(answer)
}
