//! Ready means that a write would succeed now: a backend that replies may be read-only or full.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use lockstock_testkit::{Postgres, Proxy, Redis};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Response, Server, binary, eventually, new_database, product, sqlite};

const NOTHING_SAVED: &str = "The database is unavailable. Nothing was saved.";

/// Waits until a backend is in this condition, and returns the reason of `/readyz`.
async fn readiness(server: &Server, backend: &str, condition: &str) -> String {
    eventually("the readiness changes", async || {
        let ready = server.get("/readyz").await;
        let is_up = condition == "up";
        (ready.body[backend] == condition && (ready.status == 200) == is_up)
            .then(|| text(&ready.body["reasons"][backend]))
    })
    .await
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

async fn up_gauge(server: &Server, backend: &str) -> String {
    let metrics = text(&server.get("/metrics").await.body);
    let name = format!("lockstock_backend_up{{backend=\"{backend}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_default().to_owned()
}

async fn purchase(server: &Server, id: i64) -> Response {
    let path = format!("{}purchases/", product(id));
    let request = server.request(Method::POST, &path);
    server.send(request.json(&json!({ "quantity": 1 }))).await
}

fn releasing(store: &str, database: &str) -> Server {
    Server::on(store, database)
        .args(&["--after-update", "release"])
        .start()
}

async fn updated_eventually(server: &Server, id: i64) {
    eventually("the update succeeds", async || {
        (server.patch(id, json!({ "stock": 5 })).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_standby_serves_reads_and_is_not_ready_until_it_is_promoted() {
    let (redis, primary) = (Redis::start(), Postgres::start());
    let database = primary.create_database("shop");
    let proxy = Proxy::start(primary.address());
    let database = database.replace(&primary.address().to_string(), &proxy.address().to_string());
    let server = releasing(&redis.url(), &database);
    let id = server.create(10).await;
    let standby = primary.start_standby();

    proxy.redirect(standby.address());
    primary.kill();
    let reason = readiness(&server, "database", "read-only").await;
    assert!(reason.contains("25006"), "{reason}");
    assert_eq!(up_gauge(&server, "database").await, "0");
    assert_eq!(server.stock(id).await, 10, "reads continue");
    for rejected in [
        server.patch(id, json!({ "stock": 9 })).await,
        purchase(&server, id).await,
    ] {
        assert_eq!(rejected.status, 503);
        assert_eq!(rejected.body["detail"], NOTHING_SAVED);
    }

    standby.promote();
    readiness(&server, "database", "up").await;
    assert_eq!(up_gauge(&server, "database").await, "1");
    updated_eventually(&server, id).await;
    assert_eq!(purchase(&server, id).await.status, 201);
    let changes = server.log().matches("read-only: writes get 503").count();
    assert_eq!(changes, 1, "a line for the change, none for a request");
}

#[tokio::test]
async fn sessions_that_have_become_read_only_are_replaced() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = releasing(&redis.url(), &postgres.create_database("shop"));
    let id = server.create(10).await;
    // New sessions can write, those of the server cannot.
    for sql in [
        "ALTER DATABASE shop SET default_transaction_read_only = off",
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    ] {
        postgres.psql("postgres", sql);
    }
    eventually("a session is found to be read-only", async || {
        // As many as the connections: an old session may be idle behind a new one.
        let writes = (0..8).map(|_| {
            let request = server.request(Method::POST, "/api/products/");
            server.send(request.json(&json!({ "name": "x", "price": 1, "stock": 1 })))
        });
        futures_util::future::join_all(writes).await;
        server
            .log()
            .contains("read-only: writes get 503")
            .then_some(())
    })
    .await;
    readiness(&server, "database", "up").await;
    updated_eventually(&server, id).await;
}

#[tokio::test]
async fn a_database_that_rejects_sales_is_not_ready() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = releasing(&redis.url(), &postgres.create_database("shop"));
    let id = server.create(10).await;
    readiness(&server, "database", "up").await;
    for (table, elsewhere) in [("ledger", "away"), ("products", "gone")] {
        postgres.psql(
            "shop",
            &format!("ALTER TABLE {table} RENAME TO {elsewhere}"),
        );
        readiness(&server, "database", "read-only").await;
        postgres.psql(
            "shop",
            &format!("ALTER TABLE {elsewhere} RENAME TO {table}"),
        );
        readiness(&server, "database", "up").await;
    }
    updated_eventually(&server, id).await;
}

#[tokio::test]
async fn dead_idle_connections_fail_no_request() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let database = postgres.create_database("shop");
    let proxy = Proxy::start(postgres.address());
    let database = database.replace(
        &postgres.address().to_string(),
        &proxy.address().to_string(),
    );
    let server = releasing(&redis.url(), &database);
    let id = server.create(10).await;
    // While replies are late, as many requests open as many connections.
    proxy.delay(std::time::Duration::from_millis(300));
    let all = (0..8).map(|_| server.get("/api/products/"));
    futures_util::future::join_all(all).await;
    proxy.pass();
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lockstock'";
    assert!(postgres.psql("shop", count).parse::<u32>().unwrap() > 1);

    // Only a connection that was used a moment ago is used again without a check.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    proxy.forget();
    for _ in 0..10 {
        assert_eq!(server.get("/api/products/").await.status, 200);
    }
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
}

#[tokio::test]
async fn a_full_disk_is_not_ready_and_writes_say_that_nothing_was_saved() {
    let Some(disk) = Disk::mount() else { return };
    let server = releasing("memory://", &sqlite(&disk.0.join("shop.sqlite3")));
    let id = server.create(10).await;
    let filler = disk.0.join("filler");
    disk.fill(&filler);
    // A row that needs a new page.
    let long = json!({ "description": "x".repeat(20_000) });
    let rejected = eventually("the disk is full", async || {
        let response = server.patch(id, long.clone()).await;
        (response.status != 200).then_some(response)
    })
    .await;
    assert_eq!(rejected.status, 503);
    assert_eq!(rejected.body["detail"], NOTHING_SAVED);
    let reason = readiness(&server, "database", "read-only").await;
    assert!(reason.contains("full"), "{reason}");
    assert_eq!(server.stock(id).await, 10, "reads continue");

    std::fs::remove_file(filler).unwrap();
    readiness(&server, "database", "up").await;
    updated_eventually(&server, id).await;
}

#[tokio::test]
async fn a_disk_with_space_for_one_page_is_not_ready_while_purchases_fail() {
    let Some(disk) = Disk::mount() else { return };
    let server = releasing("memory://", &sqlite(&disk.0.join("shop.sqlite3")));
    let id = server.create(1000).await;
    let filler = disk.0.join("filler");
    let length = disk.fill(&filler);
    eventually("the disk is full", async || {
        (purchase(&server, id).await.status == 503).then_some(())
    })
    .await;
    let file = std::fs::File::options().write(true).open(&filler).unwrap();
    file.set_len(length - 2 * 4096).unwrap();
    drop(file);
    // Each round has a check of its own: one is valid for 500 ms.
    for _ in 0..3 {
        assert_eq!(server.get("/readyz").await.status, 503);
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    }
    assert_eq!(purchase(&server, id).await.status, 503);

    std::fs::remove_file(filler).unwrap();
    readiness(&server, "database", "up").await;
    assert_eq!(purchase(&server, id).await.status, 201);
}

#[tokio::test]
async fn a_sqlite_file_that_cannot_be_written_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.sqlite3");
    let server = releasing("memory://", &sqlite(&file));
    let id = server.create(10).await;
    let log = file.with_extension("sqlite3-wal");
    // Modes do not stop root.
    let Some(_immutable) = Immutable::make(&log) else {
        return;
    };
    let rejected = server.patch(id, json!({ "stock": 9 })).await;
    assert_eq!(rejected.status, 503);
    readiness(&server, "database", "read-only").await;
    assert_eq!(server.stock(id).await, 10, "reads continue");

    drop(_immutable);
    readiness(&server, "database", "up").await;
    updated_eventually(&server, id).await;
}

#[tokio::test]
async fn a_redis_that_rejects_writes_is_not_ready() {
    let redis = Redis::start_with(&["--dbfilename", "folder.rdb"]);
    let server = releasing(&redis.url(), &new_database());
    let id = server.create(10).await;
    let set = |name: &str, value: &str| {
        redis.command(&["CONFIG", "SET", name, value]).unwrap();
    };
    let faults: [(&str, Step<'_>, Step<'_>); 3] = [
        (
            "READONLY",
            &|| drop(redis.command(&["REPLICAOF", "127.0.0.1", "1"]).unwrap()),
            &|| drop(redis.command(&["REPLICAOF", "NO", "ONE"]).unwrap()),
        ),
        ("OOM", &|| set("maxmemory", "1"), &|| set("maxmemory", "0")),
        ("MISCONF", &|| fail_snapshots(&redis), &|| {
            set("stop-writes-on-bgsave-error", "no")
        }),
    ];
    for (code, break_it, repair) in faults {
        break_it();
        let reason = readiness(&server, "store", "read-only").await;
        assert!(reason.contains(code), "{reason}");
        assert_eq!(up_gauge(&server, "store").await, "0");
        let rejected = server.patch(id, json!({ "stock": 9 })).await;
        assert_eq!(rejected.status, 503, "{code}");
        assert_eq!(rejected.body["code"], "store_unavailable");
        assert_eq!(server.get("/api/products/").await.status, 200);
        assert_eq!(purchase(&server, id).await.status, 201, "{code}");
        repair();
        readiness(&server, "store", "up").await;
        updated_eventually(&server, id).await;
    }
}

/// Breaks a server, or repairs it.
type Step<'a> = &'a dyn Fn();

/// Lets a snapshot fail: a folder is in the place of its file.
pub(crate) fn fail_snapshots(redis: &Redis) {
    let set = |name, value| redis.command(&["CONFIG", "SET", name, value]).unwrap();
    set("save", "3600 1");
    let reply = redis.command(&["CONFIG", "GET", "dir"]).unwrap();
    let folder = reply.lines().last().unwrap_or_default();
    std::fs::create_dir(Path::new(folder).join("folder.rdb")).unwrap();
    redis.command(&["BGSAVE"]).unwrap();
}

/// A file system of a few megabytes.
pub(crate) struct Disk(pub(crate) PathBuf);

impl Disk {
    /// Returns `None`, and prints why, if this process may not mount it.
    pub(crate) fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap().keep();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(&folder)
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(folder));
        }
        eprintln!("skipped: only root can mount a small disk");
        let _ = std::fs::remove_dir(folder);
        None
    }

    /// Writes a file until the disk is full. Returns its length.
    pub(crate) fn fill(&self, path: &Path) -> u64 {
        let mut file = std::fs::File::create(path).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        file.metadata().unwrap().len()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A file that even root cannot write.
pub(crate) struct Immutable(PathBuf);

impl Immutable {
    /// Returns `None`, and prints why, if the file system or the rights do not allow it.
    pub(crate) fn make(file: &Path) -> Option<Self> {
        let made = Command::new("chattr").arg("+i").arg(file).status();
        if made.is_ok_and(|status| status.success()) {
            return Some(Self(file.to_owned()));
        }
        eprintln!("skipped: no `chattr +i` here");
        None
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.0).status();
    }
}

