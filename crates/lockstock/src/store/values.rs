//! Values with a time to live, for [`Cache`](crate::Cache).

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Backend, Store};
use crate::error::Result;

impl Store {
    pub(crate) async fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match &self.inner.backend {
            Backend::Memory(memory) => Ok(memory.values().get(key, Instant::now())),
            Backend::Redis(redis) => redis.get(key).await,
        }
    }

    pub(crate) async fn set(&self, key: &[u8], value: Bytes, ttl: Duration) -> Result<()> {
        match &self.inner.backend {
            Backend::Memory(memory) => {
                memory.values().set(key, &value, ttl, Instant::now());
                Ok(())
            }
            Backend::Redis(redis) => redis.set(key, &value, ttl).await,
        }
    }

    pub(crate) async fn delete(&self, key: &[u8]) -> Result<()> {
        match &self.inner.backend {
            Backend::Memory(memory) => {
                memory.values().delete(key);
                Ok(())
            }
            Backend::Redis(redis) => redis.delete(key).await,
        }
    }
}
