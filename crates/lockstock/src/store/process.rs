//! What one process owns of a store that blocking callers use: connections, and the asynchronous
//! store once it is needed.

use std::sync::OnceLock;

use tokio::time::Instant;

use super::background::Background;
use super::builder::Options;
use super::memory::{Apply, Memory};
use super::redis::{self, DirectRedis, OnInterrupt, SingleTarget, WireCommand};
use super::{Backend, Scheme, Store};
use crate::error::{Error, Result};
use crate::runtime;
use crate::token::ClientId;

/// The settings of a store, which a child of `fork` inherits. Immutable.
pub(crate) struct ProcessSettings {
    url: String,
    options: Options,
    on_interrupt: Option<OnInterrupt>,
    kind: Kind,
}

enum Kind {
    Memory,
    /// `None`: sentinels or a Cluster.
    Redis(Option<SingleTarget>),
}

/// A store in one process.
pub(crate) struct ProcessStore {
    client_id: ClientId,
    values: Values,
    /// Opened at the first need: it starts the runtime.
    link: OnceLock<Store>,
}

enum Values {
    Memory(Memory),
    Redis(DirectRedis),
}

impl ProcessSettings {
    pub(crate) fn parse(
        url: String,
        options: Options,
        on_interrupt: Option<OnInterrupt>,
    ) -> Result<Self> {
        let kind = match Scheme::of(&url)? {
            Scheme::Memory => Kind::Memory,
            Scheme::Redis => Kind::Redis(redis::single_target(&url, &options)?),
        };
        Ok(Self {
            url,
            options,
            on_interrupt,
            kind,
        })
    }

    pub(crate) fn is_memory(&self) -> bool {
        matches!(self.kind, Kind::Memory)
    }
}

impl ProcessStore {
    /// Opens no connection and starts no thread.
    pub(crate) fn new(settings: &ProcessSettings) -> Self {
        Self {
            client_id: ClientId::random(),
            values: match &settings.kind {
                Kind::Memory => Values::Memory(Memory::new()),
                Kind::Redis(single) => Values::Redis(DirectRedis::new(
                    single.as_ref(),
                    settings.options.timeout,
                    settings.on_interrupt.clone(),
                )),
            },
            link: OnceLock::new(),
        }
    }

    pub(crate) fn client_id(&self) -> ClientId {
        self.client_id
    }

    /// Executes a command on values.
    pub(crate) fn value<V: Apply + WireCommand>(
        &self,
        settings: &ProcessSettings,
        command: &V,
    ) -> Result<V::Reply> {
        match &self.values {
            Values::Memory(memory) => command.apply(&mut memory.values(), Instant::now()),
            Values::Redis(direct) => {
                // Without the asynchronous store there is neither a near cache nor a computation.
                let _overwriting = self.link.get().map(|link| link.overwrite(command.writes()));
                direct.value(command, || match &self.link(settings)?.inner.backend {
                    Backend::Redis(redis) => Ok(redis.clone()),
                    Backend::Memory(_) => Err(Error::unavailable("the store is in memory")),
                })
            }
        }
    }

    /// Returns the asynchronous store, with the same values and locks.
    pub(crate) fn link(&self, settings: &ProcessSettings) -> Result<&Store> {
        if let Some(link) = self.link.get() {
            return Ok(link);
        }
        let _entered = runtime::enter()?;
        let opened = match &self.values {
            Values::Memory(memory) => Store::new(
                Backend::Memory(memory.clone()),
                Background::new(),
                self.client_id,
            ),
            Values::Redis(_) => {
                Store::open_redis(&settings.url, self.client_id, &settings.options)?
            }
        };
        // If several threads have opened one, the others are dropped, before they have connected.
        Ok(self.link.get_or_init(|| opened))
    }
}
