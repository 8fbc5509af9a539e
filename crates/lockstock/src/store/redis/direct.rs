//! Redis for callers that bring a thread: values, locks (`locks.rs`) and waits for locks (`waits.rs`) over
//! blocking connections, everything else over the asynchronous link, which is opened at the first need.
//!
//! A command on values goes over the link too if its server is not reached, redirects, or cannot
//! serve it at the moment: the link knows the topology and its changes. Where it finds the server,
//! the blocking connections of the next call lead.

pub(in crate::store) mod locks;
pub(in crate::store) mod polled;
mod waits;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use redis::{Cmd, RedisResult, ServerErrorKind, Value};
use tracing::debug;

use super::Redis;
use super::connection::direct::{DirectError, Limits, OnInterrupt, Pool};
use super::connection::{DirectTarget, SlotContext};
use super::values::{WireCommand, explain, pipeline};
use crate::error::{Error, Result};
use crate::runtime;
use crate::store::background::Background;
use crate::store::builder::Options;
use crate::store::near::{NearTable, Overwriting};
use crate::store::values::batches::SlotOf;
use crate::token::ClientId;

pub(in crate::store) struct DirectRedis {
    settings: Arc<DirectSettings>,
    client_id: ClientId,
    background: Background,
    /// The connections to the only server. `None`: the link knows the server of a key.
    single: Option<Arc<Pool>>,
    /// Of a store without slots.
    slot: Arc<SlotContext>,
    busy: locks::BusyNames,
    waits: waits::Waits,
    link: OnceLock<Arc<Redis>>,
}

/// What a child of `fork` takes over. Immutable.
pub(in crate::store) struct DirectSettings {
    pub(in crate::store) url: String,
    pub(in crate::store) options: Options,
    pub(in crate::store) target: DirectTarget,
    pub(in crate::store) on_interrupt: Option<OnInterrupt>,
}

impl DirectRedis {
    /// Opens no connection and starts no thread.
    pub(in crate::store) fn new(
        settings: Arc<DirectSettings>,
        client_id: ClientId,
        background: Background,
    ) -> Self {
        Self {
            single: settings.target.pool().map(Arc::new),
            slot: SlotContext::without_slots(client_id).into(),
            busy: locks::BusyNames::new(),
            waits: waits::Waits::default(),
            settings,
            client_id,
            background,
            link: OnceLock::new(),
        }
    }

    pub(in crate::store) fn link(&self) -> Result<&Arc<Redis>> {
        if let Some(link) = self.link.get() {
            return Ok(link);
        }
        let _entered = runtime::enter()?;
        let DirectSettings { url, options, .. } = &*self.settings;
        let link = Redis::open(url, self.client_id, options, self.background.clone())?;
        // If several threads have opened one, the others are dropped, before they have connected.
        Ok(self.link.get_or_init(|| link.into()))
    }

    /// Closes the connections to the only server that are not in use.
    pub(in crate::store) fn close_idle(&self) {
        if let Some(pool) = &self.single {
            pool.close_idle();
        }
    }

    pub(in crate::store) fn slot_of(&self) -> Option<SlotOf> {
        self.settings.target.slot_of()
    }

    /// Executes a command on values. Blocks, except while the link executes it.
    pub(in crate::store) async fn value<V: WireCommand>(&self, command: &V) -> Result<V::Reply> {
        let before = self.overwrite(command);
        let reply = self.carry_out(command).await;
        if before.is_none() {
            // The first near cache may have been opened meanwhile.
            self.overwrite(command);
        }
        reply
    }

    /// Drops the copies of what a command writes, now and when the guard is dropped. `None`: without
    /// the link there are no near caches.
    fn overwrite<'a>(&'a self, command: &'a impl WireCommand) -> Option<Overwriting<'a>> {
        Some(self.link.get()?.overwrite(command.writes()))
    }

    /// Reads the value under `key`, and copies it to `table`: over the link, which has the connections
    /// that Redis tracks.
    pub(in crate::store) async fn read_near(
        &self,
        table: Arc<NearTable>,
        key: Vec<u8>,
    ) -> Result<Option<Bytes>> {
        let link = self.link()?.clone();
        let read = runtime::spawn(async move { link.read_near(&table, key).await });
        Box::pin(read).await
    }

    async fn carry_out<V: WireCommand>(&self, command: &V) -> Result<V::Reply> {
        let (cmd, is_repeatable) = (command.command(), command.is_repeatable());
        let limits = self.limits();
        let pool = self.pool(&cmd)?;
        if let Some(pool) = &pool {
            let call = || pool.call(&cmd, is_repeatable, &limits);
            if let Some(reply) = self.exchange(pool, &cmd, call)?
                && !must_be_repeated(pool, &reply)
            {
                return parse::<V>(reply.extract_error());
            }
        }
        let (link, deadline) = (self.link()?.clone(), limits.deadline.into());
        let reply = runtime::spawn(async move { link.send(&cmd, is_repeatable, deadline).await });
        // Boxed: rare, and large for the future of every command.
        let reply = Box::pin(reply).await?;
        if let Some(pool) = pool {
            pool.end_bypass();
        }
        parse::<V>(Ok(reply))
    }

    /// Executes repeatable commands, in pipelines. Fails with the first failure, after all others
    /// were tried.
    pub(in crate::store) async fn values<V: WireCommand>(
        &self,
        commands: &[V],
    ) -> Result<Vec<V::Reply>> {
        let overwrite = || commands.iter().map(|command| self.overwrite(command));
        let before: Vec<_> = overwrite().collect();
        let replies = self.carry_out_all(commands).await;
        if before.iter().any(Option::is_none) {
            overwrite().for_each(drop);
        }
        replies
    }

