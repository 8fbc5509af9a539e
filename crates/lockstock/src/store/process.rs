//! Stores for blocking callers, one for each process.

use std::sync::Arc;

use super::background::Background;
use super::builder::Options;
use super::memory::Memory;
use super::redis::{DirectRedis, DirectSettings, DirectTarget, OnInterrupt};
use super::{Backend, Inner, PolledConnection, Scheme, Store};
use crate::error::Result;
use crate::token::ClientId;

/// The settings of a store, which a child of `fork` takes over. Immutable.
pub(crate) struct ProcessSettings(Kind);

enum Kind {
    Memory,
    Redis(Arc<DirectSettings>),
}

impl ProcessSettings {
    pub(crate) fn parse(
        url: String,
        options: Options,
        on_interrupt: Option<OnInterrupt>,
    ) -> Result<Self> {
        Ok(Self(match Scheme::of(&url)? {
            Scheme::Memory => Kind::Memory,
            Scheme::Redis => Kind::Redis(Arc::new(DirectSettings {
                target: DirectTarget::parse(&url, &options)?,
                url,
                options,
                on_interrupt,
            })),
        }))
    }

    pub(crate) fn is_memory(&self) -> bool {
        matches!(self.0, Kind::Memory)
    }
}

impl Store {
    /// Opens a store whose commands on values block, in this process. Opens no connection and starts
    /// no thread.
    pub(crate) fn for_process(settings: &ProcessSettings) -> Self {
        let (background, client_id) = (Background::of_process(), ClientId::random());
        let backend = match &settings.0 {
            Kind::Memory => Backend::Memory(Memory::new()),
            Kind::Redis(settings) => Backend::Direct(Arc::new(DirectRedis::new(
                settings.clone(),
                client_id,
                background.clone(),
            ))),
        };
        Self::new(backend, background, client_id)
    }

    pub(crate) fn close_idle(&self) {
        if let Backend::Direct(direct) = &self.inner.backend {
            direct.close_idle();
        }
    }

    /// Opens a connection that is polled. Blocks. `None`: there is none to this kind of store.
    pub(crate) fn connect_polled<T>(&self) -> Result<Option<PolledConnection<T>>> {
        match &self.inner.backend {
            Backend::Direct(direct) => direct.connect_polled(),
            Backend::Memory(_) | Backend::Redis(_) => Ok(None),
        }
    }

    /// Returns a store whose commands on values do not block, with the same locks and values.
    pub(crate) fn asynchronous(&self) -> Result<Self> {
        let backend = match &self.inner.backend {
            Backend::Memory(memory) => Backend::Memory(memory.clone()),
            Backend::Redis(redis) => Backend::Redis(redis.clone()),
            Backend::Direct(direct) => Backend::Redis(direct.link()?.clone()),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                backend,
                background: self.inner.background.clone(),
                client_id: self.inner.client_id,
                flights: self.inner.flights.clone(),
                bypass: self.inner.bypass.clone(),
            }),
        })
    }
}
