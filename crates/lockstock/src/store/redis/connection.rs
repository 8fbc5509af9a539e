//! Connections to Redis: to a single server, to the master that sentinels name, or to a Cluster.
//!
//! Every call returns or fails within the timeout. A connection that disconnects is opened again by
//! the next call; a connection on which the server stops replying is replaced in the background.

mod attempt;
mod bounded;
mod breaker;
mod channel;
mod cluster;
pub(in crate::store) mod direct;
mod gatherer;
mod managed;
mod multiplexed;
mod pipeline;
mod pushes;
mod script;
mod sentinel;
mod tls;
mod tracked;
mod url;

use std::borrow::Cow;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, ConnectionInfo, ErrorKind, FromRedisValue, ServerErrorKind, Value};
use tokio::time::Instant;

use self::attempt::{Attempt, attempt};
use self::breaker::Breaker;
pub(crate) use self::channel::ChannelMessages;
use self::cluster::Cluster;
use self::direct::{Pool, Target};
use self::managed::{Admission, Connector, ManagedConnection, Purpose, Server};
pub(super) use self::pipeline::ReadConnection;
use self::pipeline::send_all;
use self::pushes::CommandPushes;
pub(super) use self::script::{Eval, LuaScript};
use self::sentinel::{Sentinels, Watch};
use self::tls::{Certificates, ClientTls};
pub(super) use self::tracked::TrackedRead;
use self::tracked::{Probe, TrackedConnection};
use self::url::Endpoints;
use super::notifications::Notifications;
use crate::error::Result;
use crate::key::Keys;
use crate::redact::redact_url;
use crate::store::builder::Options;
use crate::store::near::NearTables;
use crate::store::values::batches::SlotOf;
use crate::token::ClientId;

/// The common prefix of the channels of all clients.
const CHANNELS: &str = "lockstock:wake:";

pub(super) const NO_SCRIPT: ErrorKind = ErrorKind::Server(ServerErrorKind::NoScript);

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

impl SlotContext {
    /// Returns the context of all locks of a store without slots.
    pub(super) fn without_slots(client_id: ClientId) -> Self {
        Self {
            clock: "lockstock:clock".to_owned(),
            channels: CHANNELS.to_owned(),
            client_id: client_id.to_string(),
        }
    }

    /// Returns the context of the requests that wait on a connection of their own, of a client without
    /// slots. The name of such a connection begins with the client, and is longer: digits of the number.
    pub(super) fn of_listener(client_id: ClientId, number: u32) -> Self {
        Self {
            client_id: format!("{client_id}{number:x}"),
            ..Self::without_slots(client_id)
        }
    }
}

/// The connections of one client. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connection(Arc<Topology>);

/// A reference to connections that does not keep them open.
pub(super) struct WeakConnection(Weak<Topology>);

impl WeakConnection {
    pub(super) fn upgrade(&self) -> Option<Connection> {
        self.0.upgrade().map(Connection)
    }
}

