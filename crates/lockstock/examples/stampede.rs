//! Ten seconds in the life of a popular key, in four ways: how many computations run at the same
//! time, and how long the callers wait.
//!
//! Four stores stand for four processes, with 25 callers each. Every caller asks ten times a second
//! for a value that takes 500 ms to compute and lives for 3 s.
//!
//! `cargo run --release --example stampede -- redis://127.0.0.1:6379/0`

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lockstock::{Cache, ComputePolicy, Store};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

const PROCESSES: usize = 4;
const CALLERS: usize = 25;
const PERIOD: Duration = Duration::from_millis(100);
const COMPUTATION: Duration = Duration::from_millis(500);
const TTL: Duration = Duration::from_secs(3);
const LENGTH: Duration = Duration::from_secs(10);
/// One column of the picture.
const COLUMN: Duration = Duration::from_millis(250);

#[derive(Clone, Copy)]
enum Way {
    GetThenSet,
    OncePerProcess,
    OncePerStore,
    StaleWhileComputed,
}

#[derive(Default)]
struct Counters {
    running: AtomicUsize,
    computed: AtomicUsize,
}

#[tokio::main]
async fn main() -> lockstock::Result<()> {
    let url = std::env::args().nth(1);
    let url = url.unwrap_or_else(|| "redis://127.0.0.1:6379/0".to_owned());
    println!("computations at the same time, a column for each 0.25 s of 10 s");
    for (way, name) in [
        (Way::GetThenSet, "get, then set"),
        (Way::OncePerProcess, "get_or_try_set"),
        (Way::OncePerStore, "… with once_per_store"),
        (Way::StaleWhileComputed, "… and stale_for"),
    ] {
        let (columns, computed, slowest) = run(&url, way).await?;
        let picture: String = columns.iter().map(|&running| symbol(running)).collect();
        println!("{name:22} |{picture}| {computed:3} computations, slowest call {slowest:4} ms");
    }
    println!("a space: none  1-9: that many  #: more");
    Ok(())
}

async fn run(url: &str, way: Way) -> lockstock::Result<(Vec<usize>, usize, u128)> {
    let counters = Arc::new(Counters::default());
    let mut callers = JoinSet::new();
    let ends_at = Instant::now() + LENGTH;
    for process in 0..PROCESSES {
        let cache = Store::connect(url).await?.cache::<u64>("stampede");
        if process == 0 {
            cache.clear().await?;
        }
        for caller in 0..CALLERS {
            let (cache, counters) = (cache.clone(), counters.clone());
            let late = PERIOD.mul_f64(caller as f64 / CALLERS as f64);
            callers.spawn(async move {
                sleep(late).await;
                let mut ticks = interval(PERIOD);
                let mut slowest = Duration::ZERO;
                while Instant::now() < ends_at {
                    ticks.tick().await;
                    let asked_at = Instant::now();
                    ask(&cache, way, &counters).await?;
                    slowest = slowest.max(asked_at.elapsed());
                }
                lockstock::Result::Ok(slowest)
            });
        }
    }
    let mut columns = Vec::new();
    while Instant::now() < ends_at {
        columns.push(counters.running.load(Ordering::Relaxed));
        sleep(COLUMN).await;
    }
    let mut slowest = Duration::ZERO;
    while let Some(caller) = callers.join_next().await {
        slowest = slowest.max(caller.expect("no caller panics")?);
    }
    let computed = counters.computed.load(Ordering::Relaxed);
    Ok((columns, computed, slowest.as_millis()))
}

async fn ask(cache: &Cache<u64>, way: Way, counters: &Counters) -> lockstock::Result<()> {
    let policy = ComputePolicy::new(TTL);
    let once = Duration::from_secs(5);
    let policy = match way {
        Way::GetThenSet => {
            if cache.get("popular").await?.is_none() {
                let value = compute(counters).await;
                cache.set("popular", &value, TTL).await?;
            }
            return Ok(());
        }
        Way::OncePerProcess => policy,
        Way::OncePerStore => policy.once_per_store(once),
        Way::StaleWhileComputed => policy.once_per_store(once).stale_for(TTL),
    };
    let computed = cache.get_or_try_set("popular", policy, async || {
        Ok::<_, Infallible>(compute(counters).await)
    });
    computed.await.expect("the computation does not fail");
    Ok(())
}

async fn compute(counters: &Counters) -> u64 {
    counters.running.fetch_add(1, Ordering::Relaxed);
    sleep(COMPUTATION).await;
    counters.running.fetch_sub(1, Ordering::Relaxed);
    counters.computed.fetch_add(1, Ordering::Relaxed) as u64
}

fn symbol(running: usize) -> char {
    match running {
        0 => ' ',
        1..=9 => char::from_digit(running as u32, 10).unwrap_or('#'),
        _ => '#',
    }
}
