//! The way to Redis: to one server, to the one that sentinels call the master, or to a
//! Cluster. Scripts go out, and what is pushed comes in.
//!
//! Bounded: a call is answered or fails within the timeout. A connection that breaks is made
//! anew by the next call; one that falls silent is replaced in the background.

mod address;
mod cluster;
mod link;
mod sentinel;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{Client, FromRedisValue, PushInfo, ScriptInvocation, ServerErrorKind};
use tokio::time::{Instant, timeout};

use self::address::Address;
use self::cluster::Cluster;
use self::link::{Hear, Link, Open, Server, Trouble};
use self::sentinel::{Sentinels, Watch};
use super::wakes::Wakes;
use crate::error::Result;
use crate::store::redacted;

/// What the channels of all processes begin with.
const EARS: &str = "lockstock:wake:";
static EVERYWHERE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(EARS));

#[derive(Clone)]
pub(super) struct Wire(Arc<Way>);

enum Way {
    Single(Link<Server>),
    Sentinel {
        link: Link<Sentinels>,
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
    /// `channel`: `lockstock:wake:PROCESS`, where one server or a master pushes to.
    pub(super) async fn connect(
        url: &str,
        channel: String,
        wakes: Wakes,
        limit: Duration,
    ) -> Result<Self> {
        #[cfg(feature = "tls")]
        // Fails when the application has chosen a provider already: theirs is used then.
        let _ = rustls::crypto::ring::default_provider().install_default();

        let place = redacted(url);
        let way = match Address::parse(url)? {
            Address::Single(info) => {
                let opens = Server {
                    client: Client::open(info)?,
                    channel: Some(channel),
                };
                let link = Link::new(place, opens, Arc::new(wakes), limit);
                link.line().await.map_err(|trouble| link.error(trouble))?;
                Way::Single(link)
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
                Way::Sentinel { link, _watch }
            }
            Address::Cluster { seeds } => {
                let process = channel.strip_prefix(EARS).unwrap_or(&channel);
                Way::Cluster(Cluster::connect(place, seeds, process, wakes, limit).await?)
            }
        };
        Ok(Self(Arc::new(way)))
    }

    /// What scripts that push about `key` put before the name of a process.
    #[allow(dead_code, reason = "the scripts that take the prefix are yet to come")]
    pub(super) fn prefix(&self, key: &[u8]) -> Arc<str> {
        match &*self.0 {
            Way::Single(_) | Way::Sentinel { .. } => EVERYWHERE.clone(),
            Way::Cluster(cluster) => cluster.prefix(key),
        }
    }

    /// The same, and makes sure that this process hears it.
    ///
    /// Before each question that puts a waiter into the queue or leaves it there: what was
    /// listened to may have moved to another server since.
    #[allow(dead_code, reason = "the scripts that take the prefix are yet to come")]
    pub(super) async fn ear(&self, key: &[u8]) -> Result<Arc<str>> {
        match &*self.0 {
            // Listened to since the connection was opened.
            Way::Single(_) | Way::Sentinel { .. } => Ok(EVERYWHERE.clone()),
            Way::Cluster(cluster) => cluster.ear(key).await,
        }
    }

    /// Runs `script`, a second time if the connection broke under it.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<Ran<T>> {
        match &*self.0 {
            Way::Single(link) => run(link, script).await,
            Way::Sentinel { link, .. } => run(link, script).await,
            Way::Cluster(cluster) => cluster.run(script).await,
        }
    }
}

async fn run<T: FromRedisValue>(
    link: &Link<impl Open>,
    script: &ScriptInvocation<'_>,
) -> Result<Ran<T>> {
    let attempts = async {
        let (mut repeated, mut turned_away) = (false, false);
        loop {
            let mut line = link.line().await?;
            let begun = Instant::now();
            let error = match script.invoke_async(&mut line.connection).await {
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
    let ran = timeout(link.limit(), attempts)
        .await
        .unwrap_or(Err(Trouble::Silent));
    ran.map_err(|trouble| {
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
