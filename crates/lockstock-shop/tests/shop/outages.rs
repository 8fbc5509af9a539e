//! Redis or Postgres is down or hangs: requests fail within a bounded time, and the server recovers
//! without a restart.
//!
//! The client bounds the time: it panics if a request takes longer than [`PATIENCE`].
//!
//! [`PATIENCE`]: crate::harness::PATIENCE

use futures_util::future::join_all;
use lockstock_testkit::{Postgres, Proxy, Redis};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Response, Server, eventually, new_database, product};

/// Repeats an update until it succeeds: a slow machine may exceed a short timeout or lease.
async fn update_eventually(server: &Server, id: i64, stock: i64) -> Response {
    eventually("the update succeeds", async || {
        let response = server.patch(id, json!({ "stock": stock })).await;
        (response.status == 200).then_some(response)
    })
    .await
}

/// Waits until a product can be read, and returns its stock.
async fn stock_eventually(server: &Server, id: i64) -> Value {
    eventually("the product can be read", async || {
        let response = server.get(&product(id)).await;
        (response.status == 200).then(|| response.body["stock"].clone())
    })
    .await
}

/// Waits until the readiness is `status`, with these states of the store and the database.
async fn ready_eventually(server: &Server, status: u16, store: &str, database: &str) {
    eventually("the readiness changes", async || {
        let ready = server.get("/readyz").await;
        let is_as_expected = ready.status == status
            && ready.body["store"] == store
            && ready.body["database"] == database;
        is_as_expected.then_some(())
    })
    .await;
}

async fn purchase(server: &Server, id: i64) -> Response {
    let request = server.request(Method::POST, &format!("{}purchases/", product(id)));
    server.send(request.json(&json!({ "quantity": 1 }))).await
}

/// Waits until no client holds the update lock of a product.
async fn released(redis: &Redis, id: i64) {
    let key = format!("product-update-lock-{id}");
    eventually("the lock is released", async || {
        (redis.command(&["EXISTS", &key]).unwrap() == "0").then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_redis_updates_are_rejected_and_reads_continue() {
    let redis = Redis::start();
    let server = Server::on(&redis.url(), &new_database())
        .args(&["--after-update", "release", "--store-timeout", "1s"])
        .start();
    let id = server.create(10).await;
    update_eventually(&server, id, 9).await;

    redis.kill();
    let rejected = server.patch(id, json!({ "stock": 8 })).await;
    assert_eq!(rejected.status, 503);
    assert_eq!(rejected.body["code"], "store_unavailable");
    assert!(rejected.retry_after() >= 1);
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
    ready_eventually(&server, 503, "down", "up").await;
    assert_eq!(server.get("/healthz").await.status, 200);

    redis.restart();
    ready_eventually(&server, 200, "up", "up").await;
    // The store has lost its fences. New ones start at the clock and are higher.
    update_eventually(&server, id, 8).await;
}

#[tokio::test]
async fn a_server_that_starts_while_redis_is_down_serves_reads_and_purchases() {
    let redis = Redis::start();
    redis.kill();
    let server = Server::on(&redis.url(), &new_database())
        .args(&["--after-update", "release", "--store-timeout", "1s"])
        .start();
    ready_eventually(&server, 503, "down", "up").await;
    let id = server.create(10).await;
    assert_eq!(purchase(&server, id).await.status, 201);
    assert_eq!(server.patch(id, json!({ "stock": 5 })).await.status, 503);
    redis.restart();
    ready_eventually(&server, 200, "up", "up").await;
    update_eventually(&server, id, 5).await;
}

#[tokio::test]
async fn a_hanging_redis_delays_an_update_for_a_bounded_time() {
    let redis = Redis::start();
    let server = Server::on(&redis.url(), &new_database())
        .args(&["--after-update", "release", "--store-timeout", "500ms"])
        .args(&["--update-lease", "10m"])
        .start();
    let id = server.create(10).await;
    update_eventually(&server, id, 9).await;
    redis.pause();
    let rejected = server.patch(id, json!({ "stock": 8 })).await;
    assert_eq!(rejected.status, 503);
    redis.resume();
    // Redis executes the request late. The grant has no waiter and is released before its lease
    // ends.
    let updated = update_eventually(&server, id, 8).await;
    assert_eq!(updated.body["stock"], 8);
}

#[tokio::test]
async fn reads_and_purchases_are_answered_while_redis_hangs_and_forty_updates_wait() {
    let redis = Redis::start();
    // The updates wait for longer than the client does.
    let server = Server::on(&redis.url(), &new_database())
        .args(&["--store-timeout", "120s", "--request-timeout", "120s"])
        .start();
    let id = server.create(10).await;
    redis.pause();
    let change = json!({ "stock": 9 });
    let updates = join_all((0..40).map(|_| server.patch(id, change.clone())));
    let others = async {
        server.in_flight(40).await;
        assert_eq!(server.get(&product(id)).await.status, 200);
        assert_eq!(server.get("/api/products/").await.status, 200);
        assert_eq!(purchase(&server, id).await.status, 201);
        let keyed = server
            .request(Method::POST, &format!("{}reservations/", product(id)))
            .header("idempotency-key", "a")
            .json(&json!({ "quantity": 1 }));
        assert_eq!(server.send(keyed).await.status, 201);
        server.create(1).await;
    };
    tokio::select! {
        _ = updates => panic!("an update was answered"),
        () = others => {}
    }
    redis.resume();
}

#[tokio::test]
async fn a_grant_whose_reply_was_lost_is_recovered() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let server = Server::on(&format!("redis://{}/0", proxy.address()), &new_database())
        .args(&["--after-update", "release"])
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
    released(&redis, id).await;
}

#[tokio::test]
async fn scripts_that_were_flushed_are_loaded_again() {
    let redis = Redis::start();
    let server = Server::on(&redis.url(), &new_database()).start();
    for _ in 0..3 {
        let id = server.create(10).await;
        redis.command(&["SCRIPT", "FLUSH"]).unwrap();
        assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
    }
}

#[tokio::test]
async fn a_rejection_by_redis_is_unavailable_not_busy_and_not_granted() {
    let redis = Redis::start();
    let server = Server::on(&redis.url(), &new_database())
        .args(&["--store-timeout", "1s"])
        .start();
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
    update_eventually(&server, id, 9).await;
}

#[tokio::test]
async fn a_killed_database_is_503_until_it_restarts() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    // Longer than the patience of the client: a refused connection fails a request at once.
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--after-update", "release", "--database-timeout", "120s"])
        .start();
    let id = server.create(10).await;
    postgres.kill();
    for (response, detail) in [
        (server.get(&product(id)).await, "Try again."),
        (server.get("/api/products/").await, "Try again."),
        (
            server.patch(id, json!({ "stock": 9 })).await,
            "Nothing was saved.",
        ),
        (purchase(&server, id).await, "Nothing was saved."),
    ] {
        assert_eq!(response.status, 503, "{response:?}");
        assert_eq!(response.body["code"], "database_unavailable");
        let expected = format!("The database is unavailable. {detail}");
        assert_eq!(response.body["detail"], expected);
        assert!(response.retry_after() >= 1);
    }
    ready_eventually(&server, 503, "up", "down").await;
    assert_eq!(server.get("/healthz").await.status, 200);
    released(&redis, id).await;
    let log = eventually("the reason is logged", async || {
        let log = server.log();
        log.contains("Connection refused").then_some(log)
    })
    .await;
    assert!(!log.contains("timed out"), "{log}");

    postgres.restart();
    ready_eventually(&server, 200, "up", "up").await;
    assert_eq!(stock_eventually(&server, id).await, 10);
    update_eventually(&server, id, 9).await;
}

#[tokio::test]
async fn a_request_that_fails_in_an_outage_is_no_warning_of_its_own() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop")).start();
    let id = server.create(10).await;
    let change = |key: Option<&str>| {
        let request = server.request(Method::PATCH, &product(id));
        let request = request.json(&json!({ "stock": 9 }));
        match key {
            Some(key) => request.header("Idempotency-Key", key),
            None => request,
        }
    };
    redis.kill();
    for key in [None, Some("a"), Some("b")] {
        let rejected = server.send(change(key)).await;
        assert_eq!(rejected.body["code"], "store_unavailable");
    }
    postgres.kill();
    // The record of a keyed request is looked up too, and cannot be read.
    for key in [None, Some("c"), Some("d")] {
        let rejected = server.send(change(key)).await;
        assert_eq!(rejected.body["code"], "store_unavailable");
    }
    assert_eq!(server.get("/the-last-line").await.status, 404);
    let log = eventually("everything is logged", async || {
        let log = server.log();
        log.contains("/the-last-line").then_some(log)
    })
    .await;
    let is_change = |line: &str| line.contains("lockstock_shop::health");
    let mut warnings = log
        .lines()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"));
    assert!(warnings.all(is_change), "{log}");
}

