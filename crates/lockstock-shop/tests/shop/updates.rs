//! What else an update under a lock promises: refusals cost nobody anything, losers are told
//! at once and in their language, a lost lock writes nothing, conditions hold.

use std::time::Duration;

use futures_util::future::join_all;
use lockstock_testkit::{Postgres, Redis};
use reqwest::Method;
use serde_json::json;

use crate::server::{Server, eventually, product};

#[tokio::test]
async fn a_refused_update_frees_the_lock_at_once() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    let refused = server.patch(id, json!({ "stock": -1 })).await;
    assert_eq!(refused.status, 400);
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
async fn a_loser_is_told_long_before_its_wait_is_over() {
    let server = Server::embedded()
        .args(&["--update-lease", "60s", "--update-wait", "20s"])
        .start();
    let id = server.create(10).await;
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
    let loser = server.patch(id, json!({ "stock": 9 })).await;
    assert_eq!(loser.status, 429);
    // Not a matter of speed: whoever waits in vain waits 20 s.
    assert!(loser.took < Duration::from_secs(10), "{:?}", loser.took);
    assert!(loser.retry_after() > 40);
}

#[tokio::test]
async fn the_cool_down_ends_with_the_lease() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--update-lease", "500ms", "--update-wait", "10s"])
        .start();
    let id = server.create(10).await;
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
    let key = format!("product-update-lock-{id}");
    let holder = redis.command(&["GET", &key]).unwrap();
    assert!(holder.starts_with("lockstock:kept:"), "{holder}");
    // Can wait longer than the lease lasts, so it gets its turn.
    assert_eq!(server.patch(id, json!({ "stock": 8 })).await.status, 200);
    assert_eq!(server.stock(id).await, 8);
}

#[tokio::test]
async fn a_loser_is_told_in_its_language_and_form() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);

    let english = server.patch(id, json!({ "stock": 8 })).await;
    assert_eq!(
        english.body["error"],
        "Only one update every 3 seconds is allowed."
    );
    assert_eq!(english.body["code"], "busy");
    let detail = english.body["detail"].as_str().unwrap();
    assert!(detail.starts_with("Request was throttled."), "{detail}");
    assert_eq!(english.header("content-type"), "application/json");

    let korean = server
        .request(Method::PATCH, &product(id))
        .header("Accept-Language", "ko-KR,ko;q=0.9,en;q=0.8")
        .json(&json!({ "stock": 8 }));
    let korean = server.send(korean).await;
    assert_eq!(korean.body["error"], "3초에 한 번만 수정할 수 있습니다.");

    let problem = server
        .request(Method::PATCH, &product(id))
        .header("Accept", "application/problem+json")
        .json(&json!({ "stock": 8 }));
    let problem = server.send(problem).await;
    assert_eq!(problem.status, 429);
    assert_eq!(problem.header("content-type"), "application/problem+json");
    assert_eq!(problem.body["status"], 429);
    assert_eq!(problem.body["title"], "Too Many Requests");
    assert_eq!(problem.body["code"], "busy");
}

#[tokio::test]
async fn every_change_takes_the_lock_and_a_delete_gives_it_back() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    let put = server
        .request(Method::PUT, &product(id))
        .json(&json!({ "name": "Mug", "price": 1, "stock": 3 }));
    assert_eq!(server.send(put).await.status, 200);
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 429);
    let delete = server.request(Method::DELETE, &product(id));
    assert_eq!(server.send(delete).await.status, 429);

    let other = server.create(10).await;
    let delete = || server.request(Method::DELETE, &product(other));
    assert_eq!(server.send(delete()).await.status, 204);
    let again = server.send(delete()).await;
    assert_eq!(again.status, 404, "gone, not busy");
    assert_eq!(again.body["detail"], "No Product matches the given query.");
}

