//! Connections to Redis: to a single server, to the master that sentinels name, or to a Cluster.
//!
//! Every call returns or fails within the timeout. A connection that disconnects is opened again by
//! the next call; a connection on which the server stops replying is replaced in the background.

mod cluster;
mod managed;
mod sentinel;
mod tls;
mod url;

use std::borrow::Cow;
use std::sync::Arc;

use futures_util::future::join_all;
use redis::{
    Client, Cmd, ErrorKind, FromRedisValue, Pipeline, PushInfo, RedisResult, Script,
    ServerErrorKind, Value,
};
use tokio::time::{Instant, timeout_at};

use self::cluster::Cluster;
use self::managed::{CallError, Connector, ManagedConnection, PushHandler, Server};
use self::sentinel::{Sentinels, Watch};
use self::url::Endpoints;
use super::notifications::Notifications;
use crate::error::{Error, Result};
use crate::key::Keys;
use crate::redact::redact_url;
use crate::store::builder::Options;
use crate::store::values::batches::SlotOf;
use crate::token::ClientId;

/// The common prefix of the channels of all clients.
const CHANNELS: &str = "lockstock:wake:";

const NO_SCRIPT: ErrorKind = ErrorKind::Server(ServerErrorKind::NoScript);

/// The arguments of scripts that depend on the slot of a lock.
#[derive(Debug)]
pub(super) struct SlotContext {
    /// The key of the highest fence in the slot.
    pub(super) clock: String,
    /// The prefix of the channels on which waiters are notified.
    pub(super) channels: String,
    /// The client's id, as in the names of its channel and its waiters.
    pub(super) client_id: String,
}

/// A script and its SHA-1, by which a server knows it.
#[derive(Debug)]
pub(super) struct LuaScript {
    source: &'static str,
    sha: String,
}

impl LuaScript {
    pub(super) fn new(source: &'static str) -> Self {
        let sha = Script::new(source).get_hash().to_owned();
        Self { source, sha }
    }

    #[cfg(all(test, not(shuttle)))]
    pub(super) fn source(&self) -> &'static str {
        self.source
    }

    #[cfg(all(test, not(shuttle)))]
    pub(super) fn sha(&self) -> &str {
        &self.sha
    }
}

/// How a command refers to its script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eval {
    /// `EVALSHA`, for a server that has the script loaded.
    Sha,
    /// `EVAL`, which loads it.
    Source,
}

impl Eval {
    pub(super) fn command(self, script: &LuaScript) -> Cmd {
        let mut cmd = redis::cmd(match self {
            Self::Sha => "EVALSHA",
            Self::Source => "EVAL",
        });
        cmd.arg(match self {
            Self::Sha => &*script.sha,
            Self::Source => script.source,
        });
        cmd
    }
}

/// The connections of one client. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connection(Arc<Topology>);

enum Topology {
    Single {
        server: ManagedConnection<Server>,
        slot: Arc<SlotContext>,
    },
    Sentinel {
        master: ManagedConnection<Sentinels>,
        slot: Arc<SlotContext>,
        /// Stops the task on drop.
        _watch: Watch,
    },
    Cluster(Cluster),
}

/// The reply of a script.
pub(super) struct ScriptReply<T> {
    pub(super) value: T,
    /// When the command that this reply belongs to was sent.
    pub(super) sent_at: Instant,
    /// Whether an earlier attempt may have run as well.
    pub(super) repeated: bool,
}

