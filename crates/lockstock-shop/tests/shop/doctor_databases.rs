//! `lockstock doctor` against databases and machines that are wrong in each way.

use std::process::Command;

use lockstock_testkit::{Postgres, free_port};

use crate::doctor::{Diagnosis, doctor};
use crate::harness::{Server, binary, new_database, psql, sqlite};
use crate::pgbouncer::{listens, pgbouncer};
use crate::readiness::{Disk, Immutable};

/// Examines a database beside locks in memory, which is a finding of its own with Postgres.
fn examine(database: &str) -> Diagnosis {
    Diagnosis::of(doctor("memory://", database))
}

#[test]
fn a_commit_that_a_crash_can_lose_is_an_error() {
    let database = new_database();
    let (_, name) = database.rsplit_once('/').unwrap();
    psql(
        &database,
        &format!("ALTER DATABASE {name} SET synchronous_commit = off"),
    );
    let lossy = examine(&database);
    lossy.expect(
        "database.commits",
        "error",
        &["synchronous_commit = off", "sold twice"],
    );
    assert_eq!(lossy.code, 2);
    psql(
        &database,
        &format!("ALTER DATABASE {name} SET synchronous_commit = on"),
    );
    examine(&database).expect("database.commits", "ok", &["synchronous_commit = on"]);

    let unsafe_disk = Postgres::start_with(&["-c", "fsync=off"]);
    let lossy = examine(&unsafe_disk.create_database("shop"));
    lossy.expect(
        "database.commits",
        "error",
        &["fsync = off", "ALTER SYSTEM SET fsync = on"],
    );
}

#[test]
fn a_postgres_that_rejects_writes_is_an_error() {
    let nowhere = format!("postgres://shop:open-sesame@127.0.0.1:{}/shop", free_port());
    let down = examine(&nowhere);
    down.expect("database.connection", "error", &["no Postgres listens on"]);
    assert!(!format!("{down:?}").contains("sesame"));

    let primary = Postgres::start();
    let url = primary.create_database("shop");
    let standby = primary.start_standby();
    let of_standby = url.replace(
        &primary.address().to_string(),
        &standby.address().to_string(),
    );
    examine(&of_standby).expect("database.writable", "error", &["a standby"]);
    primary.psql(
        "shop",
        "ALTER DATABASE shop SET default_transaction_read_only = on",
    );
    examine(&url).expect(
        "database.writable",
        "error",
        &["default_transaction_read_only = off"],
    );
}

#[tokio::test]
async fn a_role_without_rights_is_an_error() {
    let postgres = Postgres::start();
    let url = postgres.create_database("shop");
    postgres.psql("postgres", "CREATE ROLE clerk LOGIN");
    let of_clerk = format!("postgres://clerk@{}/shop", postgres.address());
    examine(&of_clerk).expect(
        "database.permissions",
        "error",
        &["clerk may not create any", "OWNER TO"],
    );
    let server = Server::on("memory://", &url).start();
    server.create(1).await;
    examine(&of_clerk).expect(
        "database.permissions",
        "error",
        &["permission denied for table products", "GRANT ALL"],
    );
    let stock = postgres.psql("shop", "SELECT stock, version FROM products");
    postgres.psql("shop", "GRANT ALL ON ALL TABLES IN SCHEMA public TO clerk");
    examine(&of_clerk).expect("database.permissions", "ok", &["clerk may write"]);
    assert_eq!(
        postgres.psql("shop", "SELECT stock, version FROM products"),
        stock
    );
    assert_eq!(
        postgres.psql("shop", "SELECT count(*) FROM idempotency"),
        "0"
    );
}

#[tokio::test]
async fn a_pooler_in_front_and_too_few_connections_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start();
    let url = postgres.create_database("shop");
    let mut command = doctor("memory://", &url);
    command.args(["--database-connections", "1000"]);
    Diagnosis::of(command).expect(
        "database.connections",
        "warning",
        &["up to 1001", "--database-connections"],
    );
    let Some((_pooler, port)) = pgbouncer(&postgres, folder.path(), "transaction") else {
        return;
    };
    listens(port).await;
    let pooled = examine(&format!("postgres://postgres@127.0.0.1:{port}/shop"));
    pooled.expect("database.pooler", "error", &["pool_mode = session"]);
}

#[test]
fn a_file_that_a_server_cannot_use_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let new = examine(&sqlite(&path("new.sqlite3")));
    new.expect("database.file", "ok", &["the server creates it"]);
    assert!(!path("new.sqlite3").exists());
    let nowhere = examine("sqlite:///nowhere/at/all.sqlite3");
    nowhere.expect("database.file", "error", &["/nowhere/at", "No such file"]);
    assert_eq!(nowhere.code, 2);
    std::fs::write(path("one.sqlite3"), "").unwrap();
    std::fs::hard_link(path("one.sqlite3"), path("other.sqlite3")).unwrap();
    let linked = examine(&sqlite(&path("one.sqlite3")));
    linked.expect("database.file", "error", &["hard link"]);
    examine("sqlite://").expect("database.file", "error", &["names no file"]);
}

#[test]
fn a_file_that_is_read_only_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.sqlite3");
    std::fs::write(&file, "").unwrap();
    examine(&sqlite(&file)).expect("database.file", "ok", &["can be written"]);
    let Some(_immutable) = Immutable::make(&file) else {
        return;
    };
    let fixed = examine(&sqlite(&file));
    fixed.expect("database.file", "error", &["cannot write", "shop.sqlite3"]);
}

#[test]
fn a_full_disk_and_one_in_memory_are_found() {
    let Some(disk) = Disk::mount() else {
        return;
    };
    let url = sqlite(&disk.0.join("shop.sqlite3"));
    let small = examine(&url);
    small.expect("database.disk", "warning", &["MB are free"]);
    small.expect("database.file_system", "warning", &["tmpfs"]);
    disk.fill(&disk.0.join("junk"));
    examine(&url).expect("database.disk", "error", &["0 MB are free", "full disk"]);
}

#[test]
fn a_low_limit_on_open_files_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite(&folder.path().join("shop.sqlite3"));
    let limited = |files: &str| {
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -n \"$FILES\"; exec \"$0\" \"$@\""])
            .arg(binary().get_program())
            .args(["doctor", "--database", &url])
            .env("FILES", files);
        Diagnosis::of(command)
    };
    let wanted = "LimitNOFILE=10088";
    let few = limited("128");
    few.expect(
        "machine.open_files",
        "warning",
        &["only 40 connections", wanted],
    );
    assert_eq!(few.code, 1);
    limited("80").expect("machine.open_files", "error", &["does not start", wanted]);
}
