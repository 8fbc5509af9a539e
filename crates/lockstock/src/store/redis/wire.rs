//! The way to Redis: to one server, to the one that sentinels call the master, or to a
//! Cluster. Scripts go out, and what is pushed comes in.
//!
//! Bounded: a call is answered or fails within the timeout. A connection that breaks is made
//! anew by the next call; one that falls silent is replaced in the background.

mod address;
mod cluster;
mod link;
mod sentinel;

use std::sync::Arc;
use std::time::Duration;

use redis::{
    Client, Cmd, ErrorKind, FromRedisValue, Pipeline, PushInfo, RedisResult, Script,
    ServerErrorKind,
};
use tokio::time::{Instant, timeout_at};

use self::address::Address;
use self::cluster::Cluster;
use self::link::{Hear, Link, Open, Server, Trouble};
use self::sentinel::{Sentinels, Watch};
use super::wakes::Wakes;
use crate::error::Result;
use crate::key::Keys;
use crate::redacted::redacted;
use crate::token::Process;

/// What the channels of all processes begin with.
const CHANNELS: &str = "lockstock:wake:";

const NO_SCRIPT: ErrorKind = ErrorKind::Server(ServerErrorKind::NoScript);

/// What the scripts have to know of where a lock is.
#[derive(Debug)]
pub(super) struct Slot {
    /// The key of the highest fence there.
    pub(super) clock: String,
    /// What the channels begin with on which waiters are told.
    pub(super) channels: String,
    /// This process, as its channel and its waiters name it.
    pub(super) process: String,
}

/// A script, and the hash that a server knows it by.
#[derive(Debug)]
pub(super) struct Lua {
    text: &'static str,
    hash: String,
}

impl Lua {
    pub(super) fn new(text: &'static str) -> Self {
        let hash = Script::new(text).get_hash().to_owned();
        Self { text, hash }
    }
}

/// How a script is named.
#[derive(Debug, Clone, Copy)]
pub(super) enum By {
    /// For a server that knows it.
    Hash,
    Text,
}

impl By {
    pub(super) fn command(self, script: &Lua) -> Cmd {
        let mut cmd = redis::cmd(match self {
            Self::Hash => "EVALSHA",
            Self::Text => "EVAL",
        });
        cmd.arg(match self {
            Self::Hash => &*script.hash,
            Self::Text => script.text,
        });
        cmd
    }
}

#[derive(Clone)]
pub(super) struct Wire(Arc<Way>);

enum Way {
    Single(Link<Server>, Arc<Slot>),
    Sentinel {
        link: Link<Sentinels>,
        slot: Arc<Slot>,
        /// Ends with us.
        _watch: Watch,
    },
    Cluster(Cluster),
}

/// A script that ran.
pub(super) struct Ran<T> {
    pub(super) answer: T,
    /// When the attempt that was answered was begun.
    pub(super) begun: Instant,
    /// An attempt before it may have run as well.
    pub(super) repeated: bool,
}

impl Wire {
    pub(super) async fn connect(
        url: &str,
        process: Process,
        wakes: Wakes,
        limit: Duration,
    ) -> Result<Self> {
        #[cfg(feature = "tls")]
        // Fails when the application has chosen a provider already: theirs is used then.
        let _ = rustls::crypto::ring::default_provider().install_default();

        let place = redacted(url);
        // Where one server, or a master, pushes to.
        let channel = format!("{CHANNELS}{process}");
        let slot = Arc::new(Slot {
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
                let link = Link::new(place, opens, Arc::new(wakes), limit);
                link.line().await.map_err(|trouble| link.error(trouble))?;
                Way::Single(link, slot)
            }
            Address::Sentinel {
                sentinels,
                service,
                servers,
            } => {
                let opens = Sentinels::new(sentinels, service, servers, channel, limit)?;
                let link = Link::new(place, opens, Arc::new(wakes), limit);
                link.line().await.map_err(|trouble| link.error(trouble))?;
                let _watch = sentinel::watch(&link);
                Way::Sentinel { link, slot, _watch }
            }
            Address::Cluster { seeds } => {
                Way::Cluster(Cluster::connect(place, seeds, process, wakes, limit).await?)
            }
        };
        Ok(Self(Arc::new(way)))
    }