#[tokio::test]
async fn a_hanging_database_delays_a_request_for_a_bounded_time() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--after-update", "release", "--database-timeout", "1s"])
        .args(&["--update-lease", "5s"])
        .start();
    let id = server.create(10).await;
    postgres.pause();
    for response in [
        server.get(&product(id)).await,
        server.patch(id, json!({ "stock": 9 })).await,
    ] {
        assert_eq!(response.status, 503, "{response:?}");
    }
    postgres.resume();
    ready_eventually(&server, 200, "up", "up").await;
    let updated = update_eventually(&server, id, 8).await;
    assert_eq!(updated.body["stock"], 8);
}

#[tokio::test]
async fn the_lock_of_a_killed_server_expires_with_the_lease() {
    let redis = Redis::start();
    let database = new_database();
    let killed = Server::on(&redis.url(), &database)
        .args(&["--update-lease", "1s"])
        .failing("update.locked=return(60000)")
        .start();
    let other = Server::on(&redis.url(), &database).start();
    let log = other.log();
    assert!(!log.contains("skipping"), "about existing tables: {log}");
    let id = other.create(10).await;
    let request = killed
        .request(reqwest::Method::PATCH, &product(id))
        .json(&json!({ "stock": 1 }));
    let request = tokio::spawn(request.send());
    killed.paused().await;
    killed.process.kill();
    assert!(request.await.unwrap().is_err());
    assert_eq!(other.patch(id, json!({ "stock": 9 })).await.status, 200);
    assert_eq!(other.stock(id).await, 9);
}

#[tokio::test]
async fn a_server_that_was_frozen_beyond_its_lease_writes_nothing() {
    let redis = Redis::start();
    let database = new_database();
    // The sleep is longer than the lease: the update is late even if the process is frozen late.
    let frozen = Server::on(&redis.url(), &database)
        .args(&["--update-lease", "500ms", "--after-update", "release"])
        .failing("update.locked=1*return(1000)")
        .start();
    let other = Server::on(&redis.url(), &database).start();
    let id = other.create(10).await;
    let late = frozen
        .request(reqwest::Method::PATCH, &product(id))
        .json(&json!({ "stock": 1 }));
    let late = tokio::spawn(late.send());
    frozen.paused().await;
    frozen.process.pause();
    assert_eq!(other.patch(id, json!({ "stock": 9 })).await.status, 200);
    frozen.process.resume();
    assert_eq!(late.await.unwrap().unwrap().status(), 409);
    assert_eq!(other.stock(id).await, 9);
}
