//! The master that sentinels name.
//!
//! The sentinels are queried whenever a connection is opened: after the last one broke, timed
//! out, or turned out to lead to a replica; and when a sentinel announces another master.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionInfo, PushInfo, PushKind, RedisError, Value};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::direct::{Pool, Target};
use super::managed::{Connector, ManagedConnection, Purpose};
use super::multiplexed::Multiplexed;
use super::url::with_address;
use crate::error::explain;

/// How long to wait for further replies after the first. The first may be that of a sentinel that
/// was partitioned from the others, and outdated.
const STRAGGLER_TIMEOUT: Duration = Duration::from_millis(100);
/// The pause after a sentinel has failed or disconnected.
const SENTINEL_RETRY_DELAY: Duration = Duration::from_secs(1);
/// How long a subscription is silent before the sentinel is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The pause between attempts to connect to a new master.
const MASTER_RETRY_DELAY: Duration = Duration::from_millis(50);
/// The channel on which sentinels announce a new master.
const SWITCH_CHANNEL: &str = "+switch-master";

/// Connects to the master.
pub(super) struct Sentinels {
    sentinels: Vec<Target>,
    service: String,
    servers: Target,
    purpose: Purpose,
    timeout: Duration,
}

/// The master as a sentinel knows it.
#[derive(Clone)]
pub(super) struct Master {
    /// Increases with each failover.
    epoch: u64,
    host: String,
    port: u16,
}

/// The master that a connection leads to.
#[derive(Clone)]
pub(super) struct ConnectedMaster {
    named: Master,
    /// The blocking connections to it.
    pub(super) direct: Arc<Pool>,
}

impl ConnectedMaster {
    pub(super) fn is_at(&self, other: &Self) -> bool {
        (&self.named.host, self.named.port) == (&other.named.host, other.named.port)
    }
}

impl Sentinels {
    pub(super) fn new(
        sentinels: Vec<ConnectionInfo>,
        service: String,
        servers: Target,
        purpose: Purpose,
        timeout: Duration,
    ) -> Self {
        let tls = &servers.tls;
        let sentinels = sentinels.into_iter().map(|info| Target {
            info,
            tls: tls.clone(),
        });
        Self {
            sentinels: sentinels.collect(),
            service,
            servers,
            purpose,
            timeout,
        }
    }

    /// Returns a connector to the same master for another purpose.
    pub(super) fn with_purpose(&self, purpose: Purpose) -> Self {
        Self {
            sentinels: self.sentinels.clone(),
            service: self.service.clone(),
            servers: self.servers.clone(),
            purpose,
            timeout: self.timeout,
        }
    }

    pub(super) fn database(&self) -> i64 {
        self.servers.info.redis_settings().db()
    }

    /// Queries all sentinels at once, and returns the master of the last failover.
    async fn master(&self) -> Result<Master, String> {
        let mut queries = JoinSet::new();
        for sentinel in &self.sentinels {
            queries.spawn(query(sentinel.clone(), self.service.clone(), self.timeout));
        }
        let (mut newest, mut reason) = (None::<Master>, String::new());
        loop {
            let next = match newest {
                Some(_) => timeout(STRAGGLER_TIMEOUT, queries.join_next())
                    .await
                    .ok()
                    .flatten(),
                None => queries.join_next().await,
            };
            match next {
                Some(Ok(Ok(master))) => {
                    if newest
                        .as_ref()
                        .is_none_or(|other| other.epoch < master.epoch)
                    {
                        newest = Some(master);
                    }
                }
                Some(Ok(Err(error))) => reason = error,
                Some(Err(_)) => {}
                None => break,
            }
        }
        newest.ok_or_else(|| format!("no sentinel names a master of '{}': {reason}", self.service))
    }
}

async fn query(
    sentinel: Target,
    service: String,
    call_timeout: Duration,
) -> Result<Master, String> {
    let replies = async {
        let mut connection = Multiplexed::open(&sentinel, None, |_| {}).await?;
        let command = |subcommand: &str| {
            let mut command = redis::cmd("SENTINEL");
            command.arg(subcommand).arg(&service);
            command
        };
        // Returns a new master earlier than MASTER does.
        let address: Option<(String, u16)> = command("GET-MASTER-ADDR-BY-NAME")
            .query_async(&mut connection)
            .await?;
        let details: HashMap<String, Value> =
            command("MASTER").query_async(&mut connection).await?;
        Ok((address, details))
    };
    let (address, mut details) = timeout(call_timeout, replies)
        .await
        .map_err(|_| format!("no reply within {call_timeout:?}"))?
        .map_err(|error: RedisError| explain(&error))?;
    let (host, port) = address.ok_or("the sentinel does not know it")?;
    let epoch = details.remove("config-epoch").unwrap_or(Value::Nil);
    Ok(Master {
        epoch: redis::from_redis_value(epoch).unwrap_or_default(),
        host,
        port,
    })
}

impl Connector for Sentinels {
    type Server = ConnectedMaster;

