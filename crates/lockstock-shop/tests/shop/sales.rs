//! Purchases, reservations and the ledger over HTTP.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use lockstock_testkit::{Postgres, Redis};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Server, eventually, product};

impl Server {
    /// POSTs JSON to what is below a product.
    pub(crate) async fn post(&self, id: i64, below: &str, body: Value) -> Answer {
        let path = format!("{}{below}", product(id));
        self.send(self.request(Method::POST, &path).json(&body))
            .await
    }

    pub(crate) async fn buy(&self, id: i64, quantity: i64) -> Answer {
        self.post(id, "purchases/", json!({ "quantity": quantity }))
            .await
    }

    /// The whole ledger, which has no gaps, is never below zero and ends with the stock.
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

/// Everybody wants one of what a hundred can have; the answers agree with the ledger.
async fn sold_out(servers: &[Server], buyers: usize) {
    let servers = servers.iter().collect::<Vec<_>>();
    let id = servers[0].create(100).await;
    let answers = join_all((0..buyers).map(|n| servers[n % servers.len()].buy(id, 1))).await;
    let (mut sold, mut told) = (HashSet::new(), 0);
    for answer in answers {
        match answer.status.as_u16() {
            201 => {
                assert_eq!(answer.body["total"], 49_900);
                assert!(sold.insert(answer.body["id"].as_str().unwrap().to_owned()));
            }
            409 => {
                assert_eq!(answer.body["code"], "insufficient_stock");
                assert_eq!(answer.body["available"], 0);
                told += 1;
            }
            other => panic!("{other} {:?}", answer.body),
        }
    }
    assert_eq!((sold.len(), told), (100, buyers - 100));
    let ledger = servers[0].ledger(id).await;
    let purchases = ledger[1..]
        .iter()
        .map(|entry| entry["id"].as_str().unwrap().to_owned());
    assert_eq!(purchases.collect::<HashSet<_>>(), sold);
    assert_eq!(servers[0].stock(id).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_2000_buyers_at_two_servers_on_postgres_100_get_one_each() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let database = postgres.create_database("shop");
    let servers = [(); 2].map(|()| {
        let server = Server::on(&redis.url(), &database);
        server.args(&["--max-requests", "2000"]).start()
    });
    sold_out(&servers, 2000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_2000_buyers_at_one_server_on_sqlite_100_get_one_each() {
    let server = Server::embedded().args(&["--max-requests", "2000"]).start();
    sold_out(&[server], 2000).await;
}

#[tokio::test]
async fn a_purchase_says_what_was_bought_and_where_to_find_it() {
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
async fn what_cannot_be_bought_is_told_field_by_field() {
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
        let refused = server.post(id, "purchases/", body).await;
        assert_eq!(refused.status, 400);
        assert_eq!(refused.body, json!({ "quantity": [message] }));
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
    assert_eq!(form.status, 201, "as a form too");
}

#[tokio::test]
async fn a_hold_is_kept_from_others_and_becomes_a_purchase_once() {
    let server = Server::embedded().start();
    let id = server.create(5).await;
    let held = server
        .post(id, "reservations/", json!({ "quantity": 4, "hold": 60 }))
        .await;
    assert_eq!(
        (held.status.as_u16(), &held.body["state"]),
        (201, &json!("held"))
    );
    let path = held.header("location").to_owned();
    assert_eq!(server.get(&path).await.body, held.body);
    let shown = server.get(&product(id)).await;
    let figures = [
        &shown.body["stock"],
        &shown.body["held"],
        &shown.body["available"],
    ];
    assert_eq!(figures, [5, 4, 1]);
    assert_eq!(shown.header("etag"), "\"1.4\"");
    let refused = server.buy(id, 2).await;
    assert_eq!(refused.status, 409);
    assert_eq!(
        (&refused.body["available"], &refused.body["held"]),
        (&json!(1), &json!(4))
    );

    let post = |action: &str| server.request(Method::POST, &format!("{path}{action}/"));
    let longer = server
        .send(post("extend").json(&json!({ "hold": 3600 })))
        .await;
    assert_eq!(longer.status, 200);
    assert!(longer.body["expires_at"].as_str() > held.body["expires_at"].as_str());
    let five = join_all((0..5).map(|_| server.send(post("confirm")))).await;
    let mut statuses = five
        .iter()
        .map(|answer| answer.status.as_u16())
        .collect::<Vec<_>>();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409]);
    let bought = five.iter().find(|answer| answer.status == 201).unwrap();
    for other in five.iter().filter(|answer| answer.status == 409) {
        assert_eq!(other.body["code"], "already_confirmed");
        assert_eq!(other.body["purchase"], bought.body["id"]);
    }
    let end = server.send(server.request(Method::DELETE, &path)).await;
    assert_eq!(
        (end.status.as_u16(), &end.body["code"]),
        (409, &json!("already_confirmed"))
    );
    assert_eq!(server.get(&path).await.body["purchase"], bought.body["id"]);
    let shown = server.get(&product(id)).await;
    assert_eq!(
        (&shown.body["stock"], &shown.body["held"]),
        (&json!(1), &Value::Null)
    );
    assert_eq!(server.ledger(id).await.len(), 2);
}

#[tokio::test]
async fn an_expired_hold_says_so_and_holds_nothing() {
    let server = Server::embedded().start();
    let id = server.create(1).await;
    let held = server
        .post(id, "reservations/", json!({ "quantity": 1, "hold": 1 }))
        .await;
    let path = held.header("location").to_owned();
    assert_eq!(server.buy(id, 1).await.status, 409);
    eventually("expired", async || {
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
async fn a_hold_belongs_to_its_caller_and_never_blocks_them() {
    let server = Server::embedded().start();
    let id = server.create(1).await;
    let as_caller = |request: reqwest::RequestBuilder, caller: &str| {
        request.header("authorization", format!("Bearer {caller}"))
    };
    let below = |below: &str| format!("{}{below}", product(id));
    let reserve = server.request(Method::POST, &below("reservations/"));
    let reserve = as_caller(reserve, "ann").json(&json!({ "quantity": 1 }));
    let path = server.send(reserve).await.header("location").to_owned();
    for stranger in [
        server.request(Method::GET, &path),
        as_caller(server.request(Method::GET, &path), "bob"),
    ] {
        assert_eq!(server.send(stranger).await.status, 404);
    }
    let buy = |caller| {
        let request = server.request(Method::POST, &below("purchases/"));
        server.send(as_caller(request, caller).json(&json!({ "quantity": 1 })))
    };
    assert_eq!(buy("bob").await.status, 409);
    assert_eq!(buy("ann").await.status, 201);
    let hold = server
        .send(as_caller(server.request(Method::GET, &path), "ann"))
        .await;
    assert_eq!(hold.body["state"], "confirmed");
}

#[tokio::test]
async fn purchases_go_on_while_the_store_of_the_locks_is_down() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop")).start();
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
async fn what_was_refused_in_an_outage_is_not_sold_when_it_is_over() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let server = Server::on(&redis.url(), &postgres.create_database("shop"))
        .args(&["--database-timeout", "500ms"])
        .start();
    let ids = join_all((0..30).map(|_| server.create(5))).await;
    postgres.kill();
    let refused = join_all(ids.iter().map(|id| server.buy(*id, 1))).await;
    for answer in refused {
        assert_eq!(answer.status, 503, "{:?}", answer.body);
        assert!(answer.took < Duration::from_secs(10), "{:?}", answer.took);
    }
    postgres.restart();
    eventually("selling again", async || {
        (server.buy(ids[0], 1).await.status == 201).then_some(())
    })
    .await;
    for id in &ids[1..] {
        assert_eq!(server.ledger(*id).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_paused_in_a_transaction_keeps_its_rows_for_a_bounded_time() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let database = postgres.create_database("shop");
    let server = || {
        let server = Server::on(&redis.url(), &database);
        server.args(&["--database-timeout", "1s"])
    };
    let paused = server()
        .failing("transaction.written=1*off->return(60000)")
        .start();
    let other = server().start();
    // The first transaction passes.
    let id = paused.create(5).await;
    let request = paused.request(Method::POST, &format!("{}purchases/", product(id)));
    let request = request.json(&json!({ "quantity": 1 })).send();
    let stuck = tokio::spawn(request);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";
    eventually("in its transaction", async || {
        (postgres.psql("shop", waits) == "1").then_some(())
    })
    .await;
    paused.process.pause();
    eventually("the other one sells", async || {
        (other.buy(id, 1).await.status == 201).then_some(())
    })
    .await;
    paused.process.resume();
    paused.process.kill();
    stuck.abort();
    assert_eq!(other.ledger(id).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_store_that_grants_every_lock_to_everybody_the_books_balance_all_the_same() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    for database in [postgres.create_database("shop"), String::new()] {
        let starting = match database.is_empty() {
            true => Server::embedded(),
            false => Server::on(&redis.url(), &database),
        };
        let server = starting
            .args(&["--after-update", "release"])
            .failing("locks.granted.to.everybody=return")
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
        // All under one key: at most one of them may have an effect.
        let once = (0..20).map(|_| {
            let server = server.clone();
            tokio::spawn(async move {
                let patch = server.request(Method::PATCH, &product(id));
                let patch = patch
                    .header("idempotency-key", "once")
                    .json(&json!({ "price": 1 }));
                server.send(patch).await
            })
        });
        let (updates, purchases, once) = tokio::join!(
            join_all(updates.collect::<Vec<_>>()),
            join_all(purchases.collect::<Vec<_>>()),
            join_all(once.collect::<Vec<_>>()),
        );
        let count = |answers: Vec<Result<Answer, _>>, status: u16| {
            let answers = answers
                .into_iter()
                .map(Result::<Answer, tokio::task::JoinError>::unwrap);
            let with = answers.filter(|answer| {
                assert!(answer.status.as_u16() < 500, "{:?}", answer.body);
                let again = answer.header("idempotent-replayed") == "true";
                answer.status.as_u16() == status && !again
            });
            with.count()
        };
        let ledger = server.ledger(id).await;
        let entries = |reason: &str| {
            ledger
                .iter()
                .filter(|entry| entry["reason"] == reason)
                .count()
        };
        assert_eq!(count(purchases, 201), entries("purchase"));
        let (updated, at_once) = (count(updates, 200), count(once, 200));
        assert!(at_once <= 1, "{at_once}");
        // No update is lost: each that was acknowledged is a version of its own.
        assert_eq!(updated + at_once, entries("changed"));
        assert!(updated >= 1);
        let fences = ledger.iter().filter_map(|entry| entry["fence"].as_i64());
        assert!(fences.is_sorted_by(|a, b| a < b), "fences rise");
    }
}
