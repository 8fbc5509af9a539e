//! The update lock of a product: one update at a time, and the rejection of the others. `race` has
//! the five-PATCH race. The other guarantees (no lost update, no oversold stock) do not depend on
//! the lock: `./dev test` repeats their tests with a store that grants every lock.

use futures_util::future::join_all;
use lockstock_testkit::{Postgres, Redis};
use reqwest::Method;
use serde_json::json;

use crate::commit_faults::confirm_no_commit;
use crate::harness::{Server, eventually, new_database, product, sqlite};
use crate::idempotency::keyed;

#[tokio::test]
async fn an_update_of_a_kept_product_is_rejected_before_its_wait_ends() {
    let server = Server::embedded()
        .args(&["--update-lease", "1h", "--update-wait", "30m"])
        .args(&["--request-timeout", "30m"])
        .start();
    let id = server.create(10).await;
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
    // The client does not wait as long as the server would.
    let rejected = server.patch(id, json!({ "stock": 9 })).await;
    assert_eq!(rejected.status, 429);
    assert!(rejected.retry_after() > 1800);
}

#[tokio::test]
async fn the_cool_down_ends_with_the_lease() {
    let redis = Redis::start();
    let database = new_database();
    let server = Server::on(&redis.url(), &database).start();
    let id = server.create(10).await;
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
    let key = format!("product-update-lock-{id}");
    let holder = redis.command(&["GET", &key]).unwrap();
    assert!(holder.starts_with("lockstock:kept:"), "{holder}");
    let remaining_ms = redis.command(&["PTTL", &key]).unwrap();
    assert!((1..=60_000).contains(&remaining_ms.parse().unwrap()));

    // With a wait that is longer than the lease, each update gets the lock.
    let server = Server::on(&redis.url(), &database)
        .args(&["--update-lease", "1s"])
        .start();
    let id = server.create(10).await;
    for stock in [9, 8] {
        eventually("the update is written", async || {
            let response = server.patch(id, json!({ "stock": stock })).await;
            match response.status.as_u16() {
                200 => Some(()),
                // On a slow machine the lease may end before the commit.
                409 => None,
                _ => panic!("{response:?}"),
            }
        })
        .await;
        assert_eq!(server.stock(id).await, stock);
    }
}

#[tokio::test]
async fn an_update_that_changes_nothing_has_no_cool_down() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    // A misspelt field, and JSON sent as a form.
    let misspelt = server.patch(id, json!({ "sotck": 3 })).await;
    assert_eq!(
        (misspelt.status.as_u16(), &misspelt.body["version"]),
        (200, &json!(1))
    );
    let as_form = || {
        keyed(&server, Method::PATCH, &product(id), "k")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(r#"{"stock": 3}"#)
    };
    let first = server.send(as_form()).await;
    assert_eq!(
        (first.status.as_u16(), &first.body["stock"]),
        (200, &json!(10))
    );
    assert_eq!(
        server.send(as_form()).await.header("idempotent-replayed"),
        "true"
    );
    // Equal values are written: the version counts writes.
    let equal = server.patch(id, json!({ "stock": 10 })).await;
    assert_eq!(
        (equal.status.as_u16(), &equal.body["version"]),
        (200, &json!(2))
    );
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 429);
}

#[tokio::test]
async fn retry_after_of_a_held_lock_is_not_its_lease() {
    let redis = Redis::start();
    let server = Server::on(&redis.url(), &new_database())
        .args(&["--update-wait", "100ms"])
        .start();
    let id = server.create(10).await;
    let key = format!("product-update-lock-{id}");
    for expiry in [&["PX", "50000"][..], &[]] {
        let set = [&["SET", &key, "another-client"], expiry].concat();
        redis.command(&set).unwrap();
        let rejected = server.patch(id, json!({ "stock": 9 })).await;
        assert_eq!((rejected.status.as_u16(), rejected.retry_after()), (429, 1));
        let detail = rejected.body["error"].as_str().unwrap();
        assert_eq!(detail, "Another request is updating this product.");
    }
}

