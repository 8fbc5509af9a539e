//! Several commands in one pipeline to one server.

use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, ServerErrorKind, Value};
use tokio::time::Instant;

use super::attempt::in_time;
use super::managed::{Admission, CallError, Connector, ManagedConnection, Server};
use super::sentinel::Sentinels;
use crate::error::{Error, Result};

/// A connection to one server, for reading.
#[derive(Clone)]
pub(in crate::store::redis) struct ReadConnection(Target);

#[derive(Clone)]
enum Target {
    Server(ManagedConnection<Server>),
    Master(ManagedConnection<Sentinels>),
}

/// The replies to a pipeline.
pub(in crate::store::redis) struct Replies<T> {
    /// The reply to a rejected command is its error.
    pub(in crate::store::redis) values: Vec<RedisResult<T>>,
    /// The number of the connection, which is another after a disconnect.
    pub(in crate::store::redis) connection: u64,
}

impl ReadConnection {
    pub(super) fn to_server(server: ManagedConnection<Server>) -> Self {
        Self(Target::Server(server))
    }

    pub(super) fn to_master(master: ManagedConnection<Sentinels>) -> Self {
        Self(Target::Master(master))
    }

    /// Sends read-only commands and waits for the replies until `deadline`. If the connection
    /// disconnects during the call, sends them a second time.
    pub(in crate::store::redis) async fn read<T: FromRedisValue>(
        &self,
        commands: Vec<Cmd>,
        deadline: Instant,
    ) -> Result<Replies<T>> {
        match &self.0 {
            Target::Server(managed) => send(managed, commands, deadline).await,
            Target::Master(managed) => send(managed, commands, deadline).await,
        }
    }
}

/// Sends repeatable commands and waits for the replies until `deadline`.
pub(super) async fn send_all(
    managed: &ManagedConnection<impl Connector>,
    commands: Vec<Cmd>,
    deadline: Instant,
) -> Vec<Result<Value>> {
    let count = commands.len();
    match send(managed, commands, deadline).await {
        Ok(replies) => {
            let values = replies.values.into_iter();
            values.map(|value| value.map_err(Error::redis)).collect()
        }
        Err(error) => vec![Err(error); count],
    }
}

async fn send<T: FromRedisValue>(
    managed: &ManagedConnection<impl Connector>,
    commands: Vec<Cmd>,
    deadline: Instant,
) -> Result<Replies<T>> {
    let mut pipeline = Pipeline::with_capacity(commands.len());
    for command in commands {
        pipeline.add_command(command);
    }
    pipeline.ignore_errors();
    let is_read_only = |value: &RedisResult<T>| {
        let error = value.as_ref().err();
        error.is_some_and(|error| error.kind() == ServerErrorKind::ReadOnly.into())
    };
    let calls = async |last_sent_at: &mut Option<Instant>| {
        let (mut repeated, mut was_read_only) = (false, false);
        loop {
            let mut open = managed.get().await?;
            *last_sent_at = Some(Instant::now());
            let values = pipeline.query_async::<Vec<_>>(&mut open.connection).await;
            match values {
                // The server is a replica now. The new master has the same address.
                Ok(values) if !was_read_only && values.iter().any(is_read_only) => {
                    was_read_only = true;
                    managed.close(&open);
                }
                Ok(values) => {
                    return Ok(Replies {
                        values,
                        connection: open.number,
                    });
                }
                Err(error) => match managed.classify(&open, error) {
                    CallError::Broken(_) if !repeated => repeated = true,
                    error => return Err(error),
                },
            }
        }
    };
    in_time(managed, Admission::UnlessSilent, deadline, calls).await
}
