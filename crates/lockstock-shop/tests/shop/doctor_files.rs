//! `lockstock doctor` with certificates and files of API keys that are wrong in each way.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use lockstock_testkit::{Authority, Certificate};

use crate::access::KeyFile;
use crate::doctor::{Diagnosis, doctor};
use crate::harness::sqlite;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Examines a server with these options beside healthy backends.
fn examine(args: &[&str]) -> Diagnosis {
    let folder = tempfile::tempdir().unwrap();
    let database = sqlite(&folder.path().join("shop.sqlite3"));
    let mut command = doctor("memory://", &database);
    command.args(args);
    Diagnosis::of(command)
}

fn examine_pair(chain: &Path, key: &Path, public_url: &str) -> Diagnosis {
    examine(&[
        "--tls-cert",
        chain.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
        "--public-url",
        public_url,
    ])
}

fn examine_certificate(certificate: &Certificate) -> Diagnosis {
    let (chain, key) = (certificate.file(), certificate.key_file());
    examine_pair(chain, key, "https://shop.example")
}

#[test]
fn a_certificate_is_examined_with_its_key_its_validity_and_its_names() {
    let authority = Authority::new();
    let names = ["shop.example", "192.0.2.7"];
    let good = authority.issue(&names);
    let diagnosis = examine_certificate(&good);
    for check in ["tls.files", "tls.expiry", "tls.names"] {
        diagnosis.expect(check, "ok", &[]);
    }
    let by_address = examine_pair(good.file(), good.key_file(), "https://192.0.2.7:8443");
    by_address.expect("tls.names", "ok", &["shop.example"]);

    let other = authority.issue(&["other.example"]);
    let mixed = examine_pair(good.file(), other.key_file(), "https://shop.example");
    mixed.expect("tls.files", "error", &["does not belong"]);
    let foreign = examine_certificate(&other);
    let words = ["other.example", "not for shop.example"];
    foreign.expect("tls.names", "error", &words);
    let missing = examine_pair(
        Path::new("/nowhere"),
        good.key_file(),
        "https://shop.example",
    );
    missing.expect("tls.files", "error", &["cannot read /nowhere"]);
    let expired = examine_certificate(&authority.issue_expired(&names));
    expired.expect("tls.expiry", "error", &["has expired on 2001-12-3"]);

    let now = SystemTime::now();
    let between = |from, to| examine_certificate(&authority.issue_between(&names, from, to));
    let future = between(now + DAY, now + 90 * DAY);
    future.expect("tls.expiry", "error", &["is not valid before"]);
    let soon = between(now - DAY, now + 13 * DAY);
    soon.expect("tls.expiry", "warning", &["valid until", "renew"]);
    between(now - DAY, now + 15 * DAY).expect("tls.expiry", "ok", &["valid until"]);

    fs::set_permissions(good.key_file(), Permissions::from_mode(0o644)).unwrap();
    let open = examine_certificate(&good);
    open.expect("tls.files", "error", &["(mode 0644)", "chmod g-wx,o="]);
}

#[test]
fn a_file_of_api_keys_is_examined_with_its_expiries_and_scopes() {
    let examine_keys = |file: &KeyFile, args: &[&str]| {
        let path = file.path();
        examine(&[&["--api-key-file", path.to_str().unwrap()], args].concat())
    };
    let file = KeyFile::new();
    let missing = examine_keys(&file, &[]);
    missing.expect("access.keys", "error", &["cannot read"]);

    file.add("web", "write");
    let web = file.text();
    let no_admin = examine_keys(&file, &[]);
    no_admin.expect("access.keys", "ok", &["1 write", "0 admin"]);
    no_admin.expect("access.expiry", "ok", &[]);
    no_admin.expect("access.metrics", "warning", &["--scope admin"]);
    let local = examine_keys(&file, &["--operate-listen", "127.0.0.1:8001"]);
    local.expect("access.metrics", "ok", &["--operate-listen"]);

    file.add("operator", "admin");
    file.create("soon", "read", &["--expires", "13d"]);
    let soon = examine_keys(&file, &[]);
    soon.expect("access.metrics", "ok", &[]);
    soon.expect("access.expiry", "warning", &["soon (", "lockstock key new"]);
    let expiring = |expiry: &str| {
        file.write(&format!("{} expires:{expiry}\n", web.trim()));
        examine_keys(&file, &[])
    };
    let expired = expiring("2026-01-01T00:00:00Z");
    let words = ["all keys have expired", "web (2026-01-01T00:00:00Z)"];
    expired.expect("access.expiry", "error", &words);

    file.write("web write\n");
    let invalid = examine_keys(&file, &[]);
    invalid.expect("access.keys", "error", &["line 1", "no digest"]);
    file.write(&web);
    file.set_mode(0o640);
    examine_keys(&file, &[]).expect("access.keys", "ok", &[]);
    file.set_mode(0o644);
    let open = examine_keys(&file, &[]);
    open.expect("access.keys", "error", &["(mode 0644)", "chmod g-wx,o="]);
}
