//! `lockstock race`: the five-PATCH race as a command. Identical updates are sent at the same
//! moment over connections that are already open; exactly one may succeed.

mod chart;

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use lockstock::redact_url;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::api_client::{SecretArgs, base_url, client_builder, root_cause, server_of};
use crate::cli::values::number_in;

/// Longer than any server waits before it responds.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct RaceArgs {
    /// URL of the server. Several servers that share a database take turns: give --url for each
    #[arg(
        long,
        env = "LOCKSTOCK_URL",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8000"
    )]
    url: Vec<String>,

    /// Id of the product to update [default: the first product of the server]
    #[arg(long, value_name = "ID", value_parser = number_in(1_i64.., 1))]
    product: Option<i64>,

    /// Number of updates to send at the same moment
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = number_in(2..=1000_u32, 5))]
    requests: u32,

    /// Number of rounds. A round starts when the cool-down of the round before has passed
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = number_in(1_u32.., 10))]
    rounds: u32,

    #[command(flatten)]
    secret: SecretArgs,

    /// Print one line of JSON per round instead of a chart
    #[arg(long)]
    json: bool,
}

/// The result of one request of a round.
#[derive(Debug)]
struct RaceResult {
    /// The status, or why there is no response.
    status: Result<StatusCode, String>,
    /// The message of a rejection, if it has one.
    detail: Option<String>,
    /// Index of the server in [`Target::products`].
    server: usize,
    /// From the starting signal to the end of the response.
    took: Duration,
    retry_after: Option<Duration>,
}

impl RaceResult {
    fn won(&self) -> bool {
        self.status.as_ref().is_ok_and(StatusCode::is_success)
    }

    fn is(&self, status: StatusCode) -> bool {
        self.status == Ok(status)
    }
}

/// Runs all rounds. Fails, and so exits with 1, unless each round has exactly one winner.
pub(crate) async fn run(args: RaceArgs) -> anyhow::Result<()> {
    let target = Target::find(&args).await?;
    let clients = target.connect_all(args.requests).await?;
    let mut out = anstream::stdout();
    let mut failures = Vec::new();
    for round in 1..=args.rounds {
        let (mut change, mut results) = target.race(&clients).await?;
        // A race that another one preceded by less than the cool-down has no winner.
        if round == 1
            && all_have(&results, StatusCode::TOO_MANY_REQUESTS)
            && let Some(wait) = longest_retry_after(&results)
        {
            eprintln!(
                "lockstock: product {} was updated a moment ago and is cooling down: starting \
                 again in {} s",
                target.id,
                wait.as_secs()
            );
            sleep(wait).await;
            (change, results) = target.race(&clients).await?;
        }
        if let Some(failure) = failure(&results) {
            failures.push((round, failure));
        }
        if args.json {
            writeln!(out, "{}", to_json(round, &target, &change, &results))?;
        } else {
            let title = format!(
                "round {round} of {}: {} × PATCH {} {change}",
                args.rounds,
                args.requests,
                target.products[0].path(),
            );
            let servers = target.products.iter().map(server_of).collect::<Vec<_>>();
            write!(out, "{}", chart::draw(&title, &results, &servers))?;
        }
        out.flush()?;
        if round < args.rounds
            && let Some(wait) = longest_retry_after(&results)
        {
            // So that no cool-down decides the next round.
            sleep(wait).await;
        }
    }
    let Some((round, failure)) = failures.first() else {
        return Ok(());
    };
    bail!(
        "{} of {} rounds did not have exactly one winner. Round {round}: {failure}",
        failures.len(),
        args.rounds
    );
}

fn all_have(results: &[RaceResult], status: StatusCode) -> bool {
    results.iter().all(|result| result.is(status))
}

