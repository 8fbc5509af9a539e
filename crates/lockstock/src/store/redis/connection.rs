//! The way to Redis: to one server, to the one that sentinels call the master, or to a
//! Cluster. Scripts go out, and what is pushed comes in.
//!
//! Bounded: a call is answered or fails within the timeout. A connection that breaks is made
//! anew by the next call; one that falls silent is replaced in the background.

mod cluster;
mod managed;
mod sentinel;
mod url;

use std::sync::Arc;
use std::time::Duration;

use redis::{
    Client, Cmd, ErrorKind, FromRedisValue, Pipeline, PushInfo, RedisResult, Script,
    ServerErrorKind,
};
use tokio::time::{Instant, timeout_at};

use self::cluster::Cluster;
use self::managed::{CallError, Connector, ManagedConnection, PushHandler, Server};
use self::sentinel::{Sentinels, Watch};
use self::url::Address;
use super::notifications::Notifications;
use crate::error::Result;
use crate::key::Keys;
use crate::redact::redact_url;
use crate::token::ClientId;

/// What the channels of all processes begin with.
const CHANNELS: &str = "lockstock:wake:";

const NO_SCRIPT: ErrorKind = ErrorKind::Server(ServerErrorKind::NoScript);

/// What the scripts have to know of where a lock is.
#[derive(Debug)]
pub(super) struct SlotContext {
    /// The key of the highest fence there.
    pub(super) clock: String,
    /// What the channels begin with on which waiters are told.
    pub(super) channels: String,
    /// This process, as its channel and its waiters name it.
    pub(super) process: String,
}

/// A script, and the hash that a server knows it by.
#[derive(Debug)]
pub(super) struct LuaScript {
    text: &'static str,
    hash: String,
}

impl LuaScript {
    pub(super) fn new(text: &'static str) -> Self {
        let hash = Script::new(text).get_hash().to_owned();
        Self { text, hash }
    }
}

/// How a script is named.
#[derive(Debug, Clone, Copy)]
pub(super) enum Eval {
    /// For a server that knows it.
    Sha,
    Source,
}

impl Eval {
    pub(super) fn command(self, script: &LuaScript) -> Cmd {
        let mut cmd = redis::cmd(match self {
            Self::Sha => "EVALSHA",
            Self::Source => "EVAL",
        });
        cmd.arg(match self {
            Self::Sha => &*script.hash,
            Self::Source => script.text,
        });
        cmd
    }
}

#[derive(Clone)]
pub(super) struct Connection(Arc<Topology>);

enum Topology {
    Single(ManagedConnection<Server>, Arc<SlotContext>),
    Sentinel {
        link: ManagedConnection<Sentinels>,
        slot: Arc<SlotContext>,
        /// Ends with us.
        _watch: Watch,
    },
    Cluster(Cluster),
}

/// A script that ran.
pub(super) struct ScriptReply<T> {
    pub(super) answer: T,
    /// When the attempt that was answered was begun.
    pub(super) begun: Instant,
    /// An attempt before it may have run as well.
    pub(super) repeated: bool,
}

impl Connection {
    pub(super) async fn connect(
        url: &str,
        process: ClientId,
        wakes: Notifications,
        limit: Duration,
    ) -> Result<Self> {
        #[cfg(feature = "tls")]
        // Fails when the application has chosen a provider already: theirs is used then.
        let _ = rustls::crypto::ring::default_provider().install_default();

        let place = redact_url(url);
        // Where one server, or a master, pushes to.
        let channel = format!("{CHANNELS}{process}");
        let slot = Arc::new(SlotContext {
            clock: "lockstock:clock".to_owned(),
            channels: CHANNELS.to_owned(),
            process: process.to_string(),
        });
        let way = match Address::parse(url)? {
            Address::Single(info) => {
                let opens = Server {
                    client: Client::open(info)?,
                    channel: Some(channel),
                };
                let link = ManagedConnection::new(place, opens, Arc::new(wakes), limit);
                link.line().await.map_err(|trouble| link.error(trouble))?;
                Topology::Single(link, slot)
            }
            Address::Sentinel {
                sentinels,
                service,
                servers,
            } => {
                let opens = Sentinels::new(sentinels, service, servers, channel, limit)?;
                let link = ManagedConnection::new(place, opens, Arc::new(wakes), limit);
                link.line().await.map_err(|trouble| link.error(trouble))?;
                let _watch = sentinel::watch(&link);
                Topology::Sentinel { link, slot, _watch }
            }
            Address::Cluster { seeds } => {
                Topology::Cluster(Cluster::connect(place, seeds, process, wakes, limit).await?)
            }
        };
        Ok(Self(Arc::new(way)))
    }

    /// Where a lock is.
    pub(super) fn slot(&self, keys: &Keys) -> Arc<SlotContext> {
        match &*self.0 {
            Topology::Single(_, slot) | Topology::Sentinel { slot, .. } => slot.clone(),
            Topology::Cluster(cluster) => cluster.slot(&keys.holder),
        }
    }

