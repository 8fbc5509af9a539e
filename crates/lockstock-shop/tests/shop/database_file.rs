//! The SQLite file: one server per file, whatever paths lead to it.

use std::fs;
use std::path::Path;
use std::process::Command;

use lockstock_testkit::Redis;
use sqlx::{Connection, SqliteConnection};

use crate::harness::{Server, binary, eventually, sqlite};

const IN_USE: &str = "another lockstock is serving it";

/// Starts a server that must refuse the database, and returns its message.
fn refusal(command: &mut Command, store: &str, file: &Path) -> String {
    let output = command
        .args(["--listen", "127.0.0.1:0", "--no-samples"])
        .args(["--store", store, "--database", &sqlite(file)])
        .args(["--database-timeout", "100ms", "--store-timeout", "10s"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    stderr
}

/// Returns a command that runs the server in a mount namespace in which `source` is mounted on
/// `target` too; `None` if this user may not mount.
fn mounted(source: &Path, target: &Path) -> Option<Command> {
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]);
        command.args([source, target]);
        command
    };
    let is_allowed = unshare("mount --bind \"$0\" \"$1\"").output();
    if !is_allowed.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let mut command = unshare("mount --bind \"$0\" \"$1\" && shift && exec \"$@\"");
    command.arg(binary().get_program());
    Some(command)
}

#[tokio::test]
async fn a_file_with_two_hard_links_is_refused_under_both() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("shop"), folder.path().join("link"));
    let alone = Server::on("memory://", &sqlite(&file)).start();
    fs::hard_link(&file, &link).unwrap();
    for store in ["memory://", &redis.url()] {
        for name in [&file, &link] {
            let message = refusal(&mut binary(), store, name);
            assert!(message.contains("hard link"), "{message}");
        }
    }
    // Only the path that the server does not know is left.
    fs::remove_file(&file).unwrap();
    let message = refusal(&mut binary(), "memory://", &link);
    assert!(message.contains(IN_USE), "{message}");
    fs::rename(&link, &file).unwrap();
    assert_eq!(alone.create(1).await, 1);
}

#[tokio::test]
async fn a_file_that_was_renamed_is_not_shared_under_its_new_name() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let (file, renamed) = (folder.path().join("shop"), folder.path().join("renamed"));
    let first = Server::on(&redis.url(), &sqlite(&file)).start();
    let second = Server::on(&redis.url(), &sqlite(&file)).start();
    fs::rename(&file, &renamed).unwrap();
    let message = refusal(&mut binary(), &redis.url(), &renamed);
    assert!(message.contains("under another path"), "{message}");
    fs::rename(&renamed, &file).unwrap();
    let id = first.create(1).await;
    assert_eq!(second.stock(id).await, 1);
}

#[tokio::test]
async fn nothing_is_sold_from_a_file_that_was_moved_away() {
    let folder = tempfile::tempdir().unwrap();
    let (file, moved) = (folder.path().join("shop"), folder.path().join("moved"));
    let server = Server::on("memory://", &sqlite(&file)).start();
    let id = server.create(5).await;
    for replace in [false, true] {
        fs::rename(&file, &moved).unwrap();
        if replace {
            fs::write(&file, "").unwrap();
        }
        let rejected = server.buy(id, 1).await;
        assert_eq!(rejected.status, 503);
        let detail = "The database is unavailable. Nothing was saved.";
        assert_eq!(rejected.body["detail"], detail);
        assert_eq!(server.get("/api/products/").await.status, 503);
        let ready = server.get("/readyz").await;
        assert_eq!(ready.status, 503);
        let reason = ready.body["reasons"]["database"].as_str().unwrap();
        assert!(reason.contains("moved, replaced or deleted"), "{reason}");

        fs::rename(&moved, &file).unwrap();
        eventually("the server is ready again", async || {
            (server.get("/readyz").await.status == 200).then_some(())
        })
        .await;
        assert_eq!(server.buy(id, 1).await.status, 201);
    }
    assert_eq!(server.ledger(id).await.len(), 3);
}

