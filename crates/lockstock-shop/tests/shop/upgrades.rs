//! Restored databases, and databases that a newer version has migrated.

use lockstock_testkit::{Postgres, Redis};
use reqwest::Method;
use serde_json::json;

use crate::harness::{Server, binary, product};

/// As docs/operations.md describes, and what it promises: fences go on rising, reservations of the
/// backup are held, and records of idempotency keys since then are gone.
#[tokio::test]
async fn a_dump_is_restored_beside_a_living_redis() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("shop.dump");
    let database = postgres.create_database("shop");
    let server = |database: &str| {
        Server::on(&redis.url(), database)
            .args(&["--after-update", "release"])
            .start()
    };
    let old = server(&database);
    let id = old.create(10).await;
    assert_eq!(old.patch(id, json!({ "stock": 9 })).await.status, 200);
    let reserve = format!("{}reservations/", product(id));
    let reserve = old.request(Method::POST, &reserve);
    let reservation = old.send(reserve.json(&json!({ "quantity": 4 }))).await;
    assert_eq!(reservation.status, 201);
    let mut pg_dump = postgres.program("pg_dump");
    pg_dump.arg("--format=custom").arg("--file").arg(&dump);
    assert!(pg_dump.arg(&database).status().unwrap().success());

    assert_eq!(old.patch(id, json!({ "stock": 8 })).await.status, 200);
    let purchases = format!("{}purchases/", product(id));
    let buy = |server: &Server| {
        let buy = server.request(Method::POST, &purchases);
        buy.header("Idempotency-Key", "after-the-backup")
            .json(&json!({ "quantity": 1 }))
    };
    assert_eq!(old.send(buy(&old)).await.status, 201);
    // Of a crash, so that a lock of the old server stays in Redis.
    redis
        .command(&[
            "SET",
            &format!("product-update-lock-{id}"),
            "left",
            "PX",
            "100",
        ])
        .unwrap();
    old.process.kill();

    let empty = postgres.create_database("restored");
    let mut pg_restore = postgres.program("pg_restore");
    pg_restore.arg("--dbname").arg(&empty).arg(&dump);
    assert!(pg_restore.status().unwrap().success());
    let restored = server(&empty);
    let found = restored.get(&product(id)).await.body;
    assert_eq!((&found["stock"], &found["held"]), (&json!(9), &json!(4)));
    let fence = |database| {
        let fence = postgres.psql(database, "SELECT fence FROM products");
        fence.parse::<i64>().unwrap()
    };
    let (of_backup, last) = (fence("restored"), fence("shop"));
    assert!(of_backup < last);
    assert_eq!(restored.patch(id, json!({ "stock": 7 })).await.status, 200);
    assert!(
        fence("restored") > last,
        "fences go on where the lost writes were"
    );
    let repeated = restored.send(buy(&restored)).await;
    assert_eq!(repeated.status, 201);
    assert_eq!(repeated.header("idempotent-replayed"), "");
    let location = reservation.header("location");
    let confirm = restored.request(Method::POST, &format!("{location}confirm/"));
    assert_eq!(restored.send(confirm).await.status, 201);
    assert_eq!(restored.stock(id).await, 2);
}

/// During a rolling upgrade, and after a start of a newer version by mistake.
#[tokio::test]
async fn a_server_that_runs_goes_on_after_a_newer_one_has_migrated() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let database = postgres.create_database("shop");
    let server = Server::on(&redis.url(), &database)
        .args(&["--after-update", "release"])
        .start();
    let id = server.create(10).await;
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
    let migration = "ALTER TABLE products ADD COLUMN colour text;
        ALTER TABLE ledger ADD COLUMN colour text;
        INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (99, 'newer', true, '00', 0)";
    postgres.psql("shop", migration);
    assert_eq!(server.patch(id, json!({ "stock": 8 })).await.status, 200);
    let buy = server.request(Method::POST, &format!("{}purchases/", product(id)));
    let bought = server.send(buy.json(&json!({ "quantity": 3 }))).await;
    assert_eq!(bought.status, 201);
    assert_eq!(server.stock(id).await, 5);
    assert_eq!(server.get("/readyz").await.status, 200);
    let mut older = binary();
    older.args(["--listen", "127.0.0.1:0", "--database", &database]);
    let refused = older.output().unwrap();
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("belongs to a newer Lockstock"), "{error}");
}