/// Runs `lockstock ready`, and returns its exit code and what it printed.
fn ready(url: &str, args: &[&str]) -> (Option<i32>, String) {
    let mut command = binary();
    command.args(["ready", "--url", url]).args(args);
    // A proxy of the environment is not for the machine itself, and a small image has no
    // certificate authorities.
    let output = command
        .env("http_proxy", "http://127.0.0.1:9")
        .env("SSL_CERT_FILE", "/dev/null")
        .env("SSL_CERT_DIR", "/nowhere")
        .output()
        .unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(printed).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_ready_succeeds_only_while_the_server_is_ready() {
    let redis = Redis::start();
    let server = Server::on(&redis.url(), &new_database()).start();
    assert_eq!(ready(&server.url, &[]), (Some(0), "ready\n".to_owned()));
    redis.kill();
    readiness(&server, "store", "down").await;
    let (code, error) = ready(&server.url, &[]);
    assert_eq!(code, Some(1), "{error}");
    assert!(
        error.contains(r#"is not ready: {"status":"not ready""#),
        "{error}"
    );
    assert!(error.contains(r#""store":"down""#), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn the_command_ready_names_what_did_not_respond() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let (code, error) = ready(&url, &["--timeout", "100ms"]);
    let expected = format!("lockstock: no response from {url}/readyz within 100ms\n");
    assert_eq!((code, error), (Some(1), expected));
    let (code, error) = ready("http://127.0.0.1:1", &[]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("no response") && error.contains("refused"),
        "{error}"
    );
    let (code, error) = ready("localhost", &[]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("expected one like http://127.0.0.1:8000"),
        "{error}"
    );
}
