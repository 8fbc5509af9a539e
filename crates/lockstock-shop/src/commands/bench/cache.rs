//! `lockstock bench cache`: measures values on a store, beside the same commands through the redis
//! crate.
//!
//! Both take turns in short rounds, so that whatever else runs on the machine affects both.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use lockstock::{Cache, Raw, Store, redact_url};
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use tokio::runtime;
use tokio::task::JoinSet;

use super::report::{counted, rounded};
use crate::cli::store_url::explain_first_error;
use crate::cli::values::number_in;

const NAMESPACE: &str = "lockstock-bench";
/// The prefix of the keys in Redis, so that both sides send commands of the same length.
const PREFIX: &str = "lockstock:cache:lockstock-bench:1:";
const KEYS: usize = 1_000;
/// For how long a bench that is killed leaves its keys behind.
const TTL: Duration = Duration::from_secs(3600);
/// How often each side has its turn.
const ROUNDS: u32 = 5;
/// Of the mix, one call in so many writes.
const CALLS_PER_WRITE: usize = 10;
/// The largest latency that the histogram records, in nanoseconds.
const MAX_LATENCY_NS: u64 = 60_000_000_000;

pub(super) const HELP: &str = "\
Each task reads or writes one value after another, of 1,000 keys. The same commands through the redis
crate take turns with Lockstock, in five rounds each, so that their ratio does not depend on what else
the machine does; that needs a single server (redis:// or rediss://). `mix` writes one value in ten.

Latencies are those of one call among --tasks at a time. The bench removes its keys at its end.

Examples:
  lockstock bench cache --store redis://127.0.0.1:6379/1
                                                           64 tasks, values of 100 bytes
  lockstock bench cache --store redis://127.0.0.1:6379/1 --tasks 512 --threads 4 --size 4096";

#[derive(Debug, Args)]
pub(super) struct CacheArgs {
    /// URL of the store, as for the server
    #[arg(
        long,
        env = "LOCKSTOCK_STORE",
        value_name = "URL",
        default_value = "memory://",
        hide_env_values = true
    )]
    store: String,

    /// Number of tasks, each with one call at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 64, value_parser = number_in(1..=100_000_u32, 64))]
    tasks: u32,

    /// Number of threads that run the tasks, as many as there are cores by default
    #[arg(long, value_name = "NUMBER", value_parser = number_in(1..=1024_usize, 4))]
    threads: Option<usize>,

    /// Size of a value
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = number_in(0..=16_777_216_usize, 100))]
    size: usize,

    /// Length of the measurement in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 6, value_parser = number_in(1..=86_400_u32, 6))]
    seconds: u32,

    /// Print one line of JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What the tasks do.
#[derive(Debug, Clone, Copy)]
enum Workload {
    Get,
    Set,
    Mix,
}

impl Workload {
    const ALL: [Self; 3] = [Self::Get, Self::Set, Self::Mix];

    fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Set => "set",
            Self::Mix => "mix",
        }
    }

    fn is_write(self, call: usize) -> bool {
        match self {
            Self::Get => false,
            Self::Set => true,
            Self::Mix => call.is_multiple_of(CALLS_PER_WRITE),
        }
    }
}

/// One way to the values.
#[derive(Clone)]
enum Path {
    Lockstock(Cache<Bytes, Raw>),
    /// The redis crate.
    Plain(MultiplexedConnection),
}

/// All rounds of one path with one workload.
struct Measured {
    /// Calls per second of each round.
    rates: Vec<f64>,
    latencies: Histogram<u64>,
}

/// One workload through all paths.
struct Comparison {
    workload: Workload,
    ours: Measured,
    /// `None` if the store is not a single server.
    plain: Option<Measured>,
}

