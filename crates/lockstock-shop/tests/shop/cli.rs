//! The command line: help, invalid values, the environment, and `lockstock race`.

use std::net::TcpListener;
use std::process::{Output, Stdio};

use lockstock_testkit::{Postgres, Redis, free_port};
use serde_json::{Value, json};

use crate::harness::{Server, binary, new_database, product, sqlite};

fn run(args: &[&str]) -> Output {
    binary().args(args).stdin(Stdio::null()).output().unwrap()
}

/// Asserts that the command fails with `code` and an error that contains `words`. Errors at run
/// time (code 1) are one line.
fn fails(args: &[&str], code: i32, words: &[&str]) {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    for word in words {
        assert!(
            stderr.contains(word),
            "{args:?}: '{word}' is missing in: {stderr}"
        );
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
    if code == 1 {
        let lines = stderr.lines().filter(|line| !line.starts_with('{')).count();
        assert_eq!(lines, 1, "{stderr}");
    }
}

#[test]
fn help_lists_commands_options_and_examples() {
    let help = run(&["--help"]);
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    for word in [
        "race",
        "--listen",
        "--store",
        "--database",
        "--update-lease",
        "--update-wait",
        "--after-update",
        "keep",
        "release",
        "LOCKSTOCK_STORE",
        "Examples:",
    ] {
        assert!(help.contains(word), "{word} is missing in {help}");
    }
    let help = run(&["race", "--help"]);
    assert!(String::from_utf8(help.stdout).unwrap().contains("--rounds"));
    assert!(run(&["--version"]).status.success());
}

#[test]
fn an_invalid_value_is_rejected_with_an_example() {
    // The default port may be in use on this machine.
    let any_port = "127.0.0.1:0";
    fails(
        &["--update-lease", "0s"],
        2,
        &["--update-lease", "1ms to 1d"],
    );
    fails(&["--update-lease", "3"], 2, &["3s"]);
    fails(&["--after-update", "maybe"], 2, &["keep", "release"]);
    fails(
        &["--listen", "8000"],
        2,
        &["--listen", "like 127.0.0.1:8000"],
    );
    fails(&["--body-limit", "0"], 2, &["65536"]);
    fails(
        &["--listen", any_port, "--store", "memcached://x"],
        1,
        &["memory://", "redis://"],
    );
    fails(
        &["--listen", any_port, "--database", "mysql://x"],
        1,
        &["sqlite://", "postgres://"],
    );
    fails(
        &["--listen", any_port, "--database", "sqlite://:memory:"],
        1,
        &["name a file"],
    );
    fails(&["race", "--requests", "1"], 2, &["from 2 to 1000"]);
    fails(&["race", "--requests", "many"], 2, &["from 2 to 1000"]);
    fails(&["race", "--product", "abc"], 2, &["like 1"]);
    fails(&["--database-connections", "x"], 2, &["from 2 to 1000"]);
    fails(
        &["race", "--url", "localhost"],
        1,
        &["http://127.0.0.1:8000"],
    );
    fails(&["--listen", "0.0.0.0:0"], 1, &["--insecure"]);
    fails(
        &["--log", "verbose"],
        1,
        &["'verbose'", "warn,lockstock=debug"],
    );
    fails(&["--update-lock", "product-update-lock"], 2, &["{id}"]);
    fails(&["--update-lock", ":1:product-{pk}"], 2, &["{id}"]);
    fails(&["--public-url", "shop.example"], 2, &["https://"]);
    fails(
        &["--trusted-proxies", "10.0.0.0/8,proxy"],
        2,
        &["10.0.0.0/8"],
    );
    fails(
        &["--replicas", "http://10.0.0.2:8000,10.0.0.3:8000"],
        2,
        &["'10.0.0.3:8000'", "like http://10.0.0.2:8000"],
    );
    fails(&["--replicas", "http://a:b@c"], 2, &["credentials"]);
    fails(
        &["--cors-origins", "https://a/b"],
        2,
        &["https://shop.example.com"],
    );
}

#[test]
fn an_unreachable_dependency_is_reported_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    fails(&["--listen", &address], 1, &[&address, "--listen"]);
    let closed_port = free_port();
    let database = format!("postgres://shop:open-sesame@127.0.0.1:{closed_port}/shop");
    fails(
        &["--listen", "127.0.0.1:0", "--database", &database],
        1,
        &["cannot open the database", "refused"],
    );
    fails(
        &[
            "--listen",
            "127.0.0.1:0",
            "--database",
            "sqlite:///nowhere/at/all.sqlite3",
        ],
        1,
        &["cannot open the database", "No such file or directory"],
    );
    let of_no_file = ["--listen", "127.0.0.1:0", "--database", "sqlite://"];
    fails(&of_no_file, 1, &["names no file"]);
    let url = format!("http://127.0.0.1:{closed_port}");
    fails(&["race", "--url", &url], 1, &["is the server running?"]);
    let output = run(&["--listen", "127.0.0.1:0", "--database", &database]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("open-sesame"));
}