    /// Where a lock is.
    pub(super) fn slot(&self, keys: &Keys) -> Arc<Slot> {
        match &*self.0 {
            Way::Single(_, slot) | Way::Sentinel { slot, .. } => slot.clone(),
            Way::Cluster(cluster) => cluster.slot(&keys.holder),
        }
    }

    /// Makes sure that what scripts push about a lock is heard.
    ///
    /// Before each question that puts a waiter into the queue or leaves it there: what was
    /// listened to may have moved to another server since.
    pub(super) async fn hear(&self, keys: &Keys) -> Result<()> {
        match &*self.0 {
            // Listened to since the connection was opened.
            Way::Single(..) | Way::Sentinel { .. } => Ok(()),
            Way::Cluster(cluster) => cluster.hear(&keys.holder).await,
        }
    }

    /// Each of the servers that have keys.
    pub(super) fn servers(&self) -> Vec<Reader> {
        match &*self.0 {
            Way::Single(link, _) => vec![Reader(From::Server(link.clone()))],
            Way::Sentinel { link, .. } => vec![Reader(From::Master(link.clone()))],
            Way::Cluster(cluster) => {
                let links = cluster.links();
                links.map(|link| Reader(From::Server(link))).collect()
            }
        }
    }

    /// Runs a script, or a plain command of one key; a second time if the connection broke
    /// under it. Not waited for beyond `until`.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        command: impl Fn(By) -> Cmd,
        until: Instant,
    ) -> Result<Ran<T>> {
        match &*self.0 {
            Way::Single(link, _) => run(link, command, until).await,
            Way::Sentinel { link, .. } => run(link, command, until).await,
            Way::Cluster(cluster) => cluster.run(command, until).await,
        }
    }
}

async fn run<T: FromRedisValue>(
    link: &Link<impl Open>,
    command: impl Fn(By) -> Cmd,
    until: Instant,
) -> Result<Ran<T>> {
    let attempts = async {
        let (mut repeated, mut turned_away) = (false, false);
        let mut asked = command(By::Hash);
        loop {
            let mut line = link.line().await?;
            let begun = Instant::now();
            let error = match asked.query_async(&mut line.connection).await {
                Ok(answer) => {
                    return Ok(Ran {
                        answer,
                        begun,
                        repeated,
                    });
                }
                Err(error) => error,
            };
            match link.trouble(&line, error) {
                // New to that server, or it has been restarted.
                Trouble::Refused(error) if error.kind() == NO_SCRIPT => asked = command(By::Text),
                // The connection that just failed may have been dead for hours: the one that
                // takes its place deserves a try.
                Trouble::Broken(_) if !repeated => repeated = true,
                // A master no more: whoever is now has the same name.
                Trouble::Refused(error)
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
pub(super) struct Reader(From);

enum From {
    Server(Link<Server>),
    Master(Link<Sentinels>),
}

impl Reader {
    /// Sends commands that only read in one go, a second time if the connection broke under
    /// them. That one of them is refused is its own answer. Not waited for beyond `until`.
    pub(super) async fn read<T: FromRedisValue>(
        &self,
        commands: &mut Pipeline,
        until: Instant,
    ) -> Result<Vec<RedisResult<T>>> {
        commands.ignore_errors();
        match &self.0 {
            From::Server(link) => read(link, commands, until).await,
            From::Master(link) => read(link, commands, until).await,
        }
    }
}

async fn read<T: FromRedisValue>(
    link: &Link<impl Open>,
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
                    Trouble::Broken(_) if !repeated => repeated = true,
                    trouble => return Err(trouble),
                },
            }
        }
    };
    answered(link, timeout_at(until, attempts).await.ok())
}

/// What came of it, if anything came in time.
fn answered<T>(
    link: &Link<impl Open>,
    answer: Option<std::result::Result<T, Trouble>>,
) -> Result<T> {
    answer.unwrap_or(Err(Trouble::Silent)).map_err(|trouble| {
        if matches!(trouble, Trouble::Silent) {
            link.doubt();
        }
        link.error(trouble)
    })
}

impl Hear for Wakes {
    fn pushed(&self, push: &PushInfo) {
        Wakes::pushed(self, push);
    }

    fn lost(&self) {
        self.broken();
    }
}

#[cfg(test)]
mod tests;
