//! `lockstock race`: the article's test as a command. Identical updates are fired at the
//! same moment over connections that are open already; exactly one may succeed.

mod chart;

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lockstock::redact_url;
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, StatusCode, Url};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::Race;

/// Longer than any server waits before it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// How one request of a round ended.
#[derive(Debug)]
struct Finish {
    /// The status, or why there was none.
    status: Result<StatusCode, String>,
    /// From the starting signal to the whole answer.
    took: Duration,
    /// When the server says to come back.
    retry_after: Option<Duration>,
}

impl Finish {
    fn won(&self) -> bool {
        self.status.as_ref().is_ok_and(StatusCode::is_success)
    }
}

/// Races as told. An error, and so a non-zero exit, unless each round had exactly one winner.
pub(crate) async fn race(options: Race) -> anyhow::Result<()> {
    let course = Course::find(&options).await?;
    let runners = course.line_up(options.requests).await?;
    let mut out = std::io::stdout();
    let colour = out.is_terminal();
    let mut spoilt = Vec::new();
    for round in 1..=options.rounds {
        let change = course.next_change().await?;
        let finishes = fire(&runners, &course.product, &change).await;
        let winners = finishes.iter().filter(|finish| finish.won()).count();
        if winners != 1 {
            spoilt.push((round, winners));
        }
        if options.json {
            writeln!(out, "{}", line(round, &course, &change, &finishes))?;
        } else {
            let title = format!(
                "round {round} of {}: {} × PATCH {} {change}",
                options.rounds,
                options.requests,
                course.product.path(),
            );
            write!(out, "{}", chart::draw(&title, &finishes, colour))?;
        }
        out.flush()?;
        if round < options.rounds {
            cool_down(&finishes).await;
        }
    }
    let Some((round, winners)) = spoilt.first() else {
        return Ok(());
    };
    let why = match winners {
        0 => "nobody won: another client may have updated the product just before",
        _ => {
            "more than one won. With --after-update release the server lets all succeed one \
              after another; with keep (its default) only one may"
        }
    };
    bail!(
        "{} of {} rounds had not exactly one winner (round {round} had {winners}): {why}",
        spoilt.len(),
        options.rounds
    );
}

/// What is raced for.
struct Course {
    client: Client,
    product: Url,
}

impl Course {
    async fn find(options: &Race) -> anyhow::Result<Self> {
        let base = Url::parse(&options.url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .with_context(|| {
                format!(
                    "'{}' is no URL of a server: write http://127.0.0.1:8000",
                    redact_url(&options.url)
                )
            })?;
        let client = client()?;
        let products = base.join("/api/products/")?;
        let id = match options.product {
            Some(id) => id,
            None => {
                let page = get(&client, products.clone()).await?;
                page["results"][0]["id"]
                    .as_i64()
                    .context("the server has no products yet: create one, then race for it")?
            }
        };
        let product = products.join(&format!("{id}/"))?;
        get(&client, product.clone()).await?;
        Ok(Self { client, product })
    }

    /// As many clients, each with a connection of its own that is open already: the race is
    /// for the product, not for who connects first.
    async fn line_up(&self, requests: u32) -> anyhow::Result<Vec<Client>> {
        let mut runners = Vec::new();
        for _ in 0..requests {
            let runner = client()?;
            get(&runner, self.product.clone()).await?;
            runners.push(runner);
        }
        Ok(runners)
    }

    /// One item less, as the article has it; from a stock of nothing, one more.
    async fn next_change(&self) -> anyhow::Result<Value> {
        let product = get(&self.client, self.product.clone()).await?;
        let stock = product["stock"]
            .as_i64()
            .context("the product shows no stock: is this a Lockstock server?")?;
        Ok(json!({ "stock": if stock > 0 { stock - 1 } else { 1 } }))
    }
}

fn client() -> anyhow::Result<Client> {
    Ok(Client::builder()
        .timeout(PATIENCE)
        .pool_idle_timeout(PATIENCE)
        .build()?)
}

async fn get(client: &Client, url: Url) -> anyhow::Result<Value> {
    let place = redact_url(url.as_str());
    let answer = client.get(url).send().await.map_err(|error| {
        let why = deepest(&error);
        anyhow::anyhow!("no answer from {place} ({why}): is the server running? Start it with `lockstock`, or name another with --url")
    })?;
    let status = answer.status();
    if !status.is_success() {
        bail!("{place} answers {status}: give the id of a product with --product");
    }
    let body = answer.bytes().await?;
    serde_json::from_slice(&body).with_context(|| {
        format!("{place} answers something that is no JSON: is this a Lockstock server?")
    })
}

/// The cause that says something: reqwest's own words are "error sending request".
fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

async fn fire(runners: &[Client], product: &Url, change: &Value) -> Vec<Finish> {
    let (start, waiting) = watch::channel(None);
    let mut field = JoinSet::new();
    for (lane, runner) in runners.iter().enumerate() {
        let request = runner.patch(product.clone()).json(change);
        let mut waiting = waiting.clone();
        field.spawn(async move {
            // Closed only after the signal: this cannot fail before it.
            let signal = waiting.wait_for(Option::is_some).await.map(|at| *at);
            let fired = signal.ok().flatten().unwrap_or_else(Instant::now);
            (lane, run(request, fired).await)
        });
    }
    let _ = start.send(Some(Instant::now()));
    let mut finishes = field.join_all().await;
    finishes.sort_by_key(|(lane, _)| *lane);
    finishes.into_iter().map(|(_, finish)| finish).collect()
}

async fn run(request: reqwest::RequestBuilder, fired: Instant) -> Finish {
    let answer = request.send().await;
    let mut retry_after = None;
    let status = match answer {
        Ok(answer) => {
            let status = answer.status();
            retry_after = answer
                .headers()
                .get(RETRY_AFTER)
                .and_then(|seconds| seconds.to_str().ok()?.parse().ok())
                .map(Duration::from_secs);
            let read = answer.bytes().await;
            read.map(|_| status).map_err(|error| deepest(&error))
        }
        Err(error) => Err(deepest(&error)),
    };
    Finish {
        status,
        took: fired.elapsed(),
        retry_after,
    }
}

/// Waits until the losers may try again, which is when the next round is a fair one.
async fn cool_down(finishes: &[Finish]) {
    let wait = finishes
        .iter()
        .filter_map(|finish| finish.retry_after)
        .max();
    if let Some(wait) = wait {
        tokio::time::sleep(wait).await;
    }
}

fn line(round: u32, course: &Course, change: &Value, finishes: &[Finish]) -> Value {
    let shown = finishes.iter().map(|finish| {
        json!({
            "status": finish.status.as_ref().ok().map(|status| status.as_u16()),
            "error": finish.status.as_ref().err(),
            "milliseconds": milliseconds(finish.took),
            "retry_after_s": finish.retry_after.map(|wait| wait.as_secs()),
        })
    });
    let winners = finishes.iter().filter(|finish| finish.won()).count();
    let winner = finishes.iter().position(Finish::won).map(|lane| lane + 1);
    json!({
        "round": round,
        "url": redact_url(course.product.as_str()),
        "change": change,
        "winners": winners,
        "winner": winner.filter(|_| winners == 1),
        "ok": winners == 1,
        "requests": shown.collect::<Vec<_>>(),
    })
}

/// To a hundredth, which is as much as a clock over a network can mean.
fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 100_000.0).round() / 100.0
}
