//! Commands on values, carried out by the backend of a store.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::memory::Apply;
use super::near::NearTable;
use super::redis::WireCommand;
use super::values::batches::{self, KeyBatch, SlotOf};
use super::values::{Delete, Get, GetMany};
use super::{Backend, Store};
use crate::cache::NearCache;
use crate::error::Result;

impl Store {
    /// Executes a command on values.
    pub(crate) async fn value<V: Apply + WireCommand>(&self, command: &V) -> Result<V::Reply> {
        match &self.inner.backend {
            Backend::Memory(memory) => command.apply(&mut memory.values(), Instant::now()),
            Backend::Redis(redis) => redis.value(command).await,
            Backend::Direct(direct) => direct.value(command).await,
        }
    }

    /// Executes repeatable commands on values of any slots, without a round trip for each. Fails
    /// if one of them fails, after all others were tried.
    pub(crate) async fn values<V: Apply + WireCommand>(
        &self,
        commands: &[V],
    ) -> Result<Vec<V::Reply>> {
        match &self.inner.backend {
            Backend::Memory(memory) => {
                let apply = |command: &V| command.apply(&mut memory.values(), Instant::now());
                commands.iter().map(apply).collect()
            }
            Backend::Redis(redis) => redis.values(commands).await,
            Backend::Direct(direct) => direct.values(commands).await,
        }
    }

    /// Returns the values under keys of any slots, in order.
    pub(crate) async fn get_values(&self, keys: Vec<Vec<u8>>) -> Result<Vec<Option<Bytes>>> {
        let (positions, gets): (Vec<_>, Vec<_>) = batches::split(keys, self.slot_of())
            .into_iter()
            .map(
                |KeyBatch {
                     keys, positions, ..
                 }| (positions, GetMany { keys }),
            )
            .unzip();
        Ok(batches::merge(&positions, self.values(&gets).await?))
    }

    /// Removes the values under keys of any slots. Returns their number.
    pub(crate) async fn delete_values(&self, keys: Vec<Vec<u8>>) -> Result<u64> {
        let deletes = batches::split(keys, self.slot_of())
            .into_iter()
            .map(|KeyBatch { keys, .. }| Delete { keys })
            .collect::<Vec<_>>();
        Ok(self.values(&deletes).await?.into_iter().sum())
    }

    /// Opens a near cache, `None` if the values are in the memory of this process anyway.
    pub(crate) fn open_near(&self, settings: &NearCache) -> Option<Arc<NearTable>> {
        match &self.inner.backend {
            Backend::Memory(_) => None,
            Backend::Redis(redis) => Some(redis.open_near(settings)),
            // Without a runtime there are no copies.
            Backend::Direct(direct) => Some(direct.link().ok()?.open_near(settings)),
        }
    }

    /// Reads a value of which `table` has no copy, and adds one.
    pub(crate) async fn read_near(
        &self,
        table: &Arc<NearTable>,
        key: Vec<u8>,
    ) -> Result<Option<Bytes>> {
        match &self.inner.backend {
            Backend::Memory(_) => self.value(&Get { key }).await,
            Backend::Redis(redis) => redis.read_near(table, key).await,
            Backend::Direct(direct) => direct.read_near(table.clone(), key).await,
        }
    }

    /// Returns how keys are assigned to slots, `None` if the store has no slots.
    pub(crate) fn slot_of(&self) -> Option<SlotOf> {
        match &self.inner.backend {
            Backend::Memory(_) => None,
            Backend::Redis(redis) => redis.slot_of(),
            Backend::Direct(direct) => direct.slot_of(),
        }
    }
}