/// Explains why a round does not have exactly one winner, if it has not.
fn failure(results: &[RaceResult]) -> Option<String> {
    let winners = results.iter().filter(|result| result.won()).count();
    if winners == 1 {
        return None;
    }
    if winners > 1 {
        return Some(format!(
            "{winners} updates succeeded. With --after-update release a server lets all updates \
             succeed one after another; with keep (the default) only one succeeds, provided that \
             all servers share one Redis"
        ));
    }
    if all_have(results, StatusCode::TOO_MANY_REQUESTS) {
        return Some("another client updated the product just before".to_owned());
    }
    if all_have(results, StatusCode::PRECONDITION_REQUIRED) {
        return Some(
            "the server runs with --require-if-match, and the race sends no If-Match".to_owned(),
        );
    }
    // The other responses explain it.
    let reason = results
        .iter()
        .find(|result| !result.is(StatusCode::TOO_MANY_REQUESTS))
        .map(|result| match (&result.status, &result.detail) {
            (Ok(status), Some(detail)) => format!("{status} ({detail})"),
            (Ok(status), None) => status.to_string(),
            (Err(error), _) => format!("no response ({error})"),
        });
    Some(format!(
        "no update succeeded: {}",
        reason.unwrap_or_else(|| "no response".to_owned())
    ))
}

/// The product that all requests update.
struct Target {
    client: Client,
    /// Of all requests.
    headers: HeaderMap,
    id: i64,
    /// URL of the product at each server.
    products: Vec<Url>,
}

impl Target {
    async fn find(args: &RaceArgs) -> anyhow::Result<Self> {
        let bases = args.url.iter().map(|url| base_url(url));
        let bases = bases.collect::<anyhow::Result<Vec<_>>>()?;
        let headers = args.secret.headers()?;
        let client = client(&bases, &headers)?;
        let id = match args.product {
            Some(id) => id,
            None => {
                let page = get(&client, bases[0].join("api/products/")?).await?;
                page["results"][0]["id"]
                    .as_i64()
                    .context("the server has no products: create one first")?
            }
        };
        let products = bases
            .iter()
            .map(|base| base.join(&format!("api/products/{id}/")));
        let products = products.collect::<Result<Vec<_>, _>>()?;
        let mut created = Vec::new();
        for url in &products {
            let product = get(&client, url.clone()).await?;
            created.push(product["created_at"].clone());
        }
        // Otherwise a server whose own product is cooling down makes the race look won.
        if let Some(other) = created.iter().position(|at| *at != created[0]) {
            bail!(
                "{} and {} have different products with the id {id}: they do not share a database",
                server_of(&products[0]),
                server_of(&products[other]),
            );
        }
        Ok(Self {
            client,
            headers,
            id,
            products,
        })
    }

    /// Opens one connection for each request, so that connecting does not decide the race. The
    /// servers take turns.
    async fn connect_all(&self, requests: u32) -> anyhow::Result<Vec<Racer>> {
        let mut racers = Vec::new();
        let servers = (0..self.products.len()).cycle();
        for (_, server) in (0..requests).zip(servers) {
            let client = client(&self.products, &self.headers)?;
            get(&client, self.products[server].clone()).await?;
            racers.push(Racer { client, server });
        }
        Ok(racers)
    }

    /// Sends the same update from all racers at once. Returns the update and the results.
    async fn race(&self, racers: &[Racer]) -> anyhow::Result<(Value, Vec<RaceResult>)> {
        let change = self.next_change().await?;
        let requests = racers.iter().map(|racer| {
            let product = self.products[racer.server].clone();
            (racer.server, racer.client.patch(product).json(&change))
        });
        let results = send_at_once(requests).await;
        Ok((change, results))
    }

    /// Returns the body of the next round: one item less, or one item if none is in stock.
    async fn next_change(&self) -> anyhow::Result<Value> {
        let product = get(&self.client, self.products[0].clone()).await?;
        let stock = product["stock"]
            .as_i64()
            .context("the product has no stock field: is this a Lockstock server?")?;
        Ok(json!({ "stock": if stock > 0 { stock - 1 } else { 1 } }))
    }
}

/// A client with a connection to one of the servers.
struct Racer {
    client: Client,
    server: usize,
}

fn client(urls: &[Url], headers: &HeaderMap) -> anyhow::Result<Client> {
    Ok(client_builder(urls)
        .default_headers(headers.clone())
        .timeout(TIMEOUT)
        .pool_idle_timeout(TIMEOUT)
        .build()?)
}