impl Connection {
    /// Opens no connection yet.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub(super) fn open(
        url: &str,
        client_id: ClientId,
        notifications: Notifications,
        options: &Options,
    ) -> Result<Self> {
        let timeout = options.timeout;
        #[cfg(feature = "tls")]
        // Fails if the application has installed a provider: then that provider is used.
        let _ = rustls::crypto::ring::default_provider().install_default();

        let address = redact_url(url);
        // A Cluster has a channel for each slot instead.
        let channel = format!("{CHANNELS}{client_id}");
        let slot = Arc::new(SlotContext {
            clock: "lockstock:clock".to_owned(),
            channels: CHANNELS.to_owned(),
            client_id: client_id.to_string(),
        });
        let topology = match Endpoints::parse(url, options)? {
            Endpoints::Single(info) => {
                let connector = Server {
                    client: Client::open(info).map_err(Error::redis)?,
                    channel: Some(channel),
                };
                let handler = Arc::new(notifications);
                let server = ManagedConnection::new(address, connector, handler, timeout);
                Topology::Single { server, slot }
            }
            Endpoints::Sentinel {
                sentinels,
                service,
                servers,
            } => {
                let connector = Sentinels::new(sentinels, service, servers, channel, timeout)?;
                let handler = Arc::new(notifications);
                let master = ManagedConnection::new(address, connector, handler, timeout);
                let _watch = sentinel::watch(&master);
                Topology::Sentinel {
                    master,
                    slot,
                    _watch,
                }
            }
            Endpoints::Cluster { seeds } => Topology::Cluster(Cluster::open(
                address,
                seeds,
                client_id,
                notifications,
                timeout,
            )?),
        };
        Ok(Self(Arc::new(topology)))
    }

    /// Connects, unless there is a connection.
    pub(super) async fn connect(&self) -> Result<()> {
        match &*self.0 {
            Topology::Single { server, .. } => connect(server).await,
            Topology::Sentinel { master, .. } => connect(master).await,
            Topology::Cluster(cluster) => cluster.connect().await,
        }
    }

    pub(super) fn slot(&self, keys: &Keys) -> Arc<SlotContext> {
        match &*self.0 {
            Topology::Single { slot, .. } | Topology::Sentinel { slot, .. } => slot.clone(),
            Topology::Cluster(cluster) => cluster.slot(&keys.holder),
        }
    }

    /// Ensures that notifications about a lock are received.
    ///
    /// Required before each call that adds a waiter to the queue or leaves it there: since the
    /// last call, the subscription may have moved to another server.
    pub(super) async fn ensure_subscribed(&self, keys: &Keys) -> Result<()> {
        match &*self.0 {
            // Subscribed when the connection was opened.
            Topology::Single { .. } | Topology::Sentinel { .. } => Ok(()),
            Topology::Cluster(cluster) => cluster.ensure_subscribed(&keys.holder).await,
        }
    }

    /// Returns a connection to each server that has keys.
    pub(super) async fn servers(&self) -> Result<Vec<ReadConnection>> {
        Ok(match &*self.0 {
            Topology::Single { server, .. } => {
                vec![ReadConnection(ReadTarget::Server(server.clone()))]
            }
            Topology::Sentinel { master, .. } => {
                vec![ReadConnection(ReadTarget::Master(master.clone()))]
            }
            Topology::Cluster(cluster) => {
                let servers = cluster.servers().await?;
                servers
                    .map(|server| ReadConnection(ReadTarget::Server(server)))
                    .collect()
            }
        })
    }

    /// Runs a script until `deadline`. If the connection disconnects during the call, runs it a
    /// second time.
    ///
    /// `eval` is how the script is sent at first. A server that does not know it rejects
    /// [`Eval::Sha`], and the call sends the text. If the server replies after the deadline,
    /// the rejection goes unread: what has to run even then is sent as [`Eval::Source`].
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        eval: Eval,
        command: impl Fn(Eval) -> Cmd,
        deadline: Instant,
    ) -> Result<ScriptReply<T>> {
        let command = |eval| Cow::Owned(command(eval));
        self.attempt(eval, command, true, deadline).await
    }

    /// Sends a command with at least one key, and waits for the reply until `deadline`. If the
    /// connection disconnects during the call and the command is repeatable, sends it a second
    /// time.
    pub(super) async fn send(
        &self,
        command: &Cmd,
        is_repeatable: bool,
        deadline: Instant,
    ) -> Result<Value> {
        let command = |_| Cow::Borrowed(command);
        let reply = self.attempt(Eval::Source, command, is_repeatable, deadline);
        Ok(reply.await?.value)
    }

    /// Sends repeatable commands with at least one key each, and waits for the replies until
    /// `deadline`: in one pipeline, or at the same time to the nodes of a Cluster.
    pub(super) async fn send_all(
        &self,
        commands: Vec<Cmd>,
        deadline: Instant,
    ) -> Vec<Result<Value>> {
        match &*self.0 {
            Topology::Single { server, .. } => send_all(server, commands, deadline).await,
            Topology::Sentinel { master, .. } => send_all(master, commands, deadline).await,
            Topology::Cluster(_) => {
                let send = |command| async move { self.send(&command, true, deadline).await };
                join_all(commands.into_iter().map(send)).await
            }
        }
    }

    /// Returns how a Cluster assigns keys to slots, `None` without slots.
    pub(super) fn slot_of(&self) -> Option<SlotOf> {
        match &*self.0 {
            Topology::Single { .. } | Topology::Sentinel { .. } => None,
            Topology::Cluster(_) => Some(Cluster::slot_of),
        }
    }

    async fn attempt<'a, T: FromRedisValue>(
        &self,
        eval: Eval,
        command: impl Fn(Eval) -> Cow<'a, Cmd>,
        is_repeatable: bool,
        deadline: Instant,
    ) -> Result<ScriptReply<T>> {
        match &*self.0 {
            Topology::Single { server, .. } => {
                attempt(server, eval, command, is_repeatable, deadline).await
            }
            Topology::Sentinel { master, .. } => {
                attempt(master, eval, command, is_repeatable, deadline).await
            }
            Topology::Cluster(cluster) => {
                cluster
                    .attempt(eval, command, is_repeatable, deadline)
                    .await
            }
        }
    }
}