#[test]
fn a_backend_that_rejects_its_url_is_reported_with_the_remedy() {
    let redis = Redis::start_with(&["--requirepass", "open-sesame"]);
    let postgres = Postgres::start();
    postgres.psql("postgres", "CREATE ROLE clerk LOGIN");
    postgres.create_database("shop");
    let (store, database) = (redis.address(), postgres.address());
    for (option, url, words) in [
        (
            "--store",
            format!("redis://{store}"),
            ["NOAUTH", "user:password"],
        ),
        (
            "--store",
            format!("redis://:no@{store}"),
            ["WRONGPASS", "check"],
        ),
        (
            "--store",
            format!("redis://:open-sesame@{store}/99"),
            ["DB index", "0 to 15"],
        ),
        (
            "--store",
            format!("redis://:a#b@{store}"),
            ["invalid", "%23"],
        ),
        ("--store", store.to_string(), ["://", "redis://host"]),
        (
            "--database",
            "shop.sqlite3".to_owned(),
            ["://", "sqlite://"],
        ),
        (
            "--database",
            format!("postgres://clerk:a#b@{database}/shop"),
            ["'#'", "%23"],
        ),
        (
            "--database",
            format!("postgres://nurse@{database}/shop"),
            ["does not exist", "createuser --pwprompt nurse"],
        ),
        (
            "--database",
            format!("postgres://clerk@{database}/store"),
            ["does not exist", "createdb -O clerk store"],
        ),
        (
            "--database",
            format!("postgres://clerk@{database}/shop"),
            ["permission denied for schema public", "createdb -O clerk"],
        ),
    ] {
        let args = ["--listen", "127.0.0.1:0", option, &url];
        fails(&args, 1, &words);
        let stderr = String::from_utf8(run(&args).stderr).unwrap();
        assert!(
            !stderr.contains("open-sesame") && !stderr.contains(" line "),
            "{stderr}"
        );
    }
    let with_tls = format!("rediss://{store}");
    let locks = ["locks", "--store", &with_tls, "--store-timeout", "200ms"];
    fails(&locks, 1, &["does this port speak TLS? redis:// does not"]);
    // Redis waits for more of a request, and replies nothing that Postgres would.
    let crossed = format!("postgres://{store}/shop");
    let server = ["--listen", "127.0.0.1:0", "--database-timeout", "200ms"];
    fails(
        &[&server[..], &["--database", &crossed]].concat(),
        1,
        &["no reply within"],
    );
}

#[tokio::test]
async fn options_can_be_given_in_the_environment() {
    let server = Server::embedded()
        .env("LOCKSTOCK_AFTER_UPDATE", "release")
        .start();
    let id = server.create(10).await;
    for stock in [9, 8] {
        assert_eq!(
            server.patch(id, json!({ "stock": stock })).await.status,
            200
        );
    }
}

#[tokio::test]
async fn an_empty_database_gets_sample_products_once() {
    let folder = tempfile::tempdir().unwrap();
    let database = sqlite(&folder.path().join("shop.sqlite3"));
    for _ in 0..2 {
        // Without --no-samples, which `Server::on` adds.
        let mut command = binary();
        command.args([
            "--listen",
            "127.0.0.1:0",
            "--database",
            &database,
            "--drain-delay",
            "0s",
        ]);
        let server = Server::from(command).start();
        let list = server.get("/api/products/").await.body;
        assert_eq!(list["count"], 5);
        server.process.terminate();
        server.process.wait(crate::harness::PATIENCE).unwrap();
    }
    let server = Server::embedded().start();
    assert_eq!(server.get("/api/products/").await.body["count"], 0);
}

