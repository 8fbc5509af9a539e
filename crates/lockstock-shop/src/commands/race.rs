//! `lockstock race`: the five-PATCH race as a command. Identical updates are sent at the same
//! moment over connections that are already open; exactly one may succeed.

mod chart;

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use lockstock::redact_url;
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, StatusCode, Url};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::values::number_in;

/// Longer than any server waits before it responds.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct RaceArgs {
    /// URL of the server
    #[arg(
        long,
        env = "LOCKSTOCK_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8000"
    )]
    url: String,

    /// Id of the product to update [default: the first product of the server]
    #[arg(long, value_name = "ID", value_parser = number_in(1_i64.., 1))]
    product: Option<i64>,

    /// Number of updates to send at the same moment
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = number_in(2..=1000_u32, 5))]
    requests: u32,

    /// Number of rounds. A round starts when the Retry-After time of the round before has passed
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = number_in(1_u32.., 10))]
    rounds: u32,

    /// Print one line of JSON per round instead of a chart
    #[arg(long)]
    json: bool,
}

/// The result of one request of a round.
#[derive(Debug)]
struct RaceResult {
    /// The status, or why there is no response.
    status: Result<StatusCode, String>,
    /// From the starting signal to the end of the response.
    took: Duration,
    retry_after: Option<Duration>,
}

impl RaceResult {
    fn won(&self) -> bool {
        self.status.as_ref().is_ok_and(StatusCode::is_success)
    }
}

/// Runs all rounds. Fails, and so exits with 1, unless each round has exactly one winner.
pub(crate) async fn run(args: RaceArgs) -> anyhow::Result<()> {
    let target = Target::find(&args).await?;
    let clients = target.connect_all(args.requests).await?;
    let mut out = anstream::stdout();
    let mut failed_rounds = Vec::new();
    for round in 1..=args.rounds {
        let change = target.next_change().await?;
        let results = send_at_once(&clients, &target.product, &change).await;
        let winners = results.iter().filter(|result| result.won()).count();
        if winners != 1 {
            failed_rounds.push((round, winners));
        }
        if args.json {
            writeln!(out, "{}", to_json(round, &target, &change, &results))?;
        } else {
            let title = format!(
                "round {round} of {}: {} × PATCH {} {change}",
                args.rounds,
                args.requests,
                target.product.path(),
            );
            write!(out, "{}", chart::draw(&title, &results))?;
        }
        out.flush()?;
        if round < args.rounds {
            wait_for_retry_after(&results).await;
        }
    }
    let Some((round, winners)) = failed_rounds.first() else {
        return Ok(());
    };
    let why = match winners {
        0 => "another client may have updated the product just before",
        _ => {
            "with --after-update release the server lets all updates succeed one after another; \
             with keep (its default) only one succeeds"
        }
    };
    bail!(
        "{} of {} rounds did not have exactly one winner (round {round} had {winners}): {why}",
        failed_rounds.len(),
        args.rounds
    );
}

/// The product that all requests update.
struct Target {
    client: Client,
    product: Url,
}

impl Target {
    async fn find(args: &RaceArgs) -> anyhow::Result<Self> {
        let base = Url::parse(&args.url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .with_context(|| {
                format!(
                    "'{}' is not the URL of a server: expected one like http://127.0.0.1:8000",
                    redact_url(&args.url)
                )
            })?;
        let client = client()?;
        let products = base.join("/api/products/")?;
        let id = match args.product {
            Some(id) => id,
            None => {
                let page = get(&client, products.clone()).await?;
                page["results"][0]["id"]
                    .as_i64()
                    .context("the server has no products: create one first")?
            }
        };
        let product = products.join(&format!("{id}/"))?;
        get(&client, product.clone()).await?;
        Ok(Self { client, product })
    }

    /// Opens one connection for each request, so that connecting does not decide the race.
    async fn connect_all(&self, requests: u32) -> anyhow::Result<Vec<Client>> {
        let mut clients = Vec::new();
        for _ in 0..requests {
            let client = client()?;
            get(&client, self.product.clone()).await?;
            clients.push(client);
        }
        Ok(clients)
    }

    /// Returns the body of the next round: one item less, or one item if none is in stock.
    async fn next_change(&self) -> anyhow::Result<Value> {
        let product = get(&self.client, self.product.clone()).await?;
        let stock = product["stock"]
            .as_i64()
            .context("the product has no stock field: is this a Lockstock server?")?;
        Ok(json!({ "stock": if stock > 0 { stock - 1 } else { 1 } }))
    }
}

fn client() -> anyhow::Result<Client> {
    Ok(Client::builder()
        .timeout(TIMEOUT)
        .pool_idle_timeout(TIMEOUT)
        .build()?)
}

async fn get(client: &Client, url: Url) -> anyhow::Result<Value> {
    let shown = redact_url(url.as_str());
    let response = client.get(url).send().await.map_err(|error| {
        anyhow::anyhow!(
            "no response from {shown} ({}): is the server running? Start it with `lockstock`, or \
             choose another with --url",
            root_cause(&error)
        )
    })?;
    let status = response.status();
    if !status.is_success() {
        bail!("{shown} responded with {status}: choose a product with --product");
    }
    let body = response.bytes().await?;
    serde_json::from_slice(&body)
        .with_context(|| format!("{shown} did not return JSON: is this a Lockstock server?"))
}

/// Returns the innermost source, because reqwest's own message is only "error sending request".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

async fn send_at_once(clients: &[Client], product: &Url, change: &Value) -> Vec<RaceResult> {
    let (start, waiting) = watch::channel(None);
    let mut requests = JoinSet::new();
    for (index, client) in clients.iter().enumerate() {
        let request = client.patch(product.clone()).json(change);
        let mut waiting = waiting.clone();
        requests.spawn(async move {
            // Cannot fail: the sender is dropped only after the signal.
            let signal = waiting.wait_for(Option::is_some).await.map(|at| *at);
            let started = signal.ok().flatten().unwrap_or_else(Instant::now);
            (index, send(request, started).await)
        });
    }
    let _ = start.send(Some(Instant::now()));
    let mut results = requests.join_all().await;
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

async fn send(request: reqwest::RequestBuilder, started: Instant) -> RaceResult {
    let mut retry_after = None;
    let status = match request.send().await {
        Ok(response) => {
            let status = response.status();
            retry_after = response
                .headers()
                .get(RETRY_AFTER)
                .and_then(|seconds| seconds.to_str().ok()?.parse().ok())
                .map(Duration::from_secs);
            let body = response.bytes().await;
            body.map(|_| status).map_err(|error| root_cause(&error))
        }
        Err(error) => Err(root_cause(&error)),
    };
    RaceResult {
        status,
        took: started.elapsed(),
        retry_after,
    }
}

/// Waits until all losers may retry, so that no cool-down decides the next round.
async fn wait_for_retry_after(results: &[RaceResult]) {
    let wait = results.iter().filter_map(|result| result.retry_after).max();
    if let Some(wait) = wait {
        tokio::time::sleep(wait).await;
    }
}

fn to_json(round: u32, target: &Target, change: &Value, results: &[RaceResult]) -> Value {
    let requests = results.iter().map(|result| {
        json!({
            "status": result.status.as_ref().ok().map(|status| status.as_u16()),
            "error": result.status.as_ref().err(),
            "milliseconds": milliseconds(result.took),
            "retry_after_s": result.retry_after.map(|wait| wait.as_secs()),
        })
    });
    let winners = results.iter().filter(|result| result.won()).count();
    let winner = results.iter().position(RaceResult::won);
    json!({
        "round": round,
        "url": redact_url(target.product.as_str()),
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