/// Runs the measurement. Fails if a call fails.
pub(super) fn run(args: &CacheArgs) -> anyhow::Result<()> {
    let mut builder = runtime::Builder::new_multi_thread();
    if let Some(threads) = args.threads {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().build()?;
    let results = runtime.block_on(measure(args))?;
    let mut out = std::io::stdout();
    match args.json {
        true => writeln!(out, "{}", json(args, &results))?,
        false => write!(out, "{}", table(args, &results))?,
    }
    Ok(out.flush()?)
}

async fn measure(args: &CacheArgs) -> anyhow::Result<Vec<Comparison>> {
    let store = Store::connect(&args.store).await.map_err(|error| {
        let error = explain_first_error(&args.store, error.to_string());
        anyhow!(error)
    })?;
    let cache = store.cache::<Bytes>(NAMESPACE).codec(Raw);
    let mut paths = vec![Path::Lockstock(cache.clone())];
    if ["redis://", "rediss://"]
        .iter()
        .any(|scheme| args.store.starts_with(scheme))
    {
        paths.push(Path::Plain(connect(&args.store).await?));
    }
    let value = Bytes::from(vec![b'x'; args.size]);
    for key in keys() {
        cache.set(&key[PREFIX.len()..], &value, TTL).await?;
    }
    let rounds = Workload::ALL.len() * paths.len() * ROUNDS as usize;
    let time = Duration::from_secs(args.seconds.into()) / u32::try_from(rounds)?;
    let mut results = Vec::new();
    for workload in Workload::ALL {
        let mut measured = Vec::new();
        for _ in &paths {
            measured.push(Measured::new()?);
        }
        for round in 0..ROUNDS {
            let mut order: Vec<_> = paths.iter().zip(&mut measured).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for (path, measured) in order {
                measured
                    .round(path, workload, &value, args.tasks, time)
                    .await?;
            }
        }
        let mut measured = measured.into_iter();
        results.push(Comparison {
            workload,
            ours: measured.next().context("a round")?,
            plain: measured.next(),
        });
    }
    for key in keys() {
        cache.delete(&key[PREFIX.len()..]).await?;
    }
    Ok(results)
}

async fn connect(url: &str) -> anyhow::Result<MultiplexedConnection> {
    // Only the category: some messages quote the URL with its password.
    let client = redis::Client::open(url).map_err(|error| anyhow!(error.category().to_owned()))?;
    Ok(client.get_multiplexed_async_connection().await?)
}

fn keys() -> Vec<String> {
    (0..KEYS).map(|n| format!("{PREFIX}{n}")).collect()
}

impl Measured {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            rates: Vec::new(),
            latencies: histogram()?,
        })
    }

    async fn round(
        &mut self,
        path: &Path,
        workload: Workload,
        value: &Bytes,
        tasks: u32,
        time: Duration,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut running = JoinSet::new();
        for task in 0..tasks as usize {
            let (path, value) = (path.clone(), value.clone());
            running.spawn(call_until(begun + time, path, workload, value, task));
        }
        let mut calls = 0;
        while let Some(latencies) = running.join_next().await {
            let latencies = latencies??;
            calls += latencies.len();
            self.latencies.add(latencies)?;
        }
        self.rates
            .push(calls as f64 / begun.elapsed().as_secs_f64());
        Ok(())
    }

    fn rate(&self) -> f64 {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or_default()
    }

    fn latency_ms(&self, share: f64) -> f64 {
        self.latencies.value_at_quantile(share) as f64 / 1e6
    }

    fn json(&self) -> Value {
        json!({
            "calls_per_s": rounded(self.rate(), 1),
            "p50_ms": rounded(self.latency_ms(0.5), 4),
            "p99_ms": rounded(self.latency_ms(0.99), 4),
            "p999_ms": rounded(self.latency_ms(0.999), 4),
        })
    }
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(MAX_LATENCY_NS, 2)?)
}

/// Calls until `end`, and returns how long each call took.
async fn call_until(
    end: Instant,
    mut path: Path,
    workload: Workload,
    value: Bytes,
    task: usize,
) -> anyhow::Result<Histogram<u64>> {
    let keys = keys();
    let mut latencies = histogram()?;
    let mut sent_at = Instant::now();
    // Each task begins elsewhere.
    let first = task.wrapping_mul(7);
    for call in first.. {
        let key = &keys[call % keys.len()];
        match workload.is_write(call) {
            true => path.set(key, &value).await?,
            false => path.get(key).await?,
        }
        let now = Instant::now();
        latencies.saturating_record((now - sent_at).as_nanos().try_into()?);
        sent_at = now;
        if now >= end {
            break;
        }
    }
    Ok(latencies)
}

impl Path {
    async fn get(&mut self, key: &str) -> anyhow::Result<()> {
        let value = match self {
            Self::Lockstock(cache) => cache.get(&key[PREFIX.len()..]).await?,
            Self::Plain(connection) => {
                let mut get = redis::cmd("GET");
                get.arg(key).query_async(connection).await?
            }
        };
        match value {
            Some(_) => Ok(()),
            None => bail!("the store has lost a value: does it evict keys (maxmemory)?"),
        }
    }

    async fn set(&mut self, key: &str, value: &Bytes) -> anyhow::Result<()> {
        match self {
            Self::Lockstock(cache) => cache.set(&key[PREFIX.len()..], value, TTL).await?,
            Self::Plain(connection) => {
                let mut set = redis::cmd("SET");
                set.arg(key)
                    .arg(&value[..])
                    .arg("PX")
                    .arg(TTL.as_millis() as u64);
                set.exec_async(connection).await?;
            }
        }
        Ok(())
    }
}

impl Comparison {
    /// How many times as many calls per second as through the redis crate.
    fn ratio(&self) -> Option<f64> {
        let plain = self.plain.as_ref()?;
        Some(self.ours.rate() / plain.rate())
    }
}

fn json(args: &CacheArgs, results: &[Comparison]) -> Value {
    let mut line = json!({
        "store": redact_url(&args.store),
        "tasks": args.tasks,
        "threads": args.threads,
        "size": args.size,
        "seconds": args.seconds,
    });
    for result in results {
        let mut measured = result.ours.json();
        measured["plain"] = result.plain.as_ref().map_or(Value::Null, Measured::json);
        measured["ratio"] = result
            .ratio()
            .map_or(Value::Null, |ratio| rounded(ratio, 3).into());
        line[result.workload.name()] = measured;
    }
    line
}

fn table(args: &CacheArgs, results: &[Comparison]) -> String {
    let mut table = format!(
        "{}, values of {}, {} s on {}\n",
        counted(args.tasks, "task", "tasks"),
        counted(args.size as u64, "byte", "bytes"),
        args.seconds,
        redact_url(&args.store),
    );
    let mut line = |workload: &str, path: &str, measured: &Measured, note: &str| {
        table += &format!(
            "  {workload:<4}{path:<10}{:>10.0}/s  median {:>8.3} ms  p99 {:>8.3} ms  {note}\n",
            measured.rate(),
            measured.latency_ms(0.5),
            measured.latency_ms(0.99),
        );
    };
    for result in results {
        let ratio = result.ratio().map(|ratio| format!("{ratio:.2} ×"));
        let ratio = ratio.as_deref().unwrap_or_default();
        line(result.workload.name(), "lockstock", &result.ours, ratio);
        if let Some(plain) = &result.plain {
            line("", "redis-rs", plain, "");
        }
    }
    table
}