#[tokio::test]
async fn a_second_server_with_locks_in_memory_cannot_open_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let database = sqlite(&folder.path().join("shop.sqlite3"));
    let _server = Server::on("memory://", &database).start();
    fails(
        &["--listen", "127.0.0.1:0", "--database", &database],
        1,
        &["another lockstock"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_race_has_one_winner_and_names_it() {
    let server = Server::embedded()
        .args(&["--update-lease", "2s", "--update-wait", "1s"])
        .start();
    server.create(10).await;
    let race = |args: &[&str]| run(&[&["race", "--url", &server.url], args].concat());
    let output = race(&["--rounds", "2"]);
    let chart = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{chart}");
    assert_eq!(chart.matches("200 OK").count(), 2, "{chart}");
    assert_eq!(chart.matches("429 Too Many Requests").count(), 8, "{chart}");
    assert!(chart.contains(" won; 4 lost"), "{chart}");
    assert!(!chart.contains('\x1b'), "no colours in a pipe: {chart}");

    let id = server.create(10).await;
    let lines = race(&["--json", "--product", &id.to_string(), "--requests", "10"]);
    let line: Value = serde_json::from_slice(&lines.stdout).unwrap();
    assert_eq!(line["winners"], 1);
    assert_eq!(line["requests"].as_array().unwrap().len(), 10);
    assert_eq!(server.stock(id).await, 9);

    fails(
        &["race", "--url", &server.url, "--product", "999"],
        1,
        &["--product"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_race_over_plain_http_needs_no_certificate_authorities() {
    let server = Server::embedded().start();
    server.create(10).await;
    let mut race = binary();
    race.args(["race", "--url", &server.url])
        .env("SSL_CERT_FILE", "/dev/null")
        .env("SSL_CERT_DIR", "/nowhere");
    let output = race.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_race_without_exactly_one_winner_fails() {
    let server = Server::embedded()
        .args(&["--after-update", "release"])
        .start();
    fails(&["race", "--url", &server.url], 1, &["no products"]);
    server.create(10).await;
    fails(
        &["race", "--url", &server.url],
        1,
        &["5 updates succeeded", "--after-update"],
    );
    let strict = Server::embedded().args(&["--require-if-match"]).start();
    strict.create(10).await;
    fails(
        &["race", "--url", &strict.url],
        1,
        &["did not have exactly one winner", "--require-if-match"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_race_during_an_outage_gives_the_reason_of_the_server() {
    let redis = Redis::start();
    let server = Server::on(&redis.url(), &new_database())
        .args(&["--store-timeout", "1s"])
        .start();
    server.create(10).await;
    redis.kill();
    fails(
        &["race", "--url", &server.url],
        1,
        &["no update succeeded: 503 Service Unavailable ("],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_race_waits_for_the_cool_down_of_the_first() {
    let server = Server::embedded()
        .args(&["--update-lease", "4s", "--update-wait", "1s"])
        .start();
    server.create(10).await;
    let race = || run(&["race", "--url", &server.url]);
    assert!(race().status.success());
    let second = race();
    let explained = String::from_utf8(second.stderr).unwrap();
    assert!(second.status.success(), "{explained}");
    // On a slow machine the cool-down may be over before the second race.
    assert!(
        explained.is_empty() || explained.contains("cooling down"),
        "{explained}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_of_a_race_take_turns() {
    let redis = Redis::start();
    let database = new_database();
    let one = Server::on(&redis.url(), &database).start();
    let two = Server::on(&redis.url(), &database).start();
    let id = one.create(10).await;
    let servers = ["race", "--url", &one.url, "--url", &two.url];
    let output = run(&[&servers[..], &["--json"]].concat());
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["winners"], 1, "{line}");
    let requests = line["requests"].as_array().unwrap();
    let servers = requests.iter().map(|it| it["server"].as_str().unwrap());
    let expected = [&one, &two, &one, &two, &one].map(|it| format!("{}{}", it.url, product(id)));
    assert_eq!(servers.collect::<Vec<_>>(), expected);
    assert_eq!(two.stock(id).await, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_a_race_that_share_no_database_are_refused() {
    let (one, two) = (Server::embedded().start(), Server::embedded().start());
    assert_eq!(one.create(10).await, two.create(10).await);
    fails(
        &["race", "--url", &one.url, "--url", &two.url],
        1,
        &["do not share a database"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_race_at_a_wrong_url_names_the_mistake() {
    let server = Server::embedded().start();
    server.create(10).await;
    let authority = server.url.strip_prefix("http://").unwrap();
    for (url, message) in [
        (
            authority.to_owned(),
            format!("'{authority}' is not the URL of a server"),
        ),
        (
            format!("https://{authority}"),
            "does not speak TLS: write http://".to_owned(),
        ),
        (
            format!("{}/elsewhere/", server.url),
            "404 Not Found: is --url the URL of a Lockstock server?".to_owned(),
        ),
    ] {
        fails(&["race", "--url", &url], 1, &[&message]);
    }
    fails(
        &["race", "--url", &server.url, "--product", "999"],
        1,
        &["choose a product with --product"],
    );
}

#[tokio::test]
async fn an_empty_variable_counts_as_unset() {
    let server = Server::embedded()
        .env("LOCKSTOCK_UPDATE_LEASE", "")
        .env("LOCKSTOCK_PUBLIC_URL", "")
        .env("LOCKSTOCK_TRUSTED_PROXIES", "")
        .env("LOCKSTOCK_MAX_REQUESTS", "")
        .start();
    assert_eq!(server.get("/readyz").await.status, 200);
    let mut race = binary();
    race.args(["race"]).env("LOCKSTOCK_URL", "");
    let error = race.output().unwrap().stderr;
    let error = String::from_utf8(error).unwrap();
    assert!(!error.contains("is not the URL"), "{error}");
}
