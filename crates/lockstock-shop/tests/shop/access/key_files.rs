//! Key files: how they are written, when they are refused, and how they are read again.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use reqwest::Method;

use super::{KeyFile, send};
use crate::harness::{PATIENCE, Server, binary, eventually, sqlite};

const SIGHUP: i32 = 1;

/// Asserts that a server does not start with the file, and why.
fn is_refused(file: &KeyFile, words: &[&str]) {
    let output = binary()
        .args(["--listen", "127.0.0.1:0", "--api-key-file"])
        .arg(file.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    for word in words {
        assert!(error.contains(word), "'{word}' is missing in: {error}");
    }
}

#[test]
fn a_new_key_is_a_line_that_only_its_user_can_read() {
    let file = KeyFile::new();
    let output = file.create("web", "write", &["--expires", "90d"]);
    let shown = String::from_utf8(output.stdout).unwrap();
    let secret = shown.lines().map(str::trim);
    let secret = secret.clone().find(|line| line.starts_with("lockstock_"));
    let secret = secret.unwrap();
    let line = file.text();
    assert!(line.starts_with("web write sha256:"), "{line}");
    assert!(line.contains(" expires:20"), "{line}");
    assert!(!line.contains(secret), "{line}");
    let mode = std::fs::metadata(file.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    for (name, args, words) in [
        ("web", &[][..], "the name is that of line 1"),
        ("two words", &[], "1 to 64 letters"),
        ("later", &["--expires", "2001-01-01"], "has passed"),
        ("later", &["--expires", "soon"], "a time like 90d"),
    ] {
        let output = file.create(name, "read", args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{name}: {error}");
        assert!(error.contains(words), "{name}: {error}");
        assert!(output.stdout.is_empty(), "a key that is not in the file");
    }
    assert_eq!(file.text(), line);

    let mut printed = binary();
    printed.args(["key", "new", "other", "--scope", "read"]);
    let printed = String::from_utf8(printed.output().unwrap().stdout).unwrap();
    assert!(printed.contains("\n  other read sha256:"), "{printed}");
}

#[test]
fn a_file_that_is_not_safe_or_not_valid_is_refused() {
    let file = KeyFile::new();
    is_refused(&file, &["cannot read the API keys", "api-keys"]);
    file.add("web", "write");
    let line = file.text();
    for mode in [0o644, 0o604, 0o660, 0o601] {
        file.set_mode(mode);
        is_refused(&file, &[&format!("mode {mode:04o}"), "chmod g-wx,o="]);
    }
    file.write("# none yet\n");
    is_refused(&file, &["no API key", "lockstock key new"]);
    file.write(&format!("{line}{line}"));
    is_refused(&file, &["api-keys, line 2", "that of line 1"]);
    file.write(&format!("{line}\nreports reader sha256:00\n"));
    is_refused(&file, &["api-keys, line 3", "read, write or admin"]);
    std::fs::remove_file(file.path()).unwrap();
    let made = Command::new("mkfifo").arg(file.path()).status().unwrap();
    assert!(made.success());
    file.set_mode(0o600);
    // A reader of a pipe without a writer would wait for ever.
    let _writer = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(file.path())
        .unwrap();
    is_refused(&file, &["not a regular file"]);
}

#[tokio::test]
async fn an_expired_key_is_rejected_and_named_at_the_start() {
    let file = KeyFile::new();
    let secret = file.add("web", "write");
    let line = file.text();
    file.write(&format!("{} expires:2026-01-01T00:00:00Z\n", line.trim()));
    let server = file.server().start();
    let response = send(&server, Method::GET, "/api/products/", &secret).await;
    assert_eq!(response.status, 401);
    assert_eq!(response.body["code"], "key_expired");
    let log = server.log();
    assert!(
        log.contains("has expired") && log.contains("\"key\":\"web\""),
        "{log}"
    );
}

#[tokio::test]
async fn sighup_reads_the_file_again_and_an_error_changes_nothing() {
    let file = KeyFile::new();
    let old = file.add("web", "write");
    let old_line = file.text();
    let server = file.server().start();
    let status = async |secret: &str| {
        let response = send(&server, Method::GET, "/api/products/", secret).await;
        response.status.as_u16()
    };
    let reload = async |text: &str| {
        file.write(text);
        server.process.signal(SIGHUP);
    };
    assert_eq!(status(&old).await, 200);

    reload(&format!("{old_line}reports read\n")).await;
    eventually("the error is logged", async || {
        server
            .log()
            .contains("line 2: there is no digest")
            .then_some(())
    })
    .await;
    assert_eq!(status(&old).await, 200);
    file.write("");
    server.process.signal(SIGHUP);
    eventually("the error is logged", async || {
        server.log().contains("has no API key").then_some(())
    })
    .await;
    assert_eq!(status(&old).await, 200);

    // The secret is replaced while both are valid.
    let other = KeyFile::new();
    let new = other.add("web", "write");
    let new_line = other.text();
    let digest = new_line.split(' ').nth(2).unwrap().trim();
    reload(&format!("{} {digest}\n", old_line.trim())).await;
    eventually("the new secret is valid", async || {
        (status(&new).await == 200).then_some(())
    })
    .await;
    assert_eq!(status(&old).await, 200);
    reload(&new_line).await;
    eventually("the old secret is not valid", async || {
        (status(&old).await == 401).then_some(())
    })
    .await;
    assert_eq!(status(&new).await, 200);
    let log = server.log();
    assert!(!log.contains("shutting down"), "{log}");
    for secret in [&old, &new] {
        assert!(!log.contains(secret.as_str()), "{log}");
    }
    assert!(!log.contains(digest), "{log}");

    server.process.terminate();
    let status = server.process.wait(PATIENCE).expect("exits");
    assert_eq!(status.code(), Some(0));
}

/// Otherwise a key could not be revoked there.
#[tokio::test]
async fn sighup_reloads_also_under_nohup() {
    let file = KeyFile::new();
    let secret = file.add("web", "write");
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("nohup");
    command
        .arg(binary().get_program())
        .args(["--listen", "127.0.0.1:0", "--api-key-file"])
        .arg(file.path())
        .arg("--database")
        .arg(sqlite(&folder.path().join("shop.sqlite3")));
    let server = Server::from(command).start();
    let other = KeyFile::new();
    other.add("other", "read");
    file.write(&other.text());
    server.process.signal(SIGHUP);
    eventually("the key is revoked", async || {
        let response = send(&server, Method::GET, "/api/products/", &secret).await;
        (response.status == 401).then_some(())
    })
    .await;
    let log = eventually("the reload is logged", async || {
        let log = server.log();
        log.contains("are reloaded").then_some(log)
    })
    .await;
    assert!(log.contains("\"added\":\"other\""), "{log}");
    assert!(log.contains("\"removed\":\"web\""), "{log}");
}