#[tokio::test]
async fn a_backup_that_is_restored_under_a_running_server_is_not_opened() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let (file, copy) = (folder.path().join("shop"), folder.path().join("copy"));
    let server = Server::on(&redis.url(), &sqlite(&file)).start();
    let id = server.create(5).await;
    let mut backup = binary();
    backup
        .arg("backup")
        .arg(&copy)
        .args(["--database", &sqlite(&file)]);
    assert!(backup.status().unwrap().success());
    fs::rename(&copy, &file).unwrap();
    let restored = fs::read(&file).unwrap();
    let message = refusal(&mut binary(), &redis.url(), &file);
    assert!(
        message.contains("the file that was here before"),
        "{message}"
    );
    let message = refusal(&mut binary(), "memory://", &file);
    assert!(message.contains(IN_USE), "{message}");
    assert_eq!(server.buy(id, 1).await.status, 503);
    assert_eq!(fs::read(&file).unwrap(), restored);
}

#[tokio::test]
async fn a_backup_of_a_running_server_is_restored() {
    let folder = tempfile::tempdir().unwrap();
    let (file, copy) = (folder.path().join("shop"), folder.path().join("copy"));
    let server = Server::on("memory://", &sqlite(&file)).start();
    let id = server.create(5).await;
    assert_eq!(server.buy(id, 2).await.status, 201);
    let backup = |database: &str| {
        let mut command = binary();
        command
            .arg("backup")
            .arg(&copy)
            .args(["--database", database]);
        let output = command.output().unwrap();
        let (out, err) = (output.stdout, output.stderr);
        let text = String::from_utf8([out, err].concat()).unwrap();
        (output.status.success(), text)
    };
    let (is_saved, text) = backup(&sqlite(&file));
    assert!(
        is_saved && text.contains("with 1 products and 2 ledger entries"),
        "{text}"
    );
    assert_eq!(server.buy(id, 1).await.status, 201);
    let restored = Server::on("memory://", &sqlite(&copy)).start();
    assert_eq!(restored.ledger(id).await, server.ledger(id).await[..2]);
    for (database, why) in [
        (sqlite(&file), "overwrites no file"),
        (sqlite(&folder.path().join("missing")), "cannot open"),
        ("postgres://shop@127.0.0.1/shop".to_owned(), "pg_dump"),
    ] {
        let (is_saved, text) = backup(&database);
        assert!(!is_saved && text.contains(why), "{text}");
    }
}

#[tokio::test]
async fn a_plain_copy_of_the_file_soon_contains_every_commit() {
    let folder = tempfile::tempdir().unwrap();
    let (file, copy) = (folder.path().join("shop"), folder.path().join("copy"));
    let server = Server::on("memory://", &sqlite(&file)).start();
    let id = server.create(5).await;
    let ledger = server.ledger(id).await;
    let copied = eventually("the commit is in the file", async || {
        fs::copy(&file, &copy).unwrap();
        let url = sqlite(&copy);
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        let count = sqlx::query_scalar("SELECT count(*) FROM ledger");
        // Before the first checkpoint there is no table.
        let count: i64 = count.fetch_one(&mut connection).await.unwrap_or_default();
        (count == 1).then_some(connection)
    });
    copied.await.close().await.unwrap();
    let restored = Server::on("memory://", &sqlite(&copy)).start();
    assert_eq!(restored.ledger(id).await, ledger);
}

#[tokio::test]
async fn a_file_that_is_mounted_elsewhere_is_recognized() {
    let folder = tempfile::tempdir().unwrap();
    let [here, there] = ["here", "there"].map(|name| folder.path().join(name));
    fs::create_dir(&here).unwrap();
    fs::create_dir(&there).unwrap();
    let (file, target) = (here.join("shop"), there.join("shop"));
    let _server = Server::on("memory://", &sqlite(&file)).start();
    let Some(mut by_folder) = mounted(&here, &there) else {
        eprintln!("not run: this user may not mount");
        return;
    };
    let message = refusal(&mut by_folder, "memory://", &target);
    assert!(message.contains(IN_USE), "{message}");
    fs::write(&target, "").unwrap();
    let mut by_file = mounted(&file, &target).unwrap();
    let message = refusal(&mut by_file, "memory://", &target);
    assert!(message.contains("mounted on its own"), "{message}");
}
