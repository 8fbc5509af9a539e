//! Purchases, reservations and the ledger over HTTP.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use lockstock_testkit::{Postgres, Redis};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Response, Server, eventually, new_database, product};

impl Server {
    /// Sends a POST of JSON to a path below a product.
    pub(crate) async fn post(&self, id: i64, subpath: &str, body: Value) -> Response {
        let path = format!("{}{subpath}", product(id));
        self.send(self.request(Method::POST, &path).json(&body))
            .await
    }

    pub(crate) async fn buy(&self, id: i64, quantity: i64) -> Response {
        self.post(id, "purchases/", json!({ "quantity": quantity }))
            .await
    }

    /// Returns the whole ledger. Asserts that it has no gaps, is never negative and ends with the
    /// stock.
    pub(crate) async fn ledger(&self, id: i64) -> Vec<Value> {
        let mut entries = Vec::new();
        let mut next = Some(format!("{}ledger/?page_size=100", product(id)));
        while let Some(path) = next {
            let page = self.get(&path).await;
            assert_eq!(page.status, 200, "{:?}", page.body);
            entries.extend(page.body["results"].as_array().unwrap().clone());
            let link = page.body["next"].as_str();
            next = link.map(|link| link.split_once("/api/").unwrap().1.to_owned());
            next = next.map(|path| format!("/api/{path}"));
        }
        let mut stock = 0;
        for (entry, version) in entries.iter().zip(1..) {
            stock += entry["delta"].as_i64().unwrap();
            assert_eq!(entry["version"], version, "{entry}");
            assert_eq!(entry["stock_after"], stock, "{entry}");
            assert!(stock >= 0);
        }
        let now = self.get(&product(id)).await;
        assert_eq!(now.body["stock"], stock);
        assert_eq!(now.body["version"], entries.len());
        entries
    }
}

