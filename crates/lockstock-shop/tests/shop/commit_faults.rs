//! Rare faults: commits without a reply, rows that cannot be written or read, servers that start
//! or stop beside others.

use futures_util::future::join_all;
use lockstock_testkit::{Postgres, Redis};
use reqwest::Method;
use serde_json::json;

use crate::harness::{
    PATIENCE, Server, binary, eventually, lock_rows, new_database, product, psql, sqlite,
};

/// Makes every COMMIT wait for a standby that does not exist: it takes effect, without a reply.
pub(crate) fn confirm_no_commit(postgres: &Postgres) {
    postgres.psql(
        "shop",
        "ALTER SYSTEM SET synchronous_standby_names = 'absent'",
    );
    postgres.psql("shop", "SELECT pg_reload_conf()");
    wait_for_standbys(postgres, "absent");
}

/// Confirms commits again, those that wait included.
fn confirm_commits(postgres: &Postgres) {
    postgres.psql("shop", "ALTER SYSTEM RESET synchronous_standby_names");
    postgres.psql("shop", "SELECT pg_reload_conf()");
    wait_for_standbys(postgres, "");
}

/// Waits until the setting is in force for new sessions.
fn wait_for_standbys(postgres: &Postgres, names: &str) {
    while postgres.psql("shop", "SHOW synchronous_standby_names") != names {
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_lost_commit_reply_is_recovered_by_the_idempotency_key() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--database-timeout", "2s", "--after-update", "release"])
        .start();
    let id = server.create(10).await;
    let buy = format!("{}purchases/", product(id));
    let requests = [
        server
            .request(Method::POST, &buy)
            .json(&json!({ "quantity": 1 })),
        server
            .request(Method::PATCH, &product(id))
            .json(&json!({ "stock": 5 })),
    ];
    for (number, request) in requests.into_iter().enumerate() {
        let request = request.header("idempotency-key", format!("key-{number}"));
        let send = || server.send(request.try_clone().unwrap());
        confirm_no_commit(&postgres);
        assert_eq!(send().await.status, 503);
        confirm_commits(&postgres);
        let response = eventually("the recorded response", async || {
            let response = send().await;
            // The commit becomes visible a moment after its confirmation.
            (!matches!(response.status.as_u16(), 409 | 429 | 503)).then_some(response)
        })
        .await;
        assert!(response.status.is_success(), "{response:?}");
        assert_eq!(response.header("idempotent-replayed"), "true");
        assert_eq!(server.ledger(id).await.len(), 2 + number);
    }
}

#[tokio::test]
async fn a_row_that_violates_a_constraint_fails_alone() {
    let redis = Redis::start();
    let database = new_database();
    let server = Server::on(&redis.url(), &database).start();
    let ids = join_all((0..40).map(|_| server.create(10))).await;
    psql(&database, "ALTER TABLE products ADD CHECK (stock <> 13)");
    let updates = ids.iter().enumerate().map(|(n, id)| {
        let stock = if n == 20 { 13 } else { 9 };
        server.patch(*id, json!({ "stock": stock }))
    });
    for (n, response) in join_all(updates).await.into_iter().enumerate() {
        assert_eq!(
            response.status,
            if n == 20 { 503 } else { 200 },
            "{n}: {response:?}"
        );
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_affects_no_other_row() {
    let redis = Redis::start();
    let database = new_database();
    let server = Server::on(&redis.url(), &database).start();
    let (unreadable, other) = (server.create(10).await, server.create(10).await);
    let text = format!("UPDATE products SET updated_at = 'infinity' WHERE id = {unreadable}");
    psql(&database, &text);
    let reads = (0..20).map(|n| {
        let (id, status) = [(unreadable, 503), (other, 200)][n % 2];
        let (server, path) = (&server, product(id));
        async move { (server.get(&path).await.status, status) }
    });
    for (status, expected) in join_all(reads).await {
        assert_eq!(status, expected);
    }
    // An update with a key reads the row too, but writes what it could not read.
    for (id, key) in [(unreadable, "a"), (other, "b")] {
        let request = server.request(Method::PATCH, &product(id));
        let request = request.header("idempotency-key", key);
        let response = server.send(request.json(&json!({ "stock": 9 }))).await;
        assert_eq!(response.status, 200, "{response:?}");
    }
    assert_eq!(server.get(&product(unreadable)).await.status, 200);
}

#[tokio::test]
async fn locked_rows_delay_only_their_own_products() {
    let redis = Redis::start();
    let database = new_database();
    let start = |lease: &str| {
        let server = Server::on(&redis.url(), &database);
        server
            .args(&["--update-lease", lease, "--database-connections", "4"])
            .args(&["--database-timeout", "60s"])
            .start()
    };
    // The updates of the one wait for their rows until their leases end, the updates of the other
    // as long as the rows are locked.
    let (server, bounded) = (start("5m"), start("1s"));
    let other = server.create(10).await;
    let locked = join_all((0..12).map(|_| server.create(10))).await;
    let transaction = lock_rows(&database, &locked).await;
    let update_locked = async |server: &Server| {
        join_all(
            locked
                .iter()
                .map(|id| server.patch(*id, json!({ "stock": 9 }))),
        )
        .await
    };
    for response in update_locked(&bounded).await {
        assert!(
            matches!(response.status.as_u16(), 409 | 503),
            "{response:?}"
        );
    }
    assert_eq!(server.stock(locked[0]).await, 10);
    let beside = async {
        let waiting = "SELECT count(*) > 0 FROM pg_stat_activity \
                       WHERE wait_event_type = 'Lock' AND datname = current_database()";
        eventually("an update waits for its row", async || {
            (psql(&database, waiting) == "t").then_some(())
        })
        .await;
        for _ in 0..20 {
            assert_eq!(server.get(&product(other)).await.status, 200);
        }
        assert_eq!(server.patch(other, json!({ "stock": 9 })).await.status, 200);
        transaction.rollback().await.unwrap();
    };
    let (responses, ()) = tokio::join!(update_locked(&server), beside);
    for response in responses {
        assert_eq!(response.status, 200, "{response:?}");
    }
}

#[tokio::test]
async fn requests_for_missing_products_leave_no_keys_in_redis() {
    let redis = Redis::start();
    let server = Server::on(&redis.url(), &new_database()).start();
    for id in 1000..1050 {
        assert_eq!(server.patch(id, json!({ "stock": 1 })).await.status, 404);
        let delete = server.request(Method::DELETE, &product(id));
        assert_eq!(server.send(delete).await.status, 404);
    }
    let keys = redis.command(&["KEYS", "*fence*"]).unwrap();
    assert_eq!(keys, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_together_create_the_samples_once() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let databases = [new_database(), sqlite(&folder.path().join("shop.sqlite3"))];
    for database in &databases {
        let servers = join_all((0..3).map(|_| {
            let mut command = binary();
            command.args(["--listen", "127.0.0.1:0", "--store", &redis.url()]);
            command.args(["--database", database]);
            command.args(["--store-timeout", "10s", "--database-timeout", "20s"]);
            tokio::task::spawn_blocking(move || Server::from(command).start())
        }));
        for server in servers.await {
            let server = server.unwrap();
            assert_eq!(
                server.get("/api/products/").await.body["count"],
                5,
                "{database}"
            );
        }
    }
}

#[tokio::test]
async fn a_second_sigterm_stops_the_server_at_once() {
    let server = Server::embedded()
        .args(&["--drain-delay", "10m", "--drain-timeout", "10m"])
        .start();
    server.process.terminate();
    eventually("draining", async || {
        (server.get("/readyz").await.status == 503).then_some(())
    })
    .await;
    server.process.terminate();
    let status = server.process.wait(PATIENCE).expect("the server stops");
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn a_database_file_is_recognized_under_another_name() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.sqlite3");
    let link = folder.path().join("link.sqlite3");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let assert_rejected = |store: &str, database: &str| {
        let output = binary()
            .args([
                "--listen",
                "127.0.0.1:0",
                "--store",
                store,
                "--database",
                database,
            ])
            .args(["--database-timeout", "100ms", "--store-timeout", "10s"])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.contains("another lockstock is serving it"),
            "{stderr}"
        );
    };
    let alone = Server::on("memory://", &sqlite(&file)).start();
    assert_rejected("memory://", &sqlite(&link));
    assert_rejected("memory://", &format!("sqlite:{}", file.display()));
    assert_rejected(&redis.url(), &sqlite(&file));
    alone.process.kill();
    let _shared = Server::on(&redis.url(), &sqlite(&file)).start();
    assert_rejected("memory://", &sqlite(&file));
    let second = Server::on(&redis.url(), &sqlite(&link)).start();
    assert_eq!(second.create(1).await, 1);
}

#[tokio::test]
async fn an_unread_log_does_not_block_requests() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = binary();
    let database = sqlite(&folder.path().join("shop.sqlite3"));
    command.args(["--listen", "127.0.0.1:0", "--database", &database]);
    command.args(["--drain-delay", "0s"]);
    let server = Server::from(command).start_unread();
    for _ in 0..1000 {
        assert_eq!(server.get("/api/products/").await.status, 200);
    }
    server.process.terminate();
    assert!(server.process.wait(PATIENCE).is_some());
}