async fn connect(managed: &ManagedConnection<impl Connector>) -> Result<()> {
    let opened = managed.get().await;
    opened.map(drop).map_err(|error| managed.error(error))
}

async fn attempt<'a, T: FromRedisValue>(
    managed: &ManagedConnection<impl Connector>,
    eval: Eval,
    command: impl Fn(Eval) -> Cow<'a, Cmd>,
    is_repeatable: bool,
    deadline: Instant,
) -> Result<ScriptReply<T>> {
    let attempts = async {
        let (mut repeated, mut was_read_only) = (false, false);
        let mut cmd = command(eval);
        loop {
            let mut open = managed.get().await?;
            let sent_at = Instant::now();
            let error = match cmd.query_async(&mut open.connection).await {
                Ok(value) => {
                    return Ok(ScriptReply {
                        value,
                        sent_at,
                        repeated,
                    });
                }
                Err(error) => error,
            };
            match managed.classify(&open, error) {
                // The server has not seen the script yet, or has restarted.
                CallError::Rejected(error) if error.kind() == NO_SCRIPT => {
                    cmd = command(Eval::Source)
                }
                // The connection may have been dead for hours, so a new one deserves a try.
                CallError::Broken(_) if is_repeatable && !repeated => repeated = true,
                // The server is a replica now. The new master has the same address.
                CallError::Rejected(error)
                    if error.kind() == ServerErrorKind::ReadOnly.into() && !was_read_only =>
                {
                    was_read_only = true;
                    managed.close(&open);
                }
                error => return Err(error),
            }
        }
    };
    in_time(managed, timeout_at(deadline, attempts).await.ok())
}

/// A connection to one server, for reading.
pub(super) struct ReadConnection(ReadTarget);

enum ReadTarget {
    Server(ManagedConnection<Server>),
    Master(ManagedConnection<Sentinels>),
}

impl ReadConnection {
    /// Sends read-only commands in one pipeline and waits for the replies until `deadline`. If
    /// the connection disconnects during the call, sends them a second time. The result of a rejected
    /// command is its error.
    pub(super) async fn read<T: FromRedisValue>(
        &self,
        commands: &mut Pipeline,
        deadline: Instant,
    ) -> Result<Vec<RedisResult<T>>> {
        commands.ignore_errors();
        match &self.0 {
            ReadTarget::Server(managed) => send_pipeline(managed, commands, deadline).await,
            ReadTarget::Master(managed) => send_pipeline(managed, commands, deadline).await,
        }
    }
}

async fn send_all(
    managed: &ManagedConnection<impl Connector>,
    commands: Vec<Cmd>,
    deadline: Instant,
) -> Vec<Result<Value>> {
    let count = commands.len();
    let mut pipeline = Pipeline::with_capacity(count);
    for command in commands {
        pipeline.add_command(command);
    }
    pipeline.ignore_errors();
    match send_pipeline(managed, &pipeline, deadline).await {
        Ok(replies) => {
            let replies = replies.into_iter();
            replies.map(|reply| reply.map_err(Error::redis)).collect()
        }
        Err(error) => vec![Err(error); count],
    }
}

async fn send_pipeline<T: FromRedisValue>(
    managed: &ManagedConnection<impl Connector>,
    commands: &Pipeline,
    deadline: Instant,
) -> Result<Vec<RedisResult<T>>> {
    let is_read_only = |reply: &RedisResult<T>| {
        let error = reply.as_ref().err();
        error.is_some_and(|error| error.kind() == ServerErrorKind::ReadOnly.into())
    };
    let attempts = async {
        let (mut repeated, mut was_read_only) = (false, false);
        loop {
            let mut open = managed.get().await?;
            match commands.query_async::<Vec<_>>(&mut open.connection).await {
                // As in `attempt`: the new master has the same address.
                Ok(replies) if !was_read_only && replies.iter().any(is_read_only) => {
                    was_read_only = true;
                    managed.close(&open);
                }
                Ok(replies) => return Ok(replies),
                Err(error) => match managed.classify(&open, error) {
                    CallError::Broken(_) if !repeated => repeated = true,
                    error => return Err(error),
                },
            }
        }
    };
    in_time(managed, timeout_at(deadline, attempts).await.ok())
}

/// Converts the result of a call. `None`: the call has timed out, so the connection is checked.
fn in_time<T>(
    managed: &ManagedConnection<impl Connector>,
    result: Option<std::result::Result<T, CallError>>,
) -> Result<T> {
    result.unwrap_or(Err(CallError::TimedOut)).map_err(|error| {
        if matches!(error, CallError::TimedOut) {
            managed.check_health();
        }
        managed.error(error)
    })
}

impl PushHandler for Notifications {
    fn pushed(&self, push: &PushInfo) {
        Notifications::pushed(self, push);
    }

    fn disconnected(&self) {
        self.disconnected();
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
