//! The server that sentinels call the master.
//!
//! It is looked for each time a connection is opened: when the last one broke, fell silent,
//! or led to a server that is a replica now; and when a sentinel says that there is another.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, PushInfo, PushKind, RedisError, Value};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::managed::{Connector, ManagedConnection};
use super::url::at;
use crate::error::{Result, explained};

/// How long the other sentinels may take when one has answered. One that was cut off from
/// the others names the master of yesterday.
const OTHERS: Duration = Duration::from_millis(100);
/// How long to wait when no sentinel answers.
const PAUSE: Duration = Duration::from_secs(1);
/// How soon to try again to reach a new master.
const AGAIN: Duration = Duration::from_millis(50);
const SWITCHED: &str = "+switch-master";

pub(super) struct Sentinels {
    sentinels: Vec<Client>,
    service: String,
    servers: ConnectionInfo,
    channel: String,
    limit: Duration,
}

/// The master, as a sentinel knows it.
struct Master {
    /// Each failover has a higher one.
    epoch: u64,
    host: String,
    port: u16,
}

impl Sentinels {
    pub(super) fn new(
        sentinels: Vec<ConnectionInfo>,
        service: String,
        servers: ConnectionInfo,
        channel: String,
        limit: Duration,
    ) -> Result<Self> {
        let clients = sentinels.into_iter().map(Client::open);
        Ok(Self {
            sentinels: clients.collect::<Result<_, RedisError>>()?,
            service,
            servers,
            channel,
            limit,
        })
    }

    /// Asks all sentinels at once; whoever knows of the last failover is right.
    async fn master(&self) -> Result<Master, String> {
        let mut asked = JoinSet::new();
        for sentinel in &self.sentinels {
            asked.spawn(ask(sentinel.clone(), self.service.clone(), self.limit));
        }
        let (mut newest, mut why) = (None::<Master>, String::new());
        loop {
            let next = async {
                match newest {
                    Some(_) => timeout(OTHERS, asked.join_next()).await.ok().flatten(),
                    None => asked.join_next().await,
                }
            };
            match next.await {
                Some(Ok(Ok(master))) => {
                    if newest
                        .as_ref()
                        .is_none_or(|other| other.epoch < master.epoch)
                    {
                        newest = Some(master);
                    }
                }
                Some(Ok(Err(reason))) => why = reason,
                Some(Err(_)) => {}
                None => break,
            }
        }
        newest.ok_or_else(|| format!("no sentinel names a master '{}': {why}", self.service))
    }
}

async fn ask(sentinel: Client, service: String, limit: Duration) -> Result<Master, String> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(limit))
        .set_response_timeout(Some(limit));
    let answer = async {
        let mut connection = sentinel
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let about = |what: &str| {
            let mut command = redis::cmd("SENTINEL");
            command.arg(what).arg(&service);
            command
        };
        // Names the new one as soon as there is one, unlike the next.
        let named: Option<(String, u16)> = about("GET-MASTER-ADDR-BY-NAME")
            .query_async(&mut connection)
            .await?;
        let more: HashMap<String, Value> = about("MASTER").query_async(&mut connection).await?;
        Ok((named, more))
    };
    let (named, mut more) = timeout(limit, answer)
        .await
        .map_err(|_| format!("no answer within {limit:?}"))?
        .map_err(|error: RedisError| explained(&error))?;
    let (host, port) = named.ok_or("it knows none")?;
    let epoch = more.remove("config-epoch").unwrap_or(Value::Nil);
    Ok(Master {
        epoch: redis::from_redis_value(epoch).unwrap_or_default(),
        host,
        port,
    })
}

impl Connector for Sentinels {
    async fn open(&self, config: &AsyncConnectionConfig) -> Result<MultiplexedConnection, String> {
        let Master { host, port, .. } = self.master().await?;
        let opened = async {
            let client = Client::open(at(&self.servers, &host, port))?;
            let mut connection = client
                .get_multiplexed_async_connection_with_config(config)
                .await?;
            let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
            let role: String = match role.into_iter().next() {
                Some(role) => redis::from_redis_value(role)?,
                None => String::new(),
            };
            connection.subscribe(&self.channel).await?;
            Ok((connection, role))
        };
        let at_place = |why| format!("{host}:{port}, the master of '{}': {why}", self.service);
        match opened.await {
            Ok((connection, role)) if role == "master" => Ok(connection),
            // The sentinels may be in the middle of it, or have fallen behind.
            Ok((_, role)) => Err(at_place(format!(
                "READONLY it says it is a {role}; a failover may be under way"
            ))),
            Err(error) => Err(at_place(explained(&error))),
        }
    }
}

/// A task that lives as long as this.
pub(super) struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens to one sentinel after another for the news that the master is another one now:
/// the old one may stand still, and then its connections do not break.
pub(super) fn watch(link: &ManagedConnection<Sentinels>) -> Watch {
    let link = link.clone();
    let watching = tokio::spawn(async move {
        // What a sentinel that failed may not have told us.
        let mut missed = false;
        loop {
            for sentinel in &link.opens().sentinels {
                if let Err(error) = listen(&link, sentinel, &mut missed).await {
                    debug!(why = explained(&error), "a sentinel is not there");
                }
            }
            sleep(PAUSE).await;
        }
    });
    Watch(watching.abort_handle())
}

/// Listens to one sentinel until it is gone.
async fn listen(
    link: &ManagedConnection<Sentinels>,
    sentinel: &Client,
    missed: &mut bool,
) -> Result<(), RedisError> {
    let (heard, mut pushes) = mpsc::unbounded_channel::<PushInfo>();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(link.limit()))
        .set_response_timeout(Some(link.limit()))
        .set_push_sender(heard);
    let mut connection = sentinel
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    connection.subscribe(SWITCHED).await?;
    if std::mem::replace(missed, true) {
        follow(link).await;
    }
    let service = link.opens().service.as_bytes();
    while let Some(push) = pushes.recv().await {
        match push.kind {
            PushKind::Message if is_about(&push, service) => follow(link).await,
            PushKind::Disconnection => break,
            _ => {}
        }
    }
    drop(connection);
    Ok(())
}

/// Goes where the sentinels say that the master is. Again and again, until it can be done: the
/// old one may come back to life, and does not know that it is no master any more.
async fn follow(link: &ManagedConnection<Sentinels>) {
    while !link.replace().await {
        sleep(AGAIN).await;
    }
}

/// Whether a message says `SERVICE OLD-IP OLD-PORT NEW-IP NEW-PORT`.
fn is_about(push: &PushInfo, service: &[u8]) -> bool {
    let [_, Value::BulkString(message)] = &push.data[..] else {
        return false;
    };
    message.split(|&byte| byte == b' ').next() == Some(service)
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