    fn purpose(&self) -> &Purpose {
        &self.purpose
    }

    async fn open(
        &self,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Result<(Multiplexed, Self::Server), String> {
        let master = self.master().await?;
        let Master { host, port, .. } = &master;
        let opened = async {
            let target = Target {
                info: with_address(&self.servers.info, host, *port),
                tls: self.servers.tls.clone(),
            };
            let mut connection = Multiplexed::open(&target, None, on_push).await?;
            let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
            let role: String = match role.into_iter().next() {
                Some(role) => redis::from_redis_value(role)?,
                None => String::new(),
            };
            if role == "master" {
                self.purpose.set_up(&mut connection).await?;
            }
            Ok((connection, role, target))
        };
        let failed = |reason| format!("{host}:{port}, the master of '{}': {reason}", self.service);
        match opened.await {
            Ok((connection, role, target)) if role == "master" => {
                let direct = Pool::new(target).into();
                let named = master;
                Ok((connection, ConnectedMaster { named, direct }))
            }
            // The failover may not be complete, or the sentinels may be outdated.
            Ok((_, role, _)) => Err(failed(format!(
                "READONLY the server is a {role}; a failover may be in progress"
            ))),
            Err(error) => Err(failed(explain(&error))),
        }
    }
}

/// The tasks that listen to the sentinels. Aborted on drop.
pub(super) struct Watch {
    _listeners: JoinSet<()>,
}

/// Subscribes to all sentinels, and reconnects when a new master is announced: if the old master
/// hangs, its connections do not break. All, because some of them may hang or be cut off.
///
/// `connections` is not empty: the connections to one master.
pub(super) fn watch(connections: &[&ManagedConnection<Sentinels>]) -> Watch {
    let connections: Arc<[_]> = connections.iter().map(|&managed| managed.clone()).collect();
    let following = Arc::new(Mutex::new(()));
    let mut listeners = JoinSet::new();
    for sentinel in &connections[0].connector().sentinels {
        let (connections, sentinel) = (connections.clone(), sentinel.clone());
        let following = following.clone();
        listeners.spawn(async move {
            loop {
                if let Err(error) = listen(&connections, &sentinel, &following).await {
                    debug!(reason = explain(&error), "not subscribed to a sentinel");
                }
                sleep(SENTINEL_RETRY_DELAY).await;
            }
        });
    }
    Watch {
        _listeners: listeners,
    }
}

/// Follows the announcements of one sentinel until it disconnects or does not reply.
async fn listen(
    connections: &[ManagedConnection<Sentinels>],
    sentinel: &Target,
    following: &Mutex<()>,
) -> Result<(), RedisError> {
    let master = &connections[0];
    // Room for one: `follow` finds the master of the last of several announcements.
    let (announced, mut announcements) = mpsc::channel(1);
    let service = master.connector().service.clone();
    let on_push = move |push: PushInfo| {
        if push.kind == PushKind::Message && is_about(&push, service.as_bytes()) {
            let _ = announced.try_send(());
        }
    };
    let limit = master.timeout();
    let opened = timeout(limit, Multiplexed::open(sentinel, Some(limit), on_push));
    let mut connection = opened.await.map_err(io::Error::from)??;
    connection.inner.subscribe(SWITCH_CHANNEL).await?;
    // An announcement may have been missed before.
    follow(connections, following).await;
    loop {
        match timeout(CHECK_INTERVAL, announcements.recv()).await {
            Ok(Some(())) => follow(connections, following).await,
            // Disconnected.
            Ok(None) => return Ok(()),
            Err(_) => redis::cmd("PING").query_async(&mut connection).await?,
        }
    }
}

/// Connects to the master that the sentinels name unless the current connections lead there, and
/// retries until that succeeds. The old master may come back and does not know yet that it has
/// been replaced.
async fn follow(connections: &[ManagedConnection<Sentinels>], following: &Mutex<()>) {
    // One at a time: all sentinels announce the same master.
    let _following = following.lock().await;
    for master in connections {
        follow_with(master).await;
    }
}

async fn follow_with(master: &ManagedConnection<Sentinels>) {
    loop {
        // Without a connection the next call queries the sentinels.
        let Some(ConnectedMaster { named: current, .. }) = master.current_server().await else {
            return;
        };
        match master.connector().master().await {
            Ok(named) if (&named.host, named.port) == (&current.host, current.port) => return,
            // The sentinels that know of the last failover did not reply in time.
            Ok(named) if named.epoch < current.epoch => return,
            Ok(_) if master.replace().await => return,
            Ok(_) | Err(_) => sleep(MASTER_RETRY_DELAY).await,
        }
    }
}

/// Returns whether a message, `SERVICE OLD-IP OLD-PORT NEW-IP NEW-PORT`, is about `service`.
fn is_about(push: &PushInfo, service: &[u8]) -> bool {
    let [_, Value::BulkString(message)] = &push.data[..] else {
        return false;
    };
    message.split(|&byte| byte == b' ').next() == Some(service)
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