async fn get(client: &Client, url: Url) -> anyhow::Result<Value> {
    let shown = redact_url(url.as_str());
    let is_list = url.path().ends_with("/products/");
    let response = client.get(url).send().await.map_err(|error| {
        let cause = root_cause(&error);
        // Of rustls, if the first bytes of the server are no TLS record.
        if cause.contains("InvalidContentType") {
            return anyhow!("{shown} does not speak TLS: write http:// instead of https://");
        }
        anyhow!(
            "no response from {shown} ({cause}): is the server running? Start it with `lockstock`, \
             or choose another with --url"
        )
    })?;
    let status = response.status();
    match status {
        StatusCode::NOT_FOUND if is_list => {
            bail!("{shown} responded with {status}: is --url the URL of a Lockstock server?")
        }
        StatusCode::NOT_FOUND => {
            bail!("{shown} responded with {status}: choose a product with --product")
        }
        StatusCode::UNAUTHORIZED => bail!(
            "{shown} responded with {status}: give the secret of an API key in the variable \
             LOCKSTOCK_API_KEY, or in a file with --secret-file"
        ),
        status if !status.is_success() => {
            let body = response.bytes().await.unwrap_or_default();
            let error: Value = serde_json::from_slice(&body).unwrap_or_default();
            let detail = error["detail"].as_str().unwrap_or("no reason given");
            bail!("{shown} responded with {status}: {detail}");
        }
        _ => {}
    }
    let body = response.bytes().await?;
    serde_json::from_slice(&body)
        .with_context(|| format!("{shown} did not return JSON: is this a Lockstock server?"))
}

/// Sends requests, each to the server with its index, at the same moment.
async fn send_at_once(
    requests: impl Iterator<Item = (usize, reqwest::RequestBuilder)>,
) -> Vec<RaceResult> {
    let (start, waiting) = watch::channel(None);
    let mut tasks = JoinSet::new();
    for (index, (server, request)) in requests.enumerate() {
        let mut waiting = waiting.clone();
        tasks.spawn(async move {
            // Cannot fail: the sender is dropped only after the signal.
            let signal = waiting.wait_for(Option::is_some).await.map(|at| *at);
            let started = signal.ok().flatten().unwrap_or_else(Instant::now);
            (index, send(request, server, started).await)
        });
    }
    let _ = start.send(Some(Instant::now()));
    let mut results = tasks.join_all().await;
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

async fn send(request: reqwest::RequestBuilder, server: usize, started: Instant) -> RaceResult {
    let mut retry_after = None;
    let mut detail = None;
    let status = match request.send().await {
        Ok(response) => {
            let status = response.status();
            retry_after = response
                .headers()
                .get(RETRY_AFTER)
                .and_then(|seconds| seconds.to_str().ok()?.parse().ok())
                .map(Duration::from_secs);
            let body = response.bytes().await;
            detail = body.as_ref().ok().and_then(|body| {
                let body = serde_json::from_slice::<Value>(body).ok()?;
                Some(body["detail"].as_str()?.to_owned())
            });
            body.map(|_| status).map_err(|error| root_cause(&error))
        }
        Err(error) => Err(root_cause(&error)),
    };
    RaceResult {
        status,
        detail,
        server,
        took: started.elapsed(),
        retry_after,
    }
}

/// Returns after which time all losers may retry.
fn longest_retry_after(results: &[RaceResult]) -> Option<Duration> {
    results.iter().filter_map(|result| result.retry_after).max()
}

fn to_json(round: u32, target: &Target, change: &Value, results: &[RaceResult]) -> Value {
    let requests = results.iter().map(|result| {
        json!({
            "status": result.status.as_ref().ok().map(|status| status.as_u16()),
            "error": result.status.as_ref().err(),
            "detail": result.detail,
            "server": redact_url(target.products[result.server].as_str()),
            "milliseconds": milliseconds(result.took),
            "retry_after_s": result.retry_after.map(|wait| wait.as_secs()),
        })
    });
    let winners = results.iter().filter(|result| result.won()).count();
    let winner = results.iter().position(RaceResult::won);
    json!({
        "round": round,
        "url": redact_url(target.products[0].as_str()),
        "change": change,
        "winners": winners,
        "winner": winner.filter(|_| winners == 1).map(|index| index + 1),
        "ok": winners == 1,
        "requests": requests.collect::<Vec<_>>(),
    })
}

/// Rounds to hundredths: a clock at the end of a network connection is not more precise.
fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 100_000.0).round() / 100.0
}