enum Topology {
    Single {
        server: ManagedConnection<Server>,
        tracked: TrackedConnection<Server>,
        slot: Arc<SlotContext>,
    },
    Sentinel {
        master: ManagedConnection<Sentinels>,
        tracked: TrackedConnection<Sentinels>,
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
        near: Arc<NearTables>,
        options: &Options,
    ) -> Result<Self> {
        let timeout = options.timeout;
        #[cfg(feature = "tls")]
        // Fails if the application has installed a provider: then that provider is used. A child must
        // not inherit it half installed.
        let _ = lockstock_fork::without_fork(|| {
            rustls::crypto::ring::default_provider().install_default()
        });

        let address = redact_url(url);
        // A Cluster has a channel for each slot instead.
        let channel = format!("{CHANNELS}{client_id}");
        let slot = Arc::new(SlotContext::without_slots(client_id));
        let (endpoints, certificates) = Endpoints::parse(url, options)?;
        let tls = Arc::new(ClientTls::new(certificates));
        let topology = match endpoints {
            Endpoints::Single(info) => {
                let target = Target { info, tls };
                let tracking = Server {
                    target: target.clone(),
                    purpose: Purpose::Tracking,
                };
                let breaker = Arc::new(Breaker::new(address.clone()));
                let tracked = TrackedConnection::new(
                    address.clone(),
                    tracking,
                    near,
                    timeout,
                    breaker.clone(),
                );
                let connector = Server {
                    target,
                    purpose: Purpose::Messages(channel),
                };
                let handler = CommandPushes::new(notifications, &tracked);
                let server = ManagedConnection::new(address, connector, handler, timeout, breaker);
                Topology::Single {
                    server,
                    tracked,
                    slot,
                }
            }
            Endpoints::Sentinel {
                sentinels,
                service,
                servers,
            } => {
                let servers = Target { info: servers, tls };
                let connector = |purpose| {
                    let (sentinels, servers) = (sentinels.clone(), servers.clone());
                    Sentinels::new(sentinels, service.clone(), servers, purpose, timeout)
                };
                let tracking = connector(Purpose::Tracking);
                let breaker = Arc::new(Breaker::new(address.clone()));
                let tracked = TrackedConnection::new(
                    address.clone(),
                    tracking,
                    near,
                    timeout,
                    breaker.clone(),
                );
                let connector = connector(Purpose::Messages(channel));
                let handler = CommandPushes::new(notifications, &tracked);
                let master = ManagedConnection::new(address, connector, handler, timeout, breaker);
                let _watch = sentinel::watch(&[&master, tracked.managed()]);
                Topology::Sentinel {
                    master,
                    tracked,
                    slot,
                    _watch,
                }
            }
            Endpoints::Cluster { seeds } => Topology::Cluster(Cluster::open(
                address,
                seeds,
                tls,
                client_id,
                notifications,
                near,
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

    /// Returns the blocking connections to the server for a command with a key, as far as that
    /// server is known. `None` for a single server, whose address needs no lookup: see
    /// [`DirectTarget`].
    pub(super) fn direct(&self, command: &Cmd) -> Option<Arc<Pool>> {
        match &*self.0 {
            Topology::Single { .. } => None,
            Topology::Sentinel { master, .. } => master.server(|master| master.direct.clone()),
            Topology::Cluster(cluster) => cluster.direct(command),
        }
    }

    /// Returns a connection to each server that has keys.
    pub(super) async fn servers(&self) -> Result<Vec<ReadConnection>> {
        Ok(match &*self.0 {
            Topology::Single { server, .. } => {
                vec![ReadConnection::to_server(server.clone())]
            }
            Topology::Sentinel { master, .. } => {
                vec![ReadConnection::to_master(master.clone())]
            }
            Topology::Cluster(cluster) => {
                let servers = cluster.servers().await?;
                servers.map(ReadConnection::to_server).collect()
            }
        })
    }

    /// Runs a script until `deadline`. If the connection disconnects during the call, runs it a
    /// second time.
    ///
    /// `eval` is how the script is sent at first. A server that does not know it rejects
    /// [`Eval::Sha`], and the call sends the text. If the server replies after the deadline,
    /// the rejection goes unread: what has to run even then is sent as [`Eval::Source`], and also
    /// while other calls fail because the server does not reply.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        eval: Eval,
        command: impl Fn(Eval) -> Cmd,
        deadline: Instant,
    ) -> Result<ScriptReply<T>> {
        let attempt = Attempt {
            eval,
            admission: match eval {
                Eval::Sha => Admission::UnlessSilent,
                Eval::Source => Admission::Always,
            },
            is_repeatable: true,
            is_gathered: false,
            deadline,
        };
        let command = |eval| Cow::Owned(command(eval));
        self.attempt(attempt, command).await
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
        let attempt = Attempt {
            eval: Eval::Source,
            admission: Admission::UnlessSilent,
            is_repeatable,
            is_gathered: true,
            deadline,
        };
        let command = |_| Cow::Borrowed(command);
        Ok(self.attempt(attempt, command).await?.value)
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

    /// Subscribes to a channel, on a connection of its own.
    pub(super) async fn messages_of(&self, channel: &str) -> Result<ChannelMessages> {
        let purpose = |is_sharded| Purpose::Channel {
            name: channel.to_owned(),
            is_sharded,
        };
        match &*self.0 {
            Topology::Single { server, .. } => {
                let connector = server.connector().with_purpose(purpose(false));
                let (address, timeout) = (server.address(), server.timeout());
                let messages = ChannelMessages::of_server(address, connector, timeout).await;
                messages.map_err(|error| server.error(error))
            }
            Topology::Sentinel { master, .. } => {
                let connector = master.connector().with_purpose(purpose(false));
                let (address, timeout) = (master.address(), master.timeout());
                let messages = ChannelMessages::of_master(address, connector, timeout).await;
                messages.map_err(|error| master.error(error))
            }
            Topology::Cluster(cluster) => {
                let server = cluster.node_of(channel.as_bytes()).await?;
                let connector = server.connector().with_purpose(purpose(true));
                let (address, timeout) = (server.address(), server.timeout());
                let messages = ChannelMessages::of_server(address, connector, timeout).await;
                messages.map_err(|error| {
                    // The slot may have moved.
                    cluster.refresh_soon();
                    server.error(error)
                })
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

    /// Returns the number of the database. A Cluster has one.
    pub(super) fn database(&self) -> i64 {
        match &*self.0 {
            Topology::Single { server, .. } => server.connector().database(),
            Topology::Sentinel { master, .. } => master.connector().database(),
            Topology::Cluster(_) => 0,
        }
    }

    /// Reads a value on a tracked connection, until `deadline`.
    pub(super) async fn read_tracked(&self, key: &[u8], deadline: Instant) -> Result<TrackedRead> {
        match &*self.0 {
            Topology::Single { tracked, .. } => tracked.read(key, deadline).await,
            Topology::Sentinel {
                master, tracked, ..
            } => {
                // Opened before a failover of which the connection of the commands knows.
                let leads_elsewhere = master.server(|master| {
                    let tracked = tracked.managed();
                    tracked.server(|other| !other.is_at(master)) == Some(true)
                });
                if leads_elsewhere == Some(true) {
                    tracked.managed().close_current();
                    return Ok(TrackedRead::Nothing);
                }
                tracked.read(key, deadline).await
            }
            Topology::Cluster(cluster) => cluster.read_tracked(key, deadline).await,
        }
    }

    /// Closes each tracked connection whose server does not reply within `limit`, or no longer
    /// decides about its values.
    pub(super) async fn probe_tracked(&self, limit: Duration) {
        match &*self.0 {
            Topology::Single { tracked, .. } => tracked.probe(Some(&Probe::Alive), limit).await,
            Topology::Sentinel { tracked, .. } => tracked.probe(Some(&Probe::Master), limit).await,
            Topology::Cluster(cluster) => cluster.probe_tracked(limit).await,
        }
    }

    /// Records that the server of a command has not replied since `sent_at` on a blocking connection.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub(super) fn suspect(&self, command: &Cmd, sent_at: std::time::Instant) {
        let sent_at = Instant::from_std(sent_at);
        match &*self.0 {
            Topology::Single { server, .. } => server.suspect(sent_at),
            Topology::Sentinel { master, .. } => master.suspect(sent_at),
            Topology::Cluster(cluster) => cluster.suspect(command, sent_at),
        }
    }

    pub(super) fn close_tracked(&self) {
        match &*self.0 {
            Topology::Single { tracked, .. } => tracked.managed().close_current(),
            Topology::Sentinel { tracked, .. } => tracked.managed().close_current(),
            Topology::Cluster(cluster) => cluster.close_tracked(),
        }
    }

    /// Returns a reference that does not keep the connections open.
    pub(super) fn downgrade(&self) -> WeakConnection {
        WeakConnection(Arc::downgrade(&self.0))
    }

    async fn attempt<'a, T: FromRedisValue>(
        &self,
        settings: Attempt,
        command: impl Fn(Eval) -> Cow<'a, Cmd>,
    ) -> Result<ScriptReply<T>> {
        match &*self.0 {
            Topology::Single { server, .. } => attempt(server, settings, command).await,
            Topology::Sentinel { master, .. } => attempt(master, settings, command).await,
            Topology::Cluster(cluster) => cluster.attempt(settings, command).await,
        }
    }
}

/// Where the blocking connections of a URL lead.
#[derive(Clone)]
pub(in crate::store) enum DirectTarget {
    Single {
        info: Box<ConnectionInfo>,
        certificates: Certificates,
    },
    /// To the master that the sentinels of the asynchronous connection name.
    Master,
    /// To the node of a key, by the slot map of the asynchronous connection.
    Node,
}

impl DirectTarget {
    pub(in crate::store) fn parse(url: &str, options: &Options) -> Result<Self> {
        Ok(match Endpoints::parse(url, options)? {
            (Endpoints::Single(info), certificates) => Self::Single {
                info: info.into(),
                certificates,
            },
            (Endpoints::Sentinel { .. }, _) => Self::Master,
            (Endpoints::Cluster { .. }, _) => Self::Node,
        })
    }

    /// Returns the connections to the only server, if there is only one. Opens none yet.
    pub(in crate::store) fn pool(&self) -> Option<Pool> {
        match self {
            Self::Single { info, certificates } => Some(Pool::new(Target {
                info: (**info).clone(),
                tls: ClientTls::new(certificates.clone()).into(),
            })),
            Self::Master | Self::Node => None,
        }
    }

    pub(in crate::store) fn slot_of(&self) -> Option<SlotOf> {
        match self {
            Self::Single { .. } | Self::Master => None,
            Self::Node => Some(Cluster::slot_of),
        }
    }
}

async fn connect(managed: &ManagedConnection<impl Connector>) -> Result<()> {
    let opened = managed.get().await;
    opened.map(drop).map_err(|error| managed.error(error))
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
