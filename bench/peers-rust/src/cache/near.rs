//! Reads that are answered from the memory of the process.

use std::hash::RandomState;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use redis::aio::MultiplexedConnection;
use redis::caching::CacheConfig;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, cmd};

use crate::load::{cpu_seconds, key, line};
use crate::order;

/// The number of reads between two looks at the clock.
const BATCH: usize = 1_000;

pub struct Near<'a> {
    pub url: &'a str,
    pub keys: u64,
    pub bytes: usize,
    pub seconds: f64,
}

/// A cache that has all values.
enum Library {
    Moka(moka::sync::Cache<String, Bytes, RandomState>),
    QuickCache(quick_cache::sync::Cache<String, Bytes>),
    CacheAio(MultiplexedConnection),
}

impl Near<'_> {
    pub async fn run(&self, rounds: u32, libraries: &[&str]) -> Result<()> {
        let mut opened = Vec::new();
        for name in libraries {
            opened.push((*name, self.open(name).await?));
        }
        let keys: Vec<String> = (0..self.keys).map(key).collect();
        for round in 0..rounds {
            for (name, library) in order(&opened, round) {
                let line = self.round(name, library, &keys).await?;
                println!("{line}");
            }
        }
        Ok(())
    }

    async fn open(&self, name: &str) -> Result<Library> {
        let value = Bytes::from("x".repeat(self.bytes));
        Ok(match name {
            "moka" => {
                let cache = moka::sync::Cache::new(2 * self.keys);
                for number in 0..self.keys {
                    cache.insert(key(number), value.clone());
                }
                Library::Moka(cache)
            }
            "quick_cache" => {
                let cache = quick_cache::sync::Cache::new(usize::try_from(2 * self.keys)?);
                for number in 0..self.keys {
                    cache.insert(key(number), value.clone());
                }
                Library::QuickCache(cache)
            }
            "cache-aio" => {
                let info = self.url.into_connection_info()?;
                let settings = info.redis_settings().clone();
                let settings = settings.set_protocol(ProtocolVersion::RESP3);
                let client = Client::open(info.set_redis_settings(settings))?;
                let size = usize::try_from(2 * self.keys)?.try_into()?;
                let cache = CacheConfig::new().set_size(size);
                let config = AsyncConnectionConfig::new().set_cache_config(cache);
                let mut connection = client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await?;
                for number in 0..self.keys {
                    let mut set = cmd("SET");
                    set.arg(key(number)).arg(&value[..]);
                    set.exec_async(&mut connection).await?;
                }
                Library::CacheAio(connection)
            }
            _ => bail!("unknown library '{name}'"),
        })
    }

    async fn round(&self, name: &str, library: &Library, keys: &[String]) -> Result<String> {
        let (begun, cpu) = (Instant::now(), cpu_seconds()?);
        let end = begun + Duration::from_secs_f64(self.seconds);
        let mut latencies = Histogram::<u64>::new(2)?;
        let mut calls = 0_u64;
        let mut keys = keys.iter().cycle();
        let mut batch_begun = begun;
        loop {
            let batch = keys.by_ref().take(BATCH);
            match library {
                Library::Moka(cache) => {
                    for key in batch {
                        ensure!(cache.get(key).is_some(), "no value");
                    }
                }
                Library::QuickCache(cache) => {
                    for key in batch {
                        ensure!(cache.get(key).is_some(), "no value");
                    }
                }
                Library::CacheAio(connection) => {
                    let mut connection = connection.clone();
                    for key in batch {
                        let mut get = cmd("GET");
                        get.arg(key);
                        let value: Option<Bytes> = get.query_async(&mut connection).await?;
                        ensure!(value.is_some(), "no value");
                    }
                }
            }
            calls += BATCH as u64;
            let now = Instant::now();
            let each = (now - batch_begun).as_nanos() / BATCH as u128;
            latencies.record(u64::try_from(each)?.max(1))?;
            batch_begun = now;
            if now >= end {
                break;
            }
        }
        let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
        Ok(line(name, calls, seconds, cpu, &latencies))
    }
}