#[tokio::test]
async fn a_lock_lost_while_the_handler_sleeps_writes_nothing() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let database = postgres.create_database("shop");
    let options = [
        "--update-lease",
        "300ms",
        "--update-wait",
        "5s",
        "--update-hold",
        "release",
    ];
    let sleeper = Server::on(&redis.url(), &database)
        .args(&options)
        .env("FAILPOINTS", "update.locked=1*return(1500)")
        .start();
    let other = Server::on(&redis.url(), &database).args(&options).start();
    let id = sleeper.create(10).await;

    let (late, in_time) = tokio::join!(sleeper.patch(id, json!({ "stock": 1 })), async {
        // The sleeper holds the lock when its key is there.
        let key = format!("product-update-lock-{id}");
        while redis.command(&["EXISTS", &key]) != Ok("1".to_owned()) {
            tokio::task::yield_now().await;
        }
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
async fn a_lock_lost_to_nobody_writes_nothing_either() {
    for server in [
        Server::embedded(),
        Server::embedded().args(&["--update-hold", "release"]),
    ] {
        let server = server
            .args(&["--update-lease", "100ms"])
            .env("FAILPOINTS", "update.locked=1*return(400)")
            .start();
        let id = server.create(10).await;
        let late = server.patch(id, json!({ "stock": 1 })).await;
        assert_eq!(late.status, 409);
        assert_eq!(server.stock(id).await, 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_locked_in_the_database_for_longer_than_the_lease_is_not_written() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--update-lease", "300ms", "--update-hold", "release"])
        .start();
    let id = server.create(10).await;
    // Somebody else's transaction holds the row; its lock is taken when psql has said so.
    let holding = std::thread::scope(|scope| {
        let held = scope.spawn(|| {
            postgres.psql(
                "shop",
                &format!(
                    "BEGIN; SELECT id FROM products WHERE id = {id} FOR UPDATE; \
                     SELECT pg_advisory_lock(1); SELECT pg_sleep(1.5); COMMIT"
                ),
            )
        });
        while postgres.psql(
            "shop",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        ) != "1"
        {
            std::thread::yield_now();
        }
        let late = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(server.patch(id, json!({ "stock": 1 })))
        });
        held.join().unwrap();
        late
    });
    assert_eq!(holding.status, 409, "{holding:?}");
    assert_eq!(server.stock(id).await, 10);
}

#[tokio::test]
async fn nobody_holds_a_database_connection_while_waiting_for_a_lock() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--database-connections", "2", "--database-timeout", "500ms"])
        .args(&[
            "--update-wait",
            "20s",
            "--update-lease",
            "60s",
            "--update-hold",
            "release",
        ])
        .start();
    let id = server.create(10).await;
    let key = format!("product-update-lock-{id}");
    // Somebody else has the lock for now.
    redis.command(&["SET", &key, "theirs"]).unwrap();
    let waiting = join_all((0..20).map(|_| server.patch(id, json!({ "stock": 9 }))));
    let beside = async {
        eventually("twenty wait", async || {
            let metrics = server.get("/metrics").await.body;
            let text = metrics.as_str().unwrap();
            text.contains("lockstock_http_requests_in_flight 20")
                .then_some(())
        })
        .await;
        for _ in 0..20 {
            assert_eq!(server.get(&product(id)).await.status, 200);
        }
        redis.command(&["DEL", &key]).unwrap();
    };
    let (waiting, ()) = tokio::join!(waiting, beside);
    assert!(
        waiting.iter().all(|answer| answer.status == 200),
        "{waiting:?}"
    );
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_stop_its_update() {
    let server = Server::embedded()
        .args(&["--update-hold", "release"])
        .env("FAILPOINTS", "update.locked=1*return(500)")
        .start();
    let id = server.create(10).await;
    let impatient = server
        .request(Method::PATCH, &product(id))
        .timeout(Duration::from_millis(200))
        .json(&json!({ "stock": 9 }));
    assert!(impatient.send().await.unwrap_err().is_timeout());
    // Waits for the lock that the first one still holds.
    assert_eq!(server.patch(id, json!({ "price": 5 })).await.status, 200);
    assert_eq!(server.stock(id).await, 9);
}

#[tokio::test]
async fn conditions_hold() {
    let server = Server::embedded()
        .args(&["--update-hold", "release", "--require-if-match"])
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
    // What is wrong otherwise is said first.
    assert_eq!(server.send(patch(Some("\"1\""), -1)).await.status, 400);
    assert_eq!(server.stock(id).await, 6);

    let known = server
        .request(Method::GET, &product(id))
        .header("If-None-Match", "\"4\"");
    assert_eq!(server.send(known).await.status, 304);
}
