//! HTTPS, with certificates that change.

use std::fs::{self, Permissions};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use lockstock_testkit::{Authority, Certificate};
use reqwest::{Client, ClientBuilder, Method, Version};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{PATIENCE, Server, binary, eventually, install_provider, product, sqlite};

struct Files {
    folder: TempDir,
}

impl Files {
    fn of(certificate: &Certificate) -> Self {
        let files = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        files.write(certificate);
        files
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn write(&self, certificate: &Certificate) {
        fs::copy(certificate.file(), self.path("cert.pem")).unwrap();
        fs::copy(certificate.key_file(), self.path("key.pem")).unwrap();
    }

    fn serve(&self) -> Server {
        let (certificate, key) = (self.path("cert.pem"), self.path("key.pem"));
        let file = self.folder.path().join("shop.sqlite3");
        Server::on("memory://", &sqlite(&file))
            .args(&["--after-update", "release"])
            .args(&["--tls-cert", &certificate, "--tls-key", &key])
            .start()
    }
}

/// Trusts only this authority.
fn trusting(authority: &Authority) -> ClientBuilder {
    install_provider();
    let pem = fs::read(authority.file()).unwrap();
    let authority = reqwest::Certificate::from_pem(&pem).unwrap();
    Client::builder()
        .timeout(PATIENCE)
        .tls_certs_only([authority])
}

#[tokio::test]
async fn https_is_served_over_http_2_and_http_1() {
    let authority = Authority::new();
    let files = Files::of(&authority.issue(&["127.0.0.1"]));
    let server = files.serve();
    assert!(server.url.starts_with("https://"), "{}", server.url);
    let clients = [
        (trusting(&authority), Version::HTTP_2),
        (trusting(&authority).http1_only(), Version::HTTP_11),
    ];
    for (client, version) in clients {
        let client = client.build().unwrap();
        let new = json!({ "name": "Canvas sneakers", "price": 49_900, "stock": 3 });
        let url = format!("{}/api/products/", server.url);
        let created = client.post(&url).json(&new).send().await.unwrap();
        assert_eq!(
            (created.status().as_u16(), created.version()),
            (201, version)
        );
        let created: Value = created.json().await.unwrap();

        let url = format!("{}{}", server.url, product(created["id"].as_i64().unwrap()));
        let key = format!("{version:?}");
        let patch = || {
            let change = json!({ "stock": 2 });
            let request = client.request(Method::PATCH, &url).json(&change);
            request.header("idempotency-key", &key).send()
        };
        let first: Value = patch().await.unwrap().json().await.unwrap();
        let repeated = patch().await.unwrap();
        assert_eq!(repeated.headers()["idempotent-replayed"], "true");
        assert_eq!(repeated.json::<Value>().await.unwrap(), first);

        // The links have the scheme and the authority of the request.
        let index = client.get(format!("{}/", server.url)).send().await;
        let index: Value = index.unwrap().json().await.unwrap();
        assert_eq!(index["docs"], format!("{}/docs/", server.url));
    }
}

#[tokio::test]
async fn a_client_that_distrusts_the_authority_or_has_no_tls_gets_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let files = Files::of(&authority.issue(&["127.0.0.1"]));
    let server = files.serve();
    let client = trusting(&other).build().unwrap();
    let health = format!("{}/healthz", server.url);
    assert!(client.get(&health).send().await.unwrap_err().is_connect());
    let plain = health.replace("https://", "http://");
    assert!(client.get(&plain).send().await.is_err());
    // A client that never begins its handshake does not keep others waiting.
    let address = server.url.strip_prefix("https://").unwrap();
    let mut silent = TcpStream::connect(address).unwrap();
    silent.write_all(b"\x16\x03").unwrap();
    let client = trusting(&authority).build().unwrap();
    assert_eq!(client.get(&health).send().await.unwrap().status(), 200);
}

/// Returns whether a new connection is accepted by a client that trusts only this authority.
async fn is_served(server: &Server, authority: &Authority) -> bool {
    let client = trusting(authority).build().unwrap();
    let health = format!("{}/healthz", server.url);
    client.get(health).send().await.is_ok()
}

#[tokio::test]
async fn a_new_certificate_is_served_without_a_restart_and_a_bad_one_is_not() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = Files::of(&old.issue(&["127.0.0.1"]));
    let server = files.serve();
    assert!(is_served(&server, &old).await);
    let kept = trusting(&old).build().unwrap();
    let health = format!("{}/healthz", server.url);
    kept.get(&health).send().await.unwrap();

    // Its key is another one.
    fs::copy(new.issue(&["127.0.0.1"]).file(), files.path("cert.pem")).unwrap();
    eventually("the certificate is rejected", async || {
        let log = server.log();
        let is_reported = log.contains("does not belong to the certificate");
        (is_reported && log.contains("the old TLS certificate stays in use")).then_some(())
    })
    .await;
    assert!(is_served(&server, &old).await);

    files.write(&new.issue(&["127.0.0.1"]));
    eventually("the new certificate is served", async || {
        is_served(&server, &new).await.then_some(())
    })
    .await;
    assert!(!is_served(&server, &old).await);
    // Open connections go on.
    assert_eq!(kept.get(&health).send().await.unwrap().status(), 200);
}

#[test]
fn a_server_does_not_start_without_a_valid_certificate_and_names_the_file() {
    let authority = Authority::new();
    let (one, other) = (authority.issue(&["one"]), authority.issue(&["other"]));
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    fs::write(&empty, "").unwrap();
    fs::set_permissions(&empty, Permissions::from_mode(0o600)).unwrap();
    let open = folder.path().join("open.pem");
    fs::copy(one.key_file(), &open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o644)).unwrap();
    let missing = folder.path().join("missing.pem");
    let start = |chain: &Path, key: &Path| {
        let mut command = binary();
        command.args(["--listen", "127.0.0.1:0", "--database"]);
        command.arg(sqlite(&folder.path().join("shop.sqlite3")));
        command
            .arg("--tls-cert")
            .arg(chain)
            .arg("--tls-key")
            .arg(key);
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    for (chain, key, error) in [
        (&*missing, one.key_file(), "cannot read"),
        (&empty, one.key_file(), "contains no certificate"),
        (one.file(), &empty, "contains no key"),
        (one.file(), &open, "(mode 0644)"),
        (
            one.file(),
            other.key_file(),
            "does not belong to the certificate",
        ),
    ] {
        let stderr = start(chain, key);
        assert!(
            stderr.contains(error) && stderr.contains(".pem"),
            "{stderr}"
        );
    }
    let mut command = binary();
    let output = command.args(["--tls-cert", "cert.pem"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("--tls-key"), "{stderr}");
}
