//! That updates take turns, and what is told to those whose turn it is not. `article` has the
//! test it all began with. What is promised besides (no update lost, nothing sold twice) does
//! not depend on turns: `./dev test` runs the other tests of purchases and updates once more on
//! a store that grants every lock to everybody.

use std::time::Duration;

use futures_util::future::join_all;
use lockstock_testkit::{Postgres, Redis};
use reqwest::Method;
use serde_json::json;

use crate::commit_faults::confirm_no_commit;
use crate::harness::{Server, eventually, product};
use crate::idempotency::keyed;

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
async fn nobody_holds_a_database_connection_while_waiting_for_a_lock() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--database-connections", "2", "--database-timeout", "500ms"])
        .args(&[
            "--update-wait",
            "20s",
            "--update-lease",
            "60s",
            "--after-update",
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
async fn a_commit_that_nobody_confirmed_is_neither_lost_nor_repeated() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--database-timeout", "1s", "--update-lease", "20s"])
        .start();
    let updated = server.create(10).await;
    let deleted = server.create(10).await;
    confirm_no_commit(&postgres);
    let unknown = server.patch(updated, json!({ "stock": 9 })).await;
    assert_eq!(unknown.status, 503);
    assert_eq!(unknown.body["code"], "database_unavailable");
    // The second of identical requests must not be the second to succeed.
    assert_eq!(
        server.patch(updated, json!({ "stock": 9 })).await.status,
        429
    );
    let delete = server.request(Method::DELETE, &product(deleted));
    let unknown = server.send(delete).await;
    assert_eq!(
        unknown.status, 503,
        "not 'nothing was written': {unknown:?}"
    );
}

#[tokio::test]
async fn a_refusal_for_want_of_a_turn_is_not_remembered_by_its_key() {
    let server = Server::embedded().start();
    let id = server.create(1).await;
    let patch = |key: &'static str, stock: i64| {
        let request = keyed(&server, Method::PATCH, &product(id), key);
        server.send(request.json(&json!({ "stock": stock })))
    };
    assert_eq!(patch("a", 5).await.status, 200);
    // The product is kept for 3 s: but not from the same request.
    assert_eq!(patch("b", 6).await.status, 429);
    assert_eq!(patch("a", 5).await.header("idempotent-replayed"), "true");
    let answer = eventually("a turn", async || {
        let answer = patch("b", 6).await;
        (answer.status != 429).then_some(answer)
    });
    assert_eq!(answer.await.status, 200);
}

#[tokio::test]
async fn a_lock_whose_key_holds_something_else_is_unavailable() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop")).start();
    let id = server.create(10).await;
    let key = format!("product-update-lock-{id}");
    redis.command(&["LPUSH", &key, "x"]).unwrap();
    let refused = server.patch(id, json!({ "stock": 9 })).await;
    assert_eq!(refused.status, 503, "WRONGTYPE");
    redis.command(&["DEL", &key]).unwrap();
    assert_eq!(server.stock(id).await, 10);
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
}

#[tokio::test]
async fn a_change_whose_client_has_gone_keeps_its_turn_to_the_end() {
    let server = Server::embedded()
        .args(&["--after-update", "release"])
        .failing("update.locked=1*return(500)")
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
