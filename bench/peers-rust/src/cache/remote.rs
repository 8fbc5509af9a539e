//! The libraries that send each command to Redis, each used as its documentation shows.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use cached::{AsyncRedisCache, ConcurrentCachedAsync};
use redis::aio::MultiplexedConnection;
use redis::{Client, cmd};

use crate::load::{Call, KEYS, Load, key};
use crate::order;

const TTL: Duration = Duration::from_secs(3600);
const NAMESPACE: &str = "bench";
/// Before the keys of all libraries, so that commands and replies have the same length.
const PREFIX: &str = "lockstock:cache:bench:1:";

/// A connected library.
enum Library {
    Lockstock(lockstock::Cache<Bytes, lockstock::Raw>),
    Raw(MultiplexedConnection),
    Cached(std::sync::Arc<AsyncRedisCache<String, String>>),
}

pub async fn run(
    url: &str,
    operation: &str,
    load: Load,
    rounds: u32,
    libraries: &[&str],
) -> Result<()> {
    let mut opened = Vec::new();
    for name in libraries {
        opened.push((*name, Library::open(name, url, load.bytes).await?));
    }
    for round in 0..rounds {
        for (name, library) in order(&opened, round) {
            let line = match operation {
                "get" => library.get(name, load).await?,
                "set" => library.set(name, load).await?,
                _ => bail!("unknown operation '{operation}'"),
            };
            println!("{line}");
        }
    }
    Ok(())
}

impl Library {
    async fn open(name: &str, url: &str, bytes: usize) -> Result<Self> {
        let value = "x".repeat(bytes);
        let library = match name {
            "lockstock" => {
                let store = lockstock::Store::connect(url).await?;
                Self::Lockstock(store.cache::<Bytes>(NAMESPACE).codec(lockstock::Raw))
            }
            "raw" => {
                let client = Client::open(url)?;
                Self::Raw(client.get_multiplexed_async_connection().await?)
            }
            "cached" => {
                let cache = AsyncRedisCache::builder(PREFIX).ttl(TTL);
                let cache = cache.connection_string(url).build().await?;
                Self::Cached(cache.into())
            }
            _ => bail!("unknown library '{name}'"),
        };
        for number in 0..KEYS {
            match &library {
                Self::Lockstock(cache) => {
                    cache.set(key(number), &value.clone().into(), TTL).await?;
                }
                Self::Raw(connection) => {
                    let mut set = cmd("SET");
                    set.arg(format!("{PREFIX}{}", key(number))).arg(&value);
                    set.exec_async(&mut connection.clone()).await?;
                }
                Self::Cached(cache) => {
                    cache.async_cache_set(key(number), value.clone()).await?;
                }
            }
        }
        Ok(library)
    }

    async fn get(&self, name: &str, load: Load) -> Result<String> {
        match self {
            Self::Lockstock(cache) => load.round(name, each(load, || Get(cache.clone()))).await,
            Self::Raw(connection) => {
                load.round(name, each(load, || Get(connection.clone())))
                    .await
            }
            Self::Cached(cache) => load.round(name, each(load, || Get(cache.clone()))).await,
        }
    }

    async fn set(&self, name: &str, load: Load) -> Result<String> {
        let value = "x".repeat(load.bytes);
        let bytes = Bytes::from(value.clone());
        match self {
            Self::Lockstock(cache) => {
                let calls = each(load, || Set(cache.clone(), bytes.clone()));
                load.round(name, calls).await
            }
            Self::Raw(connection) => {
                let calls = each(load, || Set(connection.clone(), bytes.clone()));
                load.round(name, calls).await
            }
            Self::Cached(cache) => {
                let calls = each(load, || Set(cache.clone(), value.clone()));
                load.round(name, calls).await
            }
        }
    }
}

fn each<C>(load: Load, call: impl Fn() -> C) -> Vec<C> {
    (0..load.tasks).map(|_| call()).collect()
}

struct Get<L>(L);
struct Set<L, V>(L, V);

impl Call for Get<lockstock::Cache<Bytes, lockstock::Raw>> {
    async fn call(&mut self, key: &str) -> Result<()> {
        ensure!(self.0.get(key).await?.is_some(), "no value");
        Ok(())
    }
}

impl Call for Set<lockstock::Cache<Bytes, lockstock::Raw>, Bytes> {
    async fn call(&mut self, key: &str) -> Result<()> {
        Ok(self.0.set(key, &self.1, TTL).await?)
    }
}

impl Call for Get<MultiplexedConnection> {
    async fn call(&mut self, key: &str) -> Result<()> {
        let mut get = cmd("GET");
        get.arg(format!("{PREFIX}{key}"));
        let value: Option<Bytes> = get.query_async(&mut self.0).await?;
        ensure!(value.is_some(), "no value");
        Ok(())
    }
}

impl Call for Set<MultiplexedConnection, Bytes> {
    async fn call(&mut self, key: &str) -> Result<()> {
        let mut set = cmd("SET");
        set.arg(format!("{PREFIX}{key}")).arg(&self.1[..]);
        set.arg("PX").arg(3_600_000);
        Ok(set.exec_async(&mut self.0).await?)
    }
}

impl Call for Get<std::sync::Arc<AsyncRedisCache<String, String>>> {
    async fn call(&mut self, key: &str) -> Result<()> {
        let value = self.0.async_cache_get(&key.to_owned()).await?;
        ensure!(value.is_some(), "no value");
        Ok(())
    }
}

impl Call for Set<std::sync::Arc<AsyncRedisCache<String, String>>, String> {
    async fn call(&mut self, key: &str) -> Result<()> {
        self.0
            .async_cache_set(key.to_owned(), self.1.clone())
            .await?;
        Ok(())
    }
}
