//! Updates under a lock: a rejection releases it, an update that lost it writes nothing,
//! preconditions are honored.

use futures_util::future::join_all;
use lockstock_testkit::Redis;
use reqwest::Method;
use serde_json::json;

use crate::harness::{Server, eventually, every_lock_is_granted, new_database, product};

#[tokio::test]
async fn a_rejected_update_releases_the_lock() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    let rejected = server.patch(id, json!({ "stock": -1 })).await;
    assert_eq!(rejected.status, 400);
    let stale = server
        .request(Method::PATCH, &product(id))
        .header("If-Match", "\"7\"")
        .json(&json!({ "stock": 9 }));
    assert_eq!(server.send(stale).await.status, 412);
    assert_eq!(server.patch(999, json!({ "stock": 9 })).await.status, 404);
    assert_eq!(server.patch(999, json!({ "stock": 9 })).await.status, 404);
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
}

#[tokio::test]
async fn a_lock_lost_while_the_handler_sleeps_writes_nothing() {
    let redis = Redis::start();
    let database = new_database();
    let release = ["--after-update", "release"];
    let sleeper = Server::on(&redis.url(), &database)
        .args(&release)
        .args(&["--update-lease", "300ms"])
        .failing("update.locked=1*return(1500)")
        .start();
    let other = Server::on(&redis.url(), &database).args(&release).start();
    let id = sleeper.create(10).await;

    let (late, in_time) = tokio::join!(sleeper.patch(id, json!({ "stock": 1 })), async {
        sleeper.paused().await;
        other.patch(id, json!({ "stock": 7 })).await
    });
    assert_eq!(in_time.status, 200);
    assert_eq!(late.status, 409);
    assert_eq!(late.body["code"], "lock_lost");
    assert_eq!(other.stock(id).await, 7);
    assert_eq!(in_time.body["version"], 2);
    assert_eq!(other.get(&product(id)).await.body["version"], 2);
    let metrics = sleeper.get("/metrics").await.body;
    let metrics = metrics.as_str().unwrap();
    assert!(
        metrics.contains("lockstock_fenced_writes_total 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn an_expired_lock_writes_nothing_without_a_later_holder() {
    for server in [
        Server::embedded(),
        Server::embedded().args(&["--after-update", "release"]),
    ] {
        let server = server
            .args(&["--update-lease", "100ms"])
            .failing("update.locked=1*return(400)")
            .start();
        let id = server.create(10).await;
        let late = server.patch(id, json!({ "stock": 1 })).await;
        assert_eq!(late.status, 409);
        assert_eq!(server.stock(id).await, 10);
    }
}

#[tokio::test]
async fn a_row_locked_in_the_database_for_longer_than_the_lease_is_not_written() {
    let redis = Redis::start();
    let database = new_database();
    let server = Server::on(&redis.url(), &database)
        .args(&["--update-lease", "300ms", "--after-update", "release"])
        .start();
    let id = server.create(10).await;
    let pool = sqlx::PgPool::connect(&database).await.unwrap();
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("SELECT id FROM products WHERE id = $1 FOR UPDATE")
        .bind(id)
        .execute(&mut *transaction)
        .await
        .unwrap();
    let late = server.patch(id, json!({ "stock": 1 })).await;
    transaction.rollback().await.unwrap();
    assert_eq!(late.status, 409, "{late:?}");
    assert_eq!(server.stock(id).await, 10);
}

#[tokio::test]
async fn an_update_continues_after_its_client_disconnects() {
    let server = Server::embedded()
        .args(&["--after-update", "release"])
        .failing("update.locked=1*return(1000)")
        .start();
    let id = server.create(10).await;
    let disconnected = server
        .request(Method::PATCH, &product(id))
        .json(&json!({ "stock": 9 }));
    let disconnected = tokio::spawn(disconnected.send());
    server.paused().await;
    disconnected.abort();
    eventually("the update is written", async || {
        (server.stock(id).await == 9).then_some(())
    })
    .await;
}

#[tokio::test]
async fn if_match_and_if_none_match_are_honored() {
    let server = Server::embedded()
        .args(&["--after-update", "release", "--require-if-match"])
        .start();
    let id = server.create(10).await;
    let patch = |if_match: Option<&str>, stock: i64| {
        let request = server
            .request(Method::PATCH, &product(id))
            .json(&json!({ "stock": stock }));
        match if_match {
            Some(tag) => request.header("If-Match", tag),
            None => request,
        }
    };
    let without = server.send(patch(None, 9)).await;
    assert_eq!(without.status, 428);
    assert_eq!(without.body["code"], "precondition_required");

    let first = server.send(patch(Some("\"1\""), 9)).await;
    assert_eq!(
        (first.status.as_u16(), first.header("etag")),
        (200, "\"2\"")
    );
    let stale = server.send(patch(Some("\"1\""), 8)).await;
    assert_eq!(stale.status, 412);
    assert_eq!(stale.body["version"], 2);
    assert_eq!(stale.header("etag"), "\"2\"");
    assert_eq!(
        server.send(patch(Some("W/\"2\""), 8)).await.status,
        412,
        "weak"
    );
    assert_eq!(
        server.send(patch(Some("\"1\", \"2\""), 7)).await.status,
        200
    );
    assert_eq!(server.send(patch(Some("*"), 6)).await.status, 200);
    // Validation comes before the precondition.
    assert_eq!(server.send(patch(Some("\"1\""), -1)).await.status, 400);
    assert_eq!(server.stock(id).await, 6);

    let known = server
        .request(Method::GET, &product(id))
        .header("If-None-Match", "\"4\"");
    assert_eq!(server.send(known).await.status, 304);
}

/// Twenty clients read the stock and write it plus one under `If-Match`, again after a 412.
async fn assert_no_update_is_lost(servers: &[&Server]) {
    let id = servers[0].create(0).await;
    let increment = async |n: usize| {
        let server = servers[n % servers.len()];
        loop {
            let current = server.get(&product(id)).await;
            let stock = current.body["stock"].as_i64().unwrap() + 1;
            let request = server
                .request(Method::PATCH, &product(id))
                .header("If-Match", current.header("etag"))
                .json(&json!({ "stock": stock }));
            let response = server.send(request).await;
            match response.status.as_u16() {
                200 => return,
                412 => {}
                // The update waited too long for the others.
                429 => {}
                // A later holder has overtaken it.
                409 if every_lock_is_granted() && response.body["code"] == "lock_lost" => {}
                _ => panic!("{response:?}"),
            }
        }
    };
    join_all((0..20).map(increment)).await;
    let after = servers[0].get(&product(id)).await;
    assert_eq!(after.body["stock"], 20);
    assert_eq!(after.body["version"], 21);
}

#[tokio::test]
async fn no_update_under_if_match_is_lost_on_memory_and_sqlite() {
    let server = Server::embedded()
        .args(&["--after-update", "release"])
        .start();
    assert_no_update_is_lost(&[&server]).await;
}

#[tokio::test]
async fn no_update_under_if_match_is_lost_over_two_servers_on_redis_and_postgres() {
    let redis = Redis::start();
    let database = new_database();
    let release = ["--after-update", "release"];
    let one = Server::on(&redis.url(), &database).args(&release).start();
    let two = Server::on(&redis.url(), &database).args(&release).start();
    assert_no_update_is_lost(&[&one, &two]).await;
}
