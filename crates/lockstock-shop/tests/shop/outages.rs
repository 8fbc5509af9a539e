//! Redis or Postgres is down or hangs: requests fail within a bounded time, and the server recovers
//! without a restart.

use std::time::Duration;

use lockstock_testkit::{Postgres, Proxy, Redis};
use serde_json::json;

use crate::harness::{Server, eventually, locked, product};

/// Upper bound of a request during an outage, generous for a slow machine.
const BOUND: Duration = Duration::from_secs(10);

#[tokio::test]
async fn without_redis_updates_are_rejected_and_reads_continue() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--after-update", "release"])
        .start();
    let id = server.create(10).await;
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);

    redis.kill();
    let rejected = server.patch(id, json!({ "stock": 8 })).await;
    assert_eq!(rejected.status, 503);
    assert_eq!(rejected.body["code"], "store_unavailable");
    assert!(rejected.retry_after() >= 1);
    assert!(rejected.took < BOUND, "{:?}", rejected.took);
    assert_eq!(
        server.stock(id).await,
        9,
        "reads continue, nothing was written"
    );
    assert_eq!(
        server.create(1).await,
        id + 1,
        "requests without a lock continue"
    );
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert_eq!(
        (&ready.body["store"], &ready.body["database"]),
        (&json!("down"), &json!("up"))
    );
    assert_eq!(server.get("/healthz").await.status, 200);

    redis.restart();
    eventually("the server is ready", async || {
        (server.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    // The store has lost its fences. New ones start at the clock and are higher.
    assert_eq!(server.patch(id, json!({ "stock": 8 })).await.status, 200);
}

#[tokio::test]
async fn a_hanging_redis_delays_an_update_for_a_bounded_time() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--after-update", "release", "--store-timeout", "200ms"])
        .start();
    let id = server.create(10).await;
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
    redis.pause();
    let rejected = server.patch(id, json!({ "stock": 8 })).await;
    assert_eq!(rejected.status, 503);
    assert!(rejected.took < BOUND, "{:?}", rejected.took);
    redis.resume();
    // Redis executes the request late. The grant has no waiter and is released.
    let updated = eventually("the lock is released", async || {
        let response = server.patch(id, json!({ "stock": 8 })).await;
        (response.status == 200).then_some(response)
    })
    .await;
    assert_eq!(updated.body["stock"], 8);
}

#[tokio::test]
async fn a_grant_whose_reply_was_lost_is_recovered() {
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
        // The request is repeated with the same token and returns the same grant.
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
async fn a_rejection_by_redis_is_unavailable_not_busy_and_not_granted() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop")).start();
    let id = server.create(10).await;
    // As after a failover: a replica rejects writes.
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    let rejected = server.patch(id, json!({ "stock": 9 })).await;
    assert_eq!(rejected.status, 503, "READONLY");
    redis.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let rejected = server.patch(id, json!({ "stock": 9 })).await;
    assert_eq!(rejected.status, 503, "OOM");
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    assert_eq!(server.stock(id).await, 10);
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
}

#[tokio::test]
async fn a_killed_database_is_503_until_it_restarts() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--after-update", "release", "--database-timeout", "1s"])
        .start();
    let id = server.create(10).await;
    postgres.kill();
    for response in [
        server.get(&product(id)).await,
        server.get("/api/products/").await,
        server.patch(id, json!({ "stock": 9 })).await,
    ] {
        assert_eq!(response.status, 503, "{response:?}");
        assert_eq!(response.body["code"], "database_unavailable");
        assert!(response.retry_after() >= 1);
        assert!(response.took < BOUND, "{:?}", response.took);
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
    eventually("the server is ready", async || {
        (server.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(server.stock(id).await, 10);
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
}

#[tokio::test]
async fn a_hanging_database_delays_a_request_for_a_bounded_time() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--after-update", "release", "--database-timeout", "300ms"])
        .start();
    let id = server.create(10).await;
    postgres.pause();
    for response in [
        server.get(&product(id)).await,
        server.patch(id, json!({ "stock": 9 })).await,
    ] {
        assert_eq!(response.status, 503, "{response:?}");
        assert!(response.took < BOUND, "{:?}", response.took);
    }
    postgres.resume();
    eventually("the server is ready", async || {
        (server.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    let stock = eventually("updates succeed", async || {
        let response = server.patch(id, json!({ "stock": 8 })).await;
        (response.status == 200).then(|| response.body["stock"].clone())
    })
    .await;
    assert_eq!(stock, 8);
}

#[tokio::test]
async fn the_lock_of_a_killed_server_expires_with_the_lease() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let database = postgres.create_database("shop");
    let options = ["--update-lease", "1s", "--update-wait", "20s"];
    let killed = Server::on(&redis.url(), &database)
        .args(&options)
        .failing("update.locked=return(60000)")
        .start();
    let other = Server::on(&redis.url(), &database).args(&options).start();
    let id = other.create(10).await;
    let request = killed
        .request(reqwest::Method::PATCH, &product(id))
        .json(&json!({ "stock": 1 }));
    let request = tokio::spawn(request.send());
    locked(&redis, id).await;
    killed.process.kill();
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
    locked(&redis, id).await;
    frozen.process.pause();
    assert_eq!(other.patch(id, json!({ "stock": 9 })).await.status, 200);
    frozen.process.resume();
    assert_eq!(late.await.unwrap().unwrap().status(), 409);
    assert_eq!(other.stock(id).await, 9);
}
