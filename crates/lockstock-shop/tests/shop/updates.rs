//! Updates under a lock: a rejection releases it, an update that lost it writes nothing,
//! preconditions are honored.

use futures_util::future::join_all;
use lockstock_testkit::Redis;
use reqwest::Method;
use serde_json::json;

use crate::harness::{
    Response, Server, eventually, every_lock_is_granted, lock_rows, new_database, product,
};

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
    let transaction = lock_rows(&database, &[id]).await;
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

/// Sends a request with a condition and, unless it is a GET, a body that is valid for a product,
/// an order and an extension.
async fn under(
    server: &Server,
    method: &Method,
    path: &str,
    (header, value): (&str, &str),
) -> Response {
    let mut request = server.request(method.clone(), path).header(header, value);
    if *method != Method::GET {
        let any = json!({ "name": "Mug", "price": 1, "stock": 5, "quantity": 1, "hold": 60 });
        request = request.json(&any);
    }
    server.send(request).await
}

const WRITES: [Method; 3] = [Method::PUT, Method::PATCH, Method::DELETE];

#[tokio::test]
async fn a_tag_that_a_proxy_has_weakened_still_identifies_the_version() {
    let server = Server::embedded()
        .args(&["--after-update", "release"])
        .start();
    for method in &WRITES {
        let path = product(server.create(10).await);
        let stale = under(&server, method, &path, ("If-Match", "W/\"7\"")).await;
        assert_eq!(
            (stale.status.as_u16(), &stale.body["version"]),
            (412, &json!(1))
        );
        let current = under(&server, method, &path, ("If-Match", "W/\"1\"")).await;
        assert!(current.status.is_success(), "{method} {current:?}");
    }
}

#[tokio::test]
async fn a_condition_that_can_never_be_met_names_the_reason() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    let purchases = format!("{}purchases/", product(id));
    for header in ["If-Match", "If-None-Match"] {
        for (method, path) in [
            (Method::PUT, product(id)),
            (Method::PATCH, product(id)),
            (Method::DELETE, product(id)),
            (Method::POST, purchases.clone()),
        ] {
            let malformed = under(&server, &method, &path, (header, "2")).await;
            assert_eq!(malformed.status, 400, "{method} {header}");
            assert_eq!(malformed.body["code"], "precondition_malformed");
            let detail = malformed.body["detail"].as_str().unwrap();
            assert!(detail.contains("such as \"2\""), "{detail}");
        }
    }
    let malformed = under(&server, &Method::GET, &product(id), ("If-Match", "2")).await;
    assert_eq!(malformed.status, 400);
    for method in &WRITES {
        // As Apache's mod_deflate writes it.
        let foreign = under(&server, method, &product(id), ("If-Match", "\"1-gzip\"")).await;
        assert_eq!(foreign.status, 412);
        let detail = foreign.body["detail"].as_str().unwrap();
        assert!(
            detail.starts_with("If-Match has no ETag of this API"),
            "{detail}"
        );
        assert_eq!(foreign.header("etag"), "\"1\"");
    }
    assert_eq!(server.get(&product(id)).await.body["version"], 1);
}

#[tokio::test]
async fn if_none_match_excludes_versions_of_a_write() {
    let server = Server::embedded()
        .args(&["--after-update", "release"])
        .start();
    for method in &WRITES {
        let path = product(server.create(10).await);
        for excluded in ["*", "\"1\"", "W/\"1\"", "\"7\", \"1\""] {
            let condition = ("If-None-Match", excluded);
            let rejected = under(&server, method, &path, condition).await;
            assert_eq!(rejected.status, 412, "{method} {excluded}");
            assert_eq!(rejected.body["code"], "precondition_failed");
        }
        let accepted = under(&server, method, &path, ("If-None-Match", "\"7\"")).await;
        assert!(accepted.status.is_success(), "{method} {accepted:?}");
    }
    let missing = under(&server, &Method::PUT, &product(999), ("If-None-Match", "*")).await;
    assert_eq!(missing.status, 404);
}

#[tokio::test]
async fn a_condition_on_a_resource_without_a_tag_is_not_ignored() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    let path = product(id);
    let reservations = format!("{path}reservations/");
    let reserve = under(&server, &Method::POST, &reservations, ("If-Match", "*"));
    let reservation = reserve.await.header("location").to_owned();
    for (method, path) in [
        (Method::POST, "/api/products/".to_owned()),
        (Method::POST, format!("{path}purchases/")),
        (Method::POST, format!("{path}reservations/")),
        (Method::POST, format!("{reservation}extend/")),
        (Method::POST, format!("{reservation}confirm/")),
        (Method::DELETE, reservation.clone()),
        (Method::GET, "/api/products/".to_owned()),
        (Method::GET, format!("{path}purchases/")),
        (Method::GET, format!("{path}ledger/")),
        (Method::GET, reservation.clone()),
    ] {
        let rejected = under(&server, &method, &path, ("If-Match", "\"1\"")).await;
        assert_eq!(rejected.status, 412, "{method} {path}");
        assert_eq!(rejected.body["code"], "precondition_failed");
        let exists = under(&server, &method, &path, ("If-None-Match", "*")).await;
        let status = if method == Method::GET { 304 } else { 412 };
        assert_eq!(exists.status, status, "{method} {path}");
        // No response has a date, so that no date can be compared.
        let other = ("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT");
        if method == Method::GET {
            assert_eq!(under(&server, &method, &path, other).await.status, 200);
        }
    }
    let after = server.get(&path).await;
    assert_eq!(
        (&after.body["stock"], &after.body["held"]),
        (&json!(10), &json!(1))
    );

    let condition = ("If-Match", "\"1\"");
    let missing = format!("{}purchases/", product(999));
    assert_eq!(
        under(&server, &Method::POST, &missing, condition)
            .await
            .status,
        404
    );
    let purchases = format!("{path}purchases/");
    assert_eq!(
        under(&server, &Method::PUT, &purchases, condition)
            .await
            .status,
        405
    );
    assert_eq!(
        under(&server, &Method::OPTIONS, &path, condition)
            .await
            .status,
        200
    );
    let bought = under(
        &server,
        &Method::POST,
        &purchases,
        ("If-None-Match", "\"1\""),
    )
    .await;
    assert_eq!(bought.status, 201);
    let other_version = under(&server, &Method::GET, &path, condition).await;
    assert_eq!(other_version.status, 412, "{other_version:?}");
}

#[tokio::test]
async fn a_purchase_between_comparison_and_write_does_not_fail_a_condition_that_it_meets() {
    let server = Server::embedded()
        .args(&["--after-update", "release"])
        .failing("update.compared=1*return(2000)")
        .start();
    let id = server.create(10).await;
    let path = product(id);
    let update = under(&server, &Method::PATCH, &path, ("If-Match", "\"1\", \"2\""));
    let purchase = async {
        server.paused().await;
        let purchases = format!("{path}purchases/");
        under(&server, &Method::POST, &purchases, ("If-Match", "*")).await
    };
    let (updated, bought) = tokio::join!(update, purchase);
    assert_eq!(updated.status, 200, "{updated:?}");
    assert_eq!(bought.status, 201, "{bought:?}");
    assert_eq!(server.get(&path).await.body["version"], 3);
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
