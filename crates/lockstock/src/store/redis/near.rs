//! Reads for near caches: over a tracked connection, which pushes an invalidation when the value
//! changes.
//!
//! While near caches are in use, every tracked connection is probed periodically: a server that
//! stands still or has become unreachable sends no invalidation, and breaks no connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::Redis;
use super::connection::{Connection, TrackedRead, WeakConnection};
use crate::cache::{DEFAULT_MAX_STALENESS, NearCache};
use crate::error::Result;
use crate::store::near::{NearTable, NearTables, Overwriting, Pulse, Written};
use crate::store::values::Get;

/// The pause between two rounds of probes.
const PROBE_INTERVAL: Duration = Duration::from_millis(400);
/// How long a round waits for a reply. With the pause before it shorter than the default bound, so
/// that a server that does not reply costs the copies of other servers no time.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

const _: () = assert!(
    PROBE_INTERVAL.as_millis() + PROBE_TIMEOUT.as_millis() < DEFAULT_MAX_STALENESS.as_millis()
);

impl Redis {
    /// Opens a near cache, which is emptied by the invalidations of this store.
    pub(in crate::store) fn open_near(&self, settings: &NearCache) -> Arc<NearTable> {
        self.near.open(settings)
    }

    /// Drops the copies of `keys`, now and when the guard is dropped.
    pub(in crate::store) fn overwrite<'a>(&'a self, keys: Written<'a>) -> Overwriting<'a> {
        self.near.overwrite(keys)
    }

    /// Reads the value under `key`, and copies it to `table`.
    pub(in crate::store) async fn read_near(
        &self,
        table: &NearTable,
        key: Vec<u8>,
    ) -> Result<Option<Bytes>> {
        self.ensure_probing();
        let deadline = Instant::now() + self.timeout;
        let ticket = table.ticket(&key);
        match self.connection.read_tracked(&key, deadline).await? {
            TrackedRead::Value(value, remaining) => {
                table.add(&ticket, key, value.clone(), remaining);
                Ok(value)
            }
            TrackedRead::Changing(value) => Ok(value),
            TrackedRead::Nothing => {
                let get = Get { key };
                let value = self.value_until(&get, deadline).await;
                // A read that is still on its way may have an earlier value, which must not be
                // returned after this one.
                table.invalidate(&get.key);
                value
            }
        }
    }

    fn ensure_probing(&self) {
        if !self.is_probing.swap(true, Ordering::SeqCst) {
            let task = Probing {
                connection: self.connection.downgrade(),
                near: self.near.clone(),
                is_probing: self.is_probing.clone(),
            };
            self.background.spawn(task.run());
        }
    }
}

/// Probes the tracked connections until the store or its last near cache is dropped.
struct Probing {
    connection: WeakConnection,
    near: Arc<NearTables>,
    is_probing: Arc<AtomicBool>,
}

impl Probing {
    async fn run(self) {
        while let Some(connection) = self.connection.upgrade() {
            if !self.near.is_in_use() {
                connection.close_tracked();
                return;
            }
            self.round(&connection).await;
            drop(connection);
            sleep(PROBE_INTERVAL).await;
        }
    }

    async fn round(&self, connection: &Connection) {
        let round = Pulse::begin_round();
        connection.probe_tracked(PROBE_TIMEOUT).await;
        // A connection that did not reply is closed now, and the copies are gone. One that was
        // opened meanwhile has replied to each read that was copied.
        self.near.pulse().complete_round(round);
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        // The next read starts another task, also if the runtime dropped this one.
        self.is_probing.store(false, Ordering::SeqCst);
    }
}