#[tokio::test]
async fn a_busy_rejection_honors_language_and_media_type() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);

    let english = server.patch(id, json!({ "stock": 8 })).await;
    assert_eq!(
        english.body["error"],
        "Only one update every 60 seconds is allowed."
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
    assert_eq!(korean.body["error"], "60초에 한 번만 수정할 수 있습니다.");

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
async fn put_and_delete_take_the_lock_and_a_delete_releases_it() {
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
    assert_eq!(again.status, 404, "not found, not busy");
    assert_eq!(again.body["detail"], "No Product matches the given query.");
}

#[tokio::test]
async fn a_waiting_update_holds_no_database_connection() {
    let redis = Redis::start();
    let server = Server::on(&redis.url(), &new_database())
        .args(&["--database-connections", "2", "--update-wait", "60s"])
        .args(&["--after-update", "release"])
        .start();
    let id = server.create(10).await;
    let key = format!("product-update-lock-{id}");
    // Another client holds the lock.
    redis.command(&["SET", &key, "another-client"]).unwrap();
    let waiting = join_all((0..20).map(|_| server.patch(id, json!({ "stock": 9 }))));
    let beside = async {
        server.in_flight(20).await;
        for _ in 0..20 {
            assert_eq!(server.get(&product(id)).await.status, 200);
        }
        redis.command(&["DEL", &key]).unwrap();
    };
    let (waiting, ()) = tokio::join!(waiting, beside);
    assert!(
        waiting.iter().all(|response| response.status == 200),
        "{waiting:?}"
    );
}

#[tokio::test]
async fn an_unconfirmed_commit_keeps_the_lock() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--database-timeout", "2s"])
        .start();
    let updated = server.create(10).await;
    let deleted = server.create(10).await;
    confirm_no_commit(&postgres);
    let unknown = server.patch(updated, json!({ "stock": 9 })).await;
    assert_eq!(unknown.status, 503);
    assert_eq!(unknown.body["code"], "database_unavailable");
    // Of two identical requests the second must not succeed as well.
    assert_eq!(
        server.patch(updated, json!({ "stock": 9 })).await.status,
        429
    );
    let delete = server.request(Method::DELETE, &product(deleted));
    let unknown = server.send(delete).await;
    assert_eq!(unknown.status, 503, "{unknown:?}");
}

#[tokio::test]
async fn a_busy_rejection_is_not_recorded() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let database = sqlite(&folder.path().join("shop.sqlite3"));
    let server = Server::on(&redis.url(), &database).start();
    let id = server.create(1).await;
    let patch = |key: &'static str, stock: i64| {
        let request = keyed(&server, Method::PATCH, &product(id), key);
        server.send(request.json(&json!({ "stock": stock })))
    };
    assert_eq!(patch("a", 5).await.status, 200);
    // The lock stays taken, but the same request gets its recorded response.
    assert_eq!(patch("b", 6).await.status, 429);
    assert_eq!(patch("a", 5).await.header("idempotent-replayed"), "true");
    let key = format!("product-update-lock-{id}");
    redis.command(&["DEL", &key]).unwrap();
    assert_eq!(patch("b", 6).await.status, 200);
}

#[tokio::test]
async fn a_lock_key_of_another_type_is_unavailable() {
    let redis = Redis::start();
    let server = Server::on(&redis.url(), &new_database()).start();
    let id = server.create(10).await;
    let key = format!("product-update-lock-{id}");
    redis.command(&["LPUSH", &key, "x"]).unwrap();
    let rejected = server.patch(id, json!({ "stock": 9 })).await;
    assert_eq!(rejected.status, 503, "WRONGTYPE");
    redis.command(&["DEL", &key]).unwrap();
    assert_eq!(server.stock(id).await, 10);
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 200);
}

#[tokio::test]
async fn an_update_keeps_its_lock_after_its_client_disconnects() {
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
    // Waits for the lock that the first update still holds.
    assert_eq!(server.patch(id, json!({ "price": 5 })).await.status, 200);
    assert_eq!(server.stock(id).await, 9);
}