    /// Makes sure that what scripts push about a lock is heard.
    ///
    /// Before each question that puts a waiter into the queue or leaves it there: what was
    /// listened to may have moved to another server since.
    pub(super) async fn hear(&self, keys: &Keys) -> Result<()> {
        match &*self.0 {
            // Listened to since the connection was opened.
            Topology::Single(..) | Topology::Sentinel { .. } => Ok(()),
            Topology::Cluster(cluster) => cluster.hear(&keys.holder).await,
        }
    }

    /// Each of the servers that have keys.
    pub(super) fn servers(&self) -> Vec<ReadConnection> {
        match &*self.0 {
            Topology::Single(link, _) => vec![ReadConnection(ReadTarget::Server(link.clone()))],
            Topology::Sentinel { link, .. } => {
                vec![ReadConnection(ReadTarget::Master(link.clone()))]
            }
            Topology::Cluster(cluster) => {
                let links = cluster.links();
                links
                    .map(|link| ReadConnection(ReadTarget::Server(link)))
                    .collect()
            }
        }
    }

    /// Runs a script, or a plain command of one key; a second time if the connection broke
    /// under it. Not waited for beyond `until`.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        command: impl Fn(Eval) -> Cmd,
        until: Instant,
    ) -> Result<ScriptReply<T>> {
        match &*self.0 {
            Topology::Single(link, _) => run(link, command, until).await,
            Topology::Sentinel { link, .. } => run(link, command, until).await,
            Topology::Cluster(cluster) => cluster.run(command, until).await,
        }
    }
}

async fn run<T: FromRedisValue>(
    link: &ManagedConnection<impl Connector>,
    command: impl Fn(Eval) -> Cmd,
    until: Instant,
) -> Result<ScriptReply<T>> {
    let attempts = async {
        let (mut repeated, mut turned_away) = (false, false);
        let mut asked = command(Eval::Sha);
        loop {
            let mut line = link.line().await?;
            let begun = Instant::now();
            let error = match asked.query_async(&mut line.connection).await {
                Ok(answer) => {
                    return Ok(ScriptReply {
                        answer,
                        begun,
                        repeated,
                    });
                }
                Err(error) => error,
            };
            match link.trouble(&line, error) {
                // New to that server, or it has been restarted.
                CallError::Refused(error) if error.kind() == NO_SCRIPT => {
                    asked = command(Eval::Source)
                }
                // The connection that just failed may have been dead for hours: the one that
                // takes its place deserves a try.
                CallError::Broken(_) if !repeated => repeated = true,
                // A master no more: whoever is now has the same name.
                CallError::Refused(error)
                    if error.kind() == ServerErrorKind::ReadOnly.into() && !turned_away =>
                {
                    turned_away = true;
                    link.close(&line);
                }
                trouble => return Err(trouble),
            }
        }
    };
    answered(link, timeout_at(until, attempts).await.ok())
}

/// One of the servers, for reading.
pub(super) struct ReadConnection(ReadTarget);

enum ReadTarget {
    Server(ManagedConnection<Server>),
    Master(ManagedConnection<Sentinels>),
}

impl ReadConnection {
    /// Sends commands that only read in one go, a second time if the connection broke under
    /// them. That one of them is refused is its own answer. Not waited for beyond `until`.
    pub(super) async fn read<T: FromRedisValue>(
        &self,
        commands: &mut Pipeline,
        until: Instant,
    ) -> Result<Vec<RedisResult<T>>> {
        commands.ignore_errors();
        match &self.0 {
            ReadTarget::Server(link) => read(link, commands, until).await,
            ReadTarget::Master(link) => read(link, commands, until).await,
        }
    }
}

async fn read<T: FromRedisValue>(
    link: &ManagedConnection<impl Connector>,
    commands: &Pipeline,
    until: Instant,
) -> Result<Vec<RedisResult<T>>> {
    let attempts = async {
        let mut repeated = false;
        loop {
            let mut line = link.line().await?;
            match commands.query_async(&mut line.connection).await {
                Ok(answers) => return Ok(answers),
                Err(error) => match link.trouble(&line, error) {
                    CallError::Broken(_) if !repeated => repeated = true,
                    trouble => return Err(trouble),
                },
            }
        }
    };
    answered(link, timeout_at(until, attempts).await.ok())
}

/// What came of it, if anything came in time.
fn answered<T>(
    link: &ManagedConnection<impl Connector>,
    answer: Option<std::result::Result<T, CallError>>,
) -> Result<T> {
    answer
        .unwrap_or(Err(CallError::TimedOut))
        .map_err(|trouble| {
            if matches!(trouble, CallError::TimedOut) {
                link.doubt();
            }
            link.error(trouble)
        })
}

impl PushHandler for Notifications {
    fn pushed(&self, push: &PushInfo) {
        Notifications::pushed(self, push);
    }

    fn lost(&self) {
        self.broken();
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
