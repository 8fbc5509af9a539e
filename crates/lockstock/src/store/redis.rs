//! The Redis backend: locks (`acquisition.rs`, `holding.rs`), values (`values.rs`, `near.rs`) and
//! the listing (`inspect.rs`).
//!
//! Every operation on a lock is a step of a Lua script. A waiter joins a queue in Redis, and
//! the holder that releases hands the lock over to it, through one channel per client. Of the
//! waiters of one lock only the first of each client is in that queue; the others wait behind
//! it in a local queue (`cohort.rs`). Permits and readers have no local queue.
//!
//! Every operation may be executed twice with the same arguments, so a call whose reply was
//! lost is sent again, and waiters ask again after a disconnect.

mod acquisition;
mod attempt;
mod batch;
mod cohort;
mod command;
mod connection;
mod direct;
mod eviction;
pub(super) mod holding;
mod inspect;
#[cfg(test)]
#[cfg(not(shuttle))]
mod interleaving_tests;
mod near;
mod notifications;
mod operation;
mod replies;
mod scan;
mod script_call;
mod scripts;
mod topics;
mod values;
mod wait;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use self::attempt::Attempt;
use self::batch::{PendingReply, ScriptBatcher};
use self::cohort::LocalQueues;
use self::connection::{Connection, Eval, LuaScript};
use self::notifications::Notifications;
use self::operation::Operation;
use super::background::Background;
use super::builder::Options;
use super::near::NearTables;
use crate::error::Result;
use crate::key::{Keys, LockKind};
use crate::token::ClientId;

pub(crate) use self::connection::ChannelMessages;
pub(super) use self::connection::DirectTarget;
pub(crate) use self::connection::direct::OnInterrupt;
#[cfg(fuzzing)]
pub(crate) use self::connection::direct::check_replies;
pub(crate) use self::direct::locks::Attempted;
pub use self::direct::polled::{LeftCommand, PolledConnection, Settled};
pub(super) use self::direct::{DirectRedis, DirectSettings};
pub(super) use self::scan::Scan;
pub(crate) use self::values::WireCommand;

pub(super) struct Redis {
    connection: Connection,
    batcher: ScriptBatcher,
    timeout: Duration,
    client_id: ClientId,
    notifications: Notifications,
    local_queues: LocalQueues,
    background: Background,
    near: Arc<NearTables>,
    /// Whether a task probes the tracked connections.
    is_probing: Arc<AtomicBool>,
    /// Whether the settings of the servers have been looked at.
    is_checked: AtomicBool,
}

impl Redis {
    /// Opens no connection yet.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub(super) fn open(
        url: &str,
        client_id: ClientId,
        options: &Options,
        background: Background,
    ) -> Result<Self> {
        let timeout = options.timeout;
        let (notifications, forced_releases) = Notifications::new();
        let near = Arc::new(NearTables::new());
        let connection =
            Connection::open(url, client_id, notifications.clone(), near.clone(), options)?;
        Ok(Self {
            batcher: ScriptBatcher::new(connection.clone(), timeout),
            connection,
            timeout,
            client_id,
            local_queues: LocalQueues::new(notifications.clone(), forced_releases, timeout),
            notifications,
            background,
            near,
            is_probing: Arc::default(),
            is_checked: AtomicBool::new(false),
        })
    }

    /// Connects and checks that scripts can write.
    pub(super) async fn connect(&self) -> Result<()> {
        self.connection.connect().await?;
        self.ping().await
    }

    /// Runs a script that writes, rather than `PING`: a client that may not do that cannot
    /// lock.
    pub(super) async fn ping(&self) -> Result<()> {
        let command = |eval: Eval| {
            let mut cmd = eval.command(&scripts::PING);
            cmd.arg(1).arg(format!("lockstock:ping:{}", self.client_id));
            cmd
        };
        let deadline = Instant::now() + self.timeout;
        let reply = self
            .connection
            .run::<bool>(Eval::Sha, command, deadline)
            .await;
        if reply.is_ok() && !self.is_checked.swap(true, Ordering::Relaxed) {
            let check = eviction::warn_of_eviction(self.connection.clone(), self.timeout);
            self.background.spawn(check);
        }
        reply.map(drop)
    }

    /// Submits an operation, which is executed even if the reply is not awaited.
    fn submit(&self, keys: &Arc<Keys>, operation: Operation) -> PendingReply {
        let slot = self.connection.slot(keys);
        self.batcher.submit(
            script(keys.kind, operation),
            slot,
            keys,
            operation,
            Eval::Sha,
        )
    }

    /// Submits an operation on a request, which may have waited on a connection of its own.
    fn submit_for(&self, attempt: &Attempt, operation: Operation, eval: Eval) -> PendingReply {
        let keys = &attempt.request.keys;
        let slot = attempt.listener.clone();
        let slot = slot.unwrap_or_else(|| self.connection.slot(keys));
        self.batcher
            .submit(script(keys.kind, operation), slot, keys, operation, eval)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not derived: the connection contains the password.
        f.write_str("Redis")
    }
}

fn script(kind: LockKind, operation: Operation) -> &'static LuaScript {
    match kind {
        LockKind::Lock if operation.is_rare() => &scripts::LOCKS_RARE,
        LockKind::Lock => &scripts::LOCKS,
        LockKind::Semaphore | LockKind::ReadWrite => &scripts::SHARED,
    }
}
