//! Servers that speak TLS, and those with users, asked by `redis-cli`, which
//! Debian builds with it.

use lockstock_testkit::{Authority, Redis};
use std::process::Command;

fn ask(redis: &Redis, authority: &Authority, host: &str) -> Result<String, String> {
    let port = redis.tls_address().port().to_string();
    let output = Command::new("redis-cli")
        .args(["-h", host, "-p", &port, "--tls", "--cacert"])
        .arg(authority.file())
        .arg("PING")
        .output()
        .expect("redis-cli, which comes with redis-server");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() && output.stderr.is_empty() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

#[test]
fn a_tls_server_answers_clients_that_trust_its_authority() {
    let authority = Authority::new();
    let redis = Redis::start_tls(&authority.issue(&["localhost", "127.0.0.1"]));
    let port = redis.tls_address().port();
    assert_eq!(redis.url(), format!("rediss://localhost:{port}/0"));
    assert_eq!(ask(&redis, &authority, "localhost"), Ok("PONG".into()));
    let error = ask(&redis, &Authority::new(), "localhost").unwrap_err();
    assert!(error.contains("certificate verify failed"), "{error}");
    // What the test asks goes another way.
    assert_eq!(redis.command(&["PING"]), Ok("PONG".into()));
    redis.restart();
    assert_eq!(ask(&redis, &authority, "localhost"), Ok("PONG".into()));
}

#[test]
fn an_expired_certificate_is_rejected() {
    let authority = Authority::new();
    let redis = Redis::start_tls(&authority.issue_expired(&["localhost"]));
    let error = ask(&redis, &authority, "localhost").unwrap_err();
    assert!(error.contains("certificate verify failed"), "{error}");
}

#[test]
fn users_come_from_the_command_line() {
    let redis = Redis::start_with(&["--user", "shop", "on", ">pw", "~shop:*", "+get"]);
    let url = redis.url_as("shop", "pw");
    let (_, rest) = url.split_once("://shop:pw@127.0.0.1:").unwrap();
    assert!(rest.ends_with("/0"));
    let users = redis.command(&["ACL", "LIST"]).unwrap();
    assert!(users.contains("user shop on"), "{users}");
}

#[test]
fn valkey_answers_if_it_is_installed() {
    let Some(valkey) = Redis::start_valkey() else {
        return;
    };
    let server = valkey.command(&["INFO", "server"]).unwrap();
    assert!(server.contains("server_name:valkey"), "{server}");
    valkey.restart();
    assert_eq!(valkey.command(&["PING"]), Ok("PONG".into()));
}
