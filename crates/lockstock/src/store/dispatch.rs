//! Commands on values, carried out by the backend of a store.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::memory::Apply;
use super::near::{NearTable, Overwriting, Written};
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

    /// Prepares for a command that another way to Redis carries out: ends the sharing of computed
    /// values, and drops copies, now and when the guard is dropped.
    pub(crate) fn overwrite<'a>(&'a self, keys: Written<'a>) -> Option<Overwriting<'a>> {
        match keys {
            Written::Nothing => {}
            Written::Key(key) => self.flights().supersede(key),
            Written::Keys(keys) => keys.iter().for_each(|key| self.flights().supersede(key)),
        }
        match &self.inner.backend {
            Backend::Memory(_) => None,
            Backend::Redis(redis) => Some(redis.overwrite(keys)),
        }
    }

    /// Opens a near cache, `None` if the values are in the memory of this process anyway.
    pub(crate) fn open_near(&self, settings: &NearCache) -> Option<Arc<NearTable>> {
        match &self.inner.backend {
            Backend::Memory(_) => None,
            Backend::Redis(redis) => Some(redis.open_near(settings)),
        }
    }

    /// Reads a value of which `table` has no copy, and adds one.
    pub(crate) async fn read_near(&self, table: &NearTable, key: Vec<u8>) -> Result<Option<Bytes>> {
        match &self.inner.backend {
            Backend::Memory(_) => self.value(&Get { key }).await,
            Backend::Redis(redis) => redis.read_near(table, key).await,
        }
    }

    /// Returns how keys are assigned to slots, `None` if the store has no slots.
    pub(crate) fn slot_of(&self) -> Option<SlotOf> {
        match &self.inner.backend {
            Backend::Memory(_) => None,
            Backend::Redis(redis) => redis.slot_of(),
        }
    }
}
