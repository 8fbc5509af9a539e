//! The five-PATCH race: of five identical updates at once exactly one succeeds. A hundred rounds
//! in each format of a body, each round on a product of its own.

use futures_util::future::join_all;
use lockstock_testkit::Redis;
use reqwest::multipart::Form;
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::harness::{Response, Server, new_database, product};

const ROUNDS: usize = 100;
const REQUESTS: usize = 5;

#[derive(Debug, Clone, Copy)]
enum Format {
    Json,
    Multipart,
    Form,
}

impl Format {
    fn write(self, request: RequestBuilder, stock: i64) -> RequestBuilder {
        match self {
            Self::Json => request.json(&json!({ "stock": stock })),
            Self::Multipart => request.multipart(Form::new().text("stock", stock.to_string())),
            Self::Form => request.form(&[("stock", stock.to_string())]),
        }
    }
}

/// Sends the updates at once, distributed over `servers`.
async fn send_at_once(servers: &[&Server], id: i64, format: Format, stock: i64) -> Vec<Response> {
    join_all((0..REQUESTS).map(|n| {
        let server = servers[n % servers.len()];
        let request = server.request(Method::PATCH, &product(id));
        server.send(format.write(request, stock))
    }))
    .await
}

fn count_with_status(responses: &[Response], status: u16) -> usize {
    responses
        .iter()
        .filter(|response| response.status == status)
        .count()
}

async fn exactly_one_of_five_wins(servers: &[&Server]) {
    for format in [Format::Json, Format::Multipart, Format::Form] {
        for round in 0..ROUNDS {
            let id = servers[0].create(10).await;
            let responses = send_at_once(servers, id, format, 9).await;
            let statuses = responses
                .iter()
                .map(|response| response.status)
                .collect::<Vec<_>>();
            assert_eq!(
                count_with_status(&responses, 200),
                1,
                "{format:?} {round}: {statuses:?}"
            );
            assert_eq!(
                count_with_status(&responses, 429),
                4,
                "{format:?} {round}: {statuses:?}"
            );
            for loser in responses.iter().filter(|response| response.status == 429) {
                assert!((1..=60).contains(&loser.retry_after()), "{loser:?}");
            }
            let after = servers[0].get(&product(id)).await;
            assert_eq!(after.body["stock"], 9);
            assert_eq!(after.body["version"], 2, "applied once");
        }
    }
}

async fn all_succeed_one_after_another(servers: &[&Server]) {
    for format in [Format::Json, Format::Multipart, Format::Form] {
        for _ in 0..ROUNDS {
            let id = servers[0].create(10).await;
            let responses = send_at_once(servers, id, format, 9).await;
            let statuses = responses
                .iter()
                .map(|response| response.status)
                .collect::<Vec<_>>();
            assert_eq!(count_with_status(&responses, 200), REQUESTS, "{statuses:?}");
            // Each update saw the one before it: the versions are distinct.
            let mut versions = responses
                .iter()
                .map(|response| response.body["version"].as_i64().unwrap())
                .collect::<Vec<_>>();
            versions.sort_unstable();
            assert_eq!(versions, [2, 3, 4, 5, 6]);
        }
    }
}

#[tokio::test]
async fn one_of_five_wins_on_memory_and_sqlite() {
    exactly_one_of_five_wins(&[&Server::embedded().start()]).await;
}

#[tokio::test]
async fn all_five_succeed_in_turn_on_memory_and_sqlite() {
    let server = Server::embedded()
        .args(&["--after-update", "release"])
        .start();
    all_succeed_one_after_another(&[&server]).await;
}

#[tokio::test]
async fn one_of_five_wins_over_two_servers_on_redis_and_postgres() {
    let redis = Redis::start();
    let database = new_database();
    let one = Server::on(&redis.url(), &database).start();
    let two = Server::on(&redis.url(), &database).start();
    exactly_one_of_five_wins(&[&one, &two]).await;
}

#[tokio::test]
async fn all_five_succeed_in_turn_over_two_servers_on_redis_and_postgres() {
    let redis = Redis::start();
    let database = new_database();
    let release = ["--after-update", "release"];
    let one = Server::on(&redis.url(), &database).args(&release).start();
    let two = Server::on(&redis.url(), &database).args(&release).start();
    all_succeed_one_after_another(&[&one, &two]).await;
}
