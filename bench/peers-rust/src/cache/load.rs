//! Tasks that call a cache in a loop, and how long the calls took.

use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

/// How many keys there are.
pub const KEYS: u64 = 1_000;

#[derive(Clone, Copy)]
pub struct Load {
    pub tasks: u64,
    pub bytes: usize,
    pub seconds: f64,
}

/// One call, as one task makes it.
pub trait Call: Send + 'static {
    fn call(&mut self, key: &str) -> impl Future<Output = Result<()>> + Send;
}

impl Load {
    /// Runs one round and returns its result as JSON.
    pub async fn round<C: Call>(self, library: &str, calls: Vec<C>) -> Result<String> {
        let keys: Vec<String> = (0..KEYS).map(key).collect();
        let (begun, cpu) = (Instant::now(), cpu_seconds()?);
        let end = begun + Duration::from_secs_f64(self.seconds);
        let mut tasks = JoinSet::new();
        for (task, mut call) in calls.into_iter().enumerate() {
            let keys = keys.clone();
            tasks.spawn(async move {
                let mut latencies = Histogram::<u64>::new(2)?;
                let mut sent_at = Instant::now();
                for key in keys.iter().cycle().skip(task * 7) {
                    call.call(key).await?;
                    let now = Instant::now();
                    latencies.record((now - sent_at).as_nanos().try_into()?)?;
                    sent_at = now;
                    if now >= end {
                        break;
                    }
                }
                anyhow::Ok(latencies)
            });
        }
        let mut all = Histogram::<u64>::new(2)?;
        while let Some(latencies) = tasks.join_next().await {
            all.add(latencies??)?;
        }
        let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
        Ok(line(library, all.len(), seconds, cpu, &all))
    }
}

pub fn key(number: u64) -> String {
    format!("product-{number}")
}

/// Returns the CPU seconds that this process has used.
pub fn cpu_seconds() -> Result<f64> {
    // Not `clock_gettime` of rustix, which crashes under callgrind.
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name before the last bracket may contain any characters. See proc(5).
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(str::parse::<u32>).sum::<Result<u32, _>>()?;
    Ok(f64::from(ticks) / 100.0)
}

pub fn line(
    library: &str,
    calls: u64,
    seconds: f64,
    cpu: f64,
    latencies: &Histogram<u64>,
) -> String {
    let us = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
    format!(
        r#"{{"library": "{library}", "calls": {calls}, "rate": {:.1}, "cpu_us": {:.3}, "p50_us": {:.1}, "p99_us": {:.1}}}"#,
        calls as f64 / seconds,
        cpu * 1e6 / calls as f64,
        us(0.5),
        us(0.99),
    )
}