    async fn carry_out_all<V: WireCommand>(&self, commands: &[V]) -> Result<Vec<V::Reply>> {
        let mut commands = commands.iter().map(WireCommand::command).peekable();
        let mut replies = Vec::with_capacity(commands.len());
        let mut failure = None;
        // From the first failure on, all further pipelines together have the time of one.
        let mut gives_up_at = None::<Instant>;
        while commands.peek().is_some() {
            let mut limits = self.limits();
            limits.deadline = gives_up_at.map_or(limits.deadline, |at| at.min(limits.deadline));
            for reply in self.send_all(pipeline(&mut commands), &limits).await {
                match reply.and_then(|reply| parse::<V>(Ok(reply))) {
                    Ok(reply) => replies.push(reply),
                    Err(error) => {
                        gives_up_at.get_or_insert_with(|| self.limits().deadline);
                        failure.get_or_insert(error);
                    }
                }
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(replies),
        }
    }

    /// Sends each command to its server, all for one server at once.
    async fn send_all(&self, commands: Vec<Cmd>, limits: &Limits) -> Vec<Result<Value>> {
        let mut batches = Vec::<(Arc<Pool>, Vec<usize>)>::new();
        for (position, command) in commands.iter().enumerate() {
            let Ok(Some(pool)) = self.pool(command) else {
                continue;
            };
            let mut known = batches.iter_mut();
            match known.find(|(other, _)| Arc::ptr_eq(other, &pool)) {
                Some((_, positions)) => positions.push(position),
                None => batches.push((pool, vec![position])),
            }
        }
        let mut replies: Vec<Option<Result<Value>>> = commands.iter().map(|_| None).collect();
        for (pool, positions) in batches {
            let first = &commands[positions[0]];
            let batch = positions.iter().map(|&position| &commands[position]);
            match self.exchange(&pool, first, || pool.call_all(batch, true, limits)) {
                Ok(Some(batch)) => {
                    for (position, reply) in positions.into_iter().zip(batch) {
                        if !must_be_repeated(&pool, &reply) {
                            let reply = reply.extract_error();
                            let reply = reply.map_err(|error| explain(Error::redis(error)));
                            replies[position] = Some(reply);
                        }
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    for position in positions {
                        replies[position] = Some(Err(error.clone()));
                    }
                }
            }
        }
        let (others, left): (Vec<_>, Vec<_>) = commands
            .into_iter()
            .enumerate()
            .filter(|(position, _)| replies[*position].is_none())
            .unzip();
        if !left.is_empty() {
            let deadline = limits.deadline.into();
            let sent = match self.link() {
                Ok(link) => {
                    let link = link.clone();
                    let sent = async move { Ok(link.send_all(left, deadline).await) };
                    Box::pin(runtime::spawn(sent)).await
                }
                Err(error) => Err(error),
            };
            let sent = sent.unwrap_or_else(|error| vec![Err(error); others.len()]);
            for (position, reply) in others.into_iter().zip(sent) {
                replies[position] = Some(reply);
            }
        }
        replies.into_iter().flatten().collect()
    }

    fn limits(&self) -> Limits {
        Limits {
            deadline: Instant::now() + self.settings.options.timeout,
            on_interrupt: self.settings.on_interrupt.clone(),
        }
    }

    /// Returns the connections to the server of a command, as far as it is known.
    fn pool(&self, command: &Cmd) -> Result<Option<Arc<Pool>>> {
        match &self.single {
            Some(pool) => Ok(Some(pool.clone())),
            None => Ok(self.link()?.connection.direct(command)),
        }
    }

    /// Returns the error of a command without a reply. The calls of the next second fail at once, except
    /// for one.
    fn timed_out(&self, pool: &Pool, command: &Cmd, sent_at: Instant) -> Error {
        pool.bypass();
        let suspected = self.link().and_then(|link| {
            let _entered = runtime::enter()?;
            link.connection.suspect(command, sent_at);
            Ok(())
        });
        match suspected {
            Ok(()) => Error::timed_out(self.settings.options.timeout),
            Err(error) => error,
        }
    }

    /// Runs a call over blocking connections. `None`: the link has to.
    fn exchange<T>(
        &self,
        pool: &Pool,
        command: &Cmd,
        call: impl FnOnce() -> Result<T, DirectError>,
    ) -> Result<Option<T>> {
        // Not until a command over the link has succeeded.
        if pool.is_bypassed() {
            return Ok(None);
        }
        let begun = Instant::now();
        match call() {
            Ok(reply) => Ok(Some(reply)),
            Err(DirectError::Unreachable(reason)) => {
                debug!(reason, "no blocking connection");
                pool.bypass();
                Ok(None)
            }
            Err(DirectError::TimedOut) => Err(self.timed_out(pool, command, begun)),
            // The next call opens another connection.
            Err(DirectError::Broken { reason, .. }) => Err(Error::store_failed(reason)),
            Err(DirectError::Interrupted(reason)) => Err(Error::interrupted(reason)),
        }
    }
}

/// Returns whether the link may succeed, or knows what to advise.
fn must_be_repeated(pool: &Pool, reply: &Value) -> bool {
    let Value::ServerError(error) = reply else {
        return false;
    };
    if error.kind() == Some(ServerErrorKind::ReadOnly) {
        // The name of the server may lead to another one by now.
        pool.close_idle();
    }
    matches!(
        error.kind(),
        Some(
            ServerErrorKind::Ask
                | ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::Moved
                | ServerErrorKind::NoScript
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::TryAgain
        )
    )
}

fn parse<V: WireCommand>(reply: RedisResult<Value>) -> Result<V::Reply> {
    let reply = reply.and_then(V::reply);
    reply.map_err(|error| explain(Error::redis(error)))
}