/// Sends `buyers` purchases of a product with a stock of 100. The responses agree with the ledger.
async fn sold_out(servers: &[Server], buyers: usize) {
    let servers = servers.iter().collect::<Vec<_>>();
    let id = servers[0].create(100).await;
    let responses = join_all((0..buyers).map(|n| servers[n % servers.len()].buy(id, 1))).await;
    let (mut sold, mut rejected) = (HashSet::new(), 0);
    for response in responses {
        match response.status.as_u16() {
            201 => {
                assert_eq!(response.body["total"], 49_900);
                assert!(sold.insert(response.body["id"].as_str().unwrap().to_owned()));
            }
            409 => {
                assert_eq!(response.body["code"], "insufficient_stock");
                assert_eq!(response.body["available"], 0);
                rejected += 1;
            }
            other => panic!("{other} {:?}", response.body),
        }
    }
    assert_eq!((sold.len(), rejected), (100, buyers - 100));
    let ledger = servers[0].ledger(id).await;
    let purchases = ledger[1..]
        .iter()
        .map(|entry| entry["id"].as_str().unwrap().to_owned());
    assert_eq!(purchases.collect::<HashSet<_>>(), sold);
    assert_eq!(servers[0].stock(id).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_on_postgres_sell_100_items_to_2000_buyers() {
    let redis = Redis::start();
    let database = new_database();
    let servers = [(); 2].map(|()| {
        let server = Server::on(&redis.url(), &database);
        server.args(&["--max-requests", "2000"]).start()
    });
    sold_out(&servers, 2000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_on_sqlite_sells_100_items_to_2000_buyers() {
    let server = Server::embedded().args(&["--max-requests", "2000"]).start();
    sold_out(&[server], 2000).await;
}

#[tokio::test]
async fn a_product_with_reservations_is_not_deleted() {
    let server = Server::embedded()
        .args(&["--after-update", "release"])
        .start();
    let id = server.create(5).await;
    let reserved = server
        .post(id, "reservations/", json!({ "quantity": 2 }))
        .await;
    let delete = || server.send(server.request(Method::DELETE, &product(id)));
    let rejected = delete().await;
    assert_eq!(
        (
            rejected.status.as_u16(),
            &rejected.body["code"],
            &rejected.body["held"]
        ),
        (409, &json!("product_held"), &json!(2))
    );
    let reservation = reserved.header("location");
    assert_eq!(server.get(reservation).await.body["state"], "held");
    let cancel = server.request(Method::DELETE, reservation);
    assert_eq!(server.send(cancel).await.status, 204);
    assert_eq!(delete().await.status, 204);
    assert_eq!(server.get(reservation).await.body["state"], "cancelled");
}

#[tokio::test]
async fn a_purchase_returns_its_details_and_location() {
    let server = Server::embedded().start();
    let id = server.create(5).await;
    let bought = server.buy(id, 2).await;
    assert_eq!(bought.status, 201);
    let path = bought.header("location");
    assert_eq!(
        path,
        format!("/api/purchases/{}/", bought.body["id"].as_str().unwrap())
    );
    assert_eq!(bought.body["product"], id);
    assert_eq!(
        (&bought.body["quantity"], &bought.body["total"]),
        (&json!(2), &json!(99_800))
    );
    assert_eq!(
        (&bought.body["stock_after"], &bought.body["version"]),
        (&json!(3), &json!(2))
    );
    assert_eq!(server.get(path).await.body, bought.body);
    let list = server.get(&format!("{}purchases/", product(id))).await;
    assert_eq!(list.body["results"], json!([bought.body]));
    let ledger = server.ledger(id).await;
    assert_eq!(ledger[1]["request"], bought.header("x-request-id"));
    assert_eq!(server.get("/api/purchases/1/").await.status, 404);
}

#[tokio::test]
async fn an_invalid_purchase_lists_errors_by_field() {
    let server = Server::embedded().args(&["--max-quantity", "7"]).start();
    let id = server.create(5).await;
    for (body, message) in [
        (json!({}), "This field is required."),
        (
            json!({ "quantity": 0 }),
            "Ensure this value is greater than or equal to 1.",
        ),
        (
            json!({ "quantity": 8 }),
            "Ensure this value is less than or equal to 7.",
        ),
        (json!({ "quantity": "x" }), "A valid integer is required."),
    ] {
        let rejected = server.post(id, "purchases/", body).await;
        assert_eq!(rejected.status, 400);
        assert_eq!(rejected.body, json!({ "quantity": [message] }));
    }
    let missing = server.buy(99, 0).await;
    assert_eq!(missing.status, 404);
    assert_eq!(
        missing.body["detail"],
        "No Product matches the given query."
    );
    assert_eq!(server.ledger(id).await.len(), 1);
    let form = server.request(Method::POST, &format!("{}purchases/", product(id)));
    let form = server.send(form.form(&[("quantity", "1")])).await;
    assert_eq!(form.status, 201, "as a form");
}

#[tokio::test]
async fn a_reservation_blocks_other_buyers_and_becomes_a_purchase_once() {
    let server = Server::embedded().start();
    let id = server.create(5).await;
    let reserved = server
        .post(id, "reservations/", json!({ "quantity": 4, "hold": 60 }))
        .await;
    assert_eq!(
        (reserved.status.as_u16(), &reserved.body["state"]),
        (201, &json!("held"))
    );
    let path = reserved.header("location").to_owned();
    assert_eq!(server.get(&path).await.body, reserved.body);
    let after = server.get(&product(id)).await;
    let stock_levels = [
        &after.body["stock"],
        &after.body["held"],
        &after.body["available"],
    ];
    assert_eq!(stock_levels, [5, 4, 1]);
    assert_eq!(after.header("etag"), "\"1.4\"");
    let rejected = server.buy(id, 2).await;
    assert_eq!(rejected.status, 409);
    assert_eq!(
        (&rejected.body["available"], &rejected.body["held"]),
        (&json!(1), &json!(4))
    );

    let post = |action: &str| server.request(Method::POST, &format!("{path}{action}/"));
    let extended = server
        .send(post("extend").json(&json!({ "hold": 3600 })))
        .await;
    assert_eq!(extended.status, 200);
    assert!(extended.body["expires_at"].as_str() > reserved.body["expires_at"].as_str());
    let confirmations = join_all((0..5).map(|_| server.send(post("confirm")))).await;
    let mut statuses = confirmations
        .iter()
        .map(|response| response.status.as_u16())
        .collect::<Vec<_>>();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409]);
    let bought = confirmations
        .iter()
        .find(|response| response.status == 201)
        .unwrap();
    for other in confirmations
        .iter()
        .filter(|response| response.status == 409)
    {
        assert_eq!(other.body["code"], "already_confirmed");
        assert_eq!(other.body["purchase"], bought.body["id"]);
    }
    let cancelled = server.send(server.request(Method::DELETE, &path)).await;
    assert_eq!(
        (cancelled.status.as_u16(), &cancelled.body["code"]),
        (409, &json!("already_confirmed"))
    );
    assert_eq!(server.get(&path).await.body["purchase"], bought.body["id"]);
    let after = server.get(&product(id)).await;
    assert_eq!(
        (&after.body["stock"], &after.body["held"]),
        (&json!(1), &Value::Null)
    );
    assert_eq!(server.ledger(id).await.len(), 2);
}

#[tokio::test]
async fn an_expired_reservation_blocks_no_buyer() {
    let server = Server::embedded().start();
    let reserve = async |id: i64, ttl_secs: i64| {
        let body = json!({ "quantity": 1, "hold": ttl_secs });
        server.post(id, "reservations/", body).await
    };
    let blocked = server.create(1).await;
    assert_eq!(reserve(blocked, 600).await.status, 201);
    assert_eq!(server.buy(blocked, 1).await.status, 409);
    let id = server.create(1).await;
    let path = reserve(id, 1).await.header("location").to_owned();
    eventually("the reservation expires", async || {
        (server.get(&path).await.body["state"] == "expired").then_some(())
    })
    .await;
    for action in ["confirm", "extend"] {
        let post = server.request(Method::POST, &format!("{path}{action}/"));
        let late = server.send(post.json(&json!({ "hold": 60 }))).await;
        assert_eq!(
            (late.status.as_u16(), &late.body["code"]),
            (409, &json!("hold_expired"))
        );
    }
    assert_eq!(server.buy(id, 1).await.status, 201);
}

#[tokio::test]
async fn a_reservation_belongs_to_its_caller_and_does_not_block_it() {
    let server = Server::embedded().start();
    let id = server.create(1).await;
    let as_caller = |request: reqwest::RequestBuilder, caller: &str| {
        request.header("authorization", format!("Bearer {caller}"))
    };
    let path_of = |subpath: &str| format!("{}{subpath}", product(id));
    let reserve = server.request(Method::POST, &path_of("reservations/"));
    let reserve = as_caller(reserve, "ann").json(&json!({ "quantity": 1 }));
    let path = server.send(reserve).await.header("location").to_owned();
    for stranger in [
        server.request(Method::GET, &path),
        as_caller(server.request(Method::GET, &path), "bob"),
    ] {
        assert_eq!(server.send(stranger).await.status, 404);
    }
    let buy = |caller| {
        let request = server.request(Method::POST, &path_of("purchases/"));
        server.send(as_caller(request, caller).json(&json!({ "quantity": 1 })))
    };
    assert_eq!(buy("bob").await.status, 409);
    assert_eq!(buy("ann").await.status, 201);
    let reservation = server
        .send(as_caller(server.request(Method::GET, &path), "ann"))
        .await;
    assert_eq!(reservation.body["state"], "confirmed");
}

#[tokio::test]
async fn purchases_continue_while_redis_is_down() {
    let redis = Redis::start();
    let server = Server::on(&redis.url(), &new_database())
        .args(&["--store-timeout", "1s"])
        .start();
    let id = server.create(2).await;
    redis.kill();
    let buy = server.request(Method::POST, &format!("{}purchases/", product(id)));
    let buy = buy
        .header("idempotency-key", "k")
        .json(&json!({ "quantity": 1 }));
    assert_eq!(server.send(buy).await.status, 201);
    assert_eq!(server.patch(id, json!({ "stock": 9 })).await.status, 503);
    assert_eq!(server.ledger(id).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn purchases_rejected_in_an_outage_are_not_executed_afterwards() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let database = postgres.create_database("shop");
    let server = Server::on(&redis.url(), &database)
        .args(&["--database-timeout", "1s"])
        .start();
    let mut ids = Vec::new();
    for _ in 0..30 {
        ids.push(server.create(5).await);
    }
    // Opens the connections of the pool.
    join_all(ids.iter().map(async |id| server.get(&product(*id)).await)).await;
    postgres.kill();
    let rejected = join_all(ids.iter().map(|id| server.buy(*id, 1))).await;
    for response in rejected {
        assert_eq!(response.status, 503, "{:?}", response.body);
    }
    postgres.restart();
    eventually("the server sells again", async || {
        (server.buy(ids[0], 1).await.status == 201).then_some(())
    })
    .await;
    // The first server replaces its broken connections within its short timeout, which a slow
    // machine may exceed. A server with a generous timeout reads the ledger.
    let reader = Server::on(&redis.url(), &database).start();
    for id in &ids[1..] {
        assert_eq!(reader.ledger(*id).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_server_locks_its_rows_for_a_bounded_time() {
    let redis = Redis::start();
    let database = new_database();
    let paused = Server::on(&redis.url(), &database)
        .args(&["--database-timeout", "2s"])
        .failing("transaction.written=1*off->return(60000)")
        .start();
    let other = Server::on(&redis.url(), &database).start();
    // The fail point skips the first transaction.
    let id = paused.create(5).await;
    let request = paused.request(Method::POST, &format!("{}purchases/", product(id)));
    let request = request.json(&json!({ "quantity": 1 })).send();
    let blocked = tokio::spawn(request);
    paused.paused().await;
    paused.process.pause();
    eventually("the other server sells", async || {
        (other.buy(id, 1).await.status == 201).then_some(())
    })
    .await;
    paused.process.resume();
    paused.process.kill();
    blocked.abort();
    assert_eq!(other.ledger(id).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_and_ledger_are_correct_if_every_lock_is_granted() {
    let redis = Redis::start();
    for database in [new_database(), String::new()] {
        let builder = match database.is_empty() {
            true => Server::embedded(),
            false => Server::on(&redis.url(), &database),
        };
        let server = builder
            .args(&["--after-update", "release"])
            .failing("update.always_granted=return")
            .start();
        let server = Arc::new(server);
        let id = server.create(30).await;
        let updates = (0..40).map(|n| {
            let server = server.clone();
            tokio::spawn(async move { server.patch(id, json!({ "stock": 30 + n })).await })
        });
        let purchases = (0..100).map(|_| {
            let server = server.clone();
            tokio::spawn(async move { server.buy(id, 1).await })
        });
        // One key: at most one of these requests has an effect.
        let keyed = (0..20).map(|_| {
            let server = server.clone();
            tokio::spawn(async move {
                let patch = server.request(Method::PATCH, &product(id));
                let patch = patch
                    .header("idempotency-key", "once")
                    .json(&json!({ "price": 1 }));
                server.send(patch).await
            })
        });
        let (updates, purchases, keyed) = tokio::join!(
            join_all(updates.collect::<Vec<_>>()),
            join_all(purchases.collect::<Vec<_>>()),
            join_all(keyed.collect::<Vec<_>>()),
        );
        let count = |responses: Vec<Result<Response, _>>, status: u16| {
            let responses = responses
                .into_iter()
                .map(Result::<Response, tokio::task::JoinError>::unwrap);
            let matching = responses.filter(|response| {
                assert!(response.status.as_u16() < 500, "{:?}", response.body);
                let replayed = response.header("idempotent-replayed") == "true";
                response.status.as_u16() == status && !replayed
            });
            matching.count()
        };
        let ledger = server.ledger(id).await;
        let entries = |reason: &str| {
            ledger
                .iter()
                .filter(|entry| entry["reason"] == reason)
                .count()
        };
        assert_eq!(count(purchases, 201), entries("purchase"));
        let (updated, updated_by_key) = (count(updates, 200), count(keyed, 200));
        assert!(updated_by_key <= 1, "{updated_by_key}");
        // No update is lost: each acknowledged update has its own version.
        assert_eq!(updated + updated_by_key, entries("changed"));
        assert!(updated >= 1);
        let fences = ledger.iter().filter_map(|entry| entry["fence"].as_i64());
        assert!(fences.is_sorted_by(|a, b| a < b), "fences rise");
    }
}
