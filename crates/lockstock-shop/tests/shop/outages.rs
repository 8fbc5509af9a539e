//! What happens when Redis or Postgres is not there, and that everything comes back by
//! itself.

use std::time::Duration;

use lockstock_testkit::{Postgres, Proxy, Redis};
use serde_json::json;

use crate::harness::{Server, eventually, held, product};

/// Bounded, with much room for a slow machine: well below what a client would wait.
const BOUND: Duration = Duration::from_secs(10);

#[tokio::test]
async fn redis_down_refuses_writes_reads_go_on_and_it_recovers() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--after-update", "release"])
        .start();
    let id = server.create(10).await;
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);

    redis.kill();
    let refused = server.patch(id, json!({ "stock": 8 })).await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.body["code"], "store_unavailable");
    assert!(refused.retry_after() >= 1);
    assert!(refused.took < BOUND, "{:?}", refused.took);
    assert_eq!(
        server.stock(id).await,
        9,
        "reads go on, nothing was written"
    );
    assert_eq!(server.create(1).await, id + 1, "what needs no lock goes on");
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert_eq!(
        (&ready.body["store"], &ready.body["database"]),
        (&json!("down"), &json!("up"))
    );
    assert_eq!(server.get("/healthz").await.status, 200);

    redis.restart();
    eventually("ready again", async || {
        (server.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    // The store has forgotten its fences; the clock it mints them from has not gone back.
    assert_eq!(server.patch(id, json!({ "stock": 8 })).await.status, 200);
}

#[tokio::test]
async fn a_redis_that_hangs_costs_a_bounded_time_and_it_recovers() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--after-update", "release", "--store-timeout", "200ms"])
        .start();
    let id = server.create(10).await;
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
    redis.pause();
    let refused = server.patch(id, json!({ "stock": 8 })).await;
    assert_eq!(refused.status, 503);
    assert!(refused.took < BOUND, "{:?}", refused.took);
    redis.resume();
    // What Redis carries out late is a grant that nobody waits for: it is given back.
    let freed = eventually("the lock is free again", async || {
        let answer = server.patch(id, json!({ "stock": 8 })).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(freed.body["stock"], 8);
}

#[tokio::test]
async fn a_grant_whose_answer_was_lost_is_found_again() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let proxy = Proxy::start(redis.address());
    let server = Server::on(
        &format!("redis://{}/0", proxy.address()),
        &postgres.create_database("shop"),
    )
    .args(&["--after-update", "release", "--update-lease", "60s"])
    .start();
    let id = server.create(10).await;
    for stock in 0..10 {
        proxy.reset_next_reply();
        // Asked again with the same token, the store says that the lock is ours.
        assert_eq!(
            server.patch(id, json!({ "stock": stock })).await.status,
            200
        );
    }
    let key = format!("product-update-lock-{id}");
    assert_eq!(redis.command(&["EXISTS", &key]), Ok("0".to_owned()));
}

#[tokio::test]
async fn scripts_that_were_flushed_are_loaded_again() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop")).start();
    for _ in 0..3 {
        let id = server.create(10).await;
        redis.command(&["SCRIPT", "FLUSH"]).unwrap();
        assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
    }
}

#[tokio::test]
async fn what_redis_refuses_is_unavailable_never_busy_never_granted() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop")).start();
    let id = server.create(10).await;
    // As after a failover: a replica takes no writes.
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    let refused = server.patch(id, json!({ "stock": 9 })).await;
    assert_eq!(refused.status, 503, "READONLY");
    redis.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let refused = server.patch(id, json!({ "stock": 9 })).await;
    assert_eq!(refused.status, 503, "OOM");
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    assert_eq!(server.stock(id).await, 10);
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
}

#[tokio::test]
async fn a_database_that_dies_is_503_and_it_recovers() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--after-update", "release", "--database-timeout", "1s"])
        .start();
    let id = server.create(10).await;
    postgres.kill();
    for answer in [
        server.get(&product(id)).await,
        server.get("/api/products/").await,
        server.patch(id, json!({ "stock": 9 })).await,
    ] {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(answer.body["code"], "database_unavailable");
        assert!(answer.retry_after() >= 1);
        assert!(answer.took < BOUND, "{:?}", answer.took);
    }
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert_eq!(
        (&ready.body["store"], &ready.body["database"]),
        (&json!("up"), &json!("down"))
    );
    assert_eq!(server.get("/healthz").await.status, 200);
    let key = format!("product-update-lock-{id}");
    assert_eq!(
        redis.command(&["EXISTS", &key]),
        Ok("0".to_owned()),
        "the lock is released"
    );

    postgres.restart();
    eventually("ready again", async || {
        (server.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(server.stock(id).await, 10);
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
}

#[tokio::test]
async fn a_database_that_hangs_costs_a_bounded_time_and_it_recovers() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--after-update", "release", "--database-timeout", "300ms"])
        .start();
    let id = server.create(10).await;
    postgres.pause();
    for answer in [
        server.get(&product(id)).await,
        server.patch(id, json!({ "stock": 9 })).await,
    ] {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.took < BOUND, "{:?}", answer.took);
    }
    postgres.resume();
    eventually("ready again", async || {
        (server.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    let stock = eventually("writes again", async || {
        let answer = server.patch(id, json!({ "stock": 8 })).await;
        (answer.status == 200).then(|| answer.body["stock"].clone())
    })
    .await;
    assert_eq!(stock, 8);
}

#[tokio::test]
async fn a_server_that_is_killed_frees_its_lock_with_the_lease() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let database = postgres.create_database("shop");
    let options = ["--update-lease", "1s", "--update-wait", "20s"];
    let doomed = Server::on(&redis.url(), &database)
        .args(&options)
        .failing("update.locked=return(60000)")
        .start();
    let other = Server::on(&redis.url(), &database).args(&options).start();
    let id = other.create(10).await;
    let request = doomed
        .request(reqwest::Method::PATCH, &product(id))
        .json(&json!({ "stock": 1 }));
    let request = tokio::spawn(request.send());
    held(&redis, id).await;
    doomed.process.kill();
    assert!(request.await.unwrap().is_err());
    assert_eq!(other.patch(id, json!({ "stock": 9 })).await.status, 200);
    assert_eq!(other.stock(id).await, 9);
}

#[tokio::test]
async fn a_server_that_was_frozen_beyond_its_lease_writes_nothing() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let database = postgres.create_database("shop");
    let options = [
        "--update-lease",
        "500ms",
        "--update-wait",
        "20s",
        "--after-update",
        "release",
    ];
    let frozen = Server::on(&redis.url(), &database)
        .args(&options)
        .failing("update.locked=1*return(300)")
        .start();
    let other = Server::on(&redis.url(), &database).args(&options).start();
    let id = other.create(10).await;
    let late = frozen
        .request(reqwest::Method::PATCH, &product(id))
        .json(&json!({ "stock": 1 }));
    let late = tokio::spawn(late.send());
    held(&redis, id).await;
    frozen.process.pause();
    assert_eq!(other.patch(id, json!({ "stock": 9 })).await.status, 200);
    frozen.process.resume();
    assert_eq!(late.await.unwrap().unwrap().status(), 409);
    assert_eq!(other.stock(id).await, 9);
}
