//! The keys of one lock in Redis: set before an operation, and read after it.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Connection, PubSub, Value};
use tokio::time::Instant;

use crate::key::{Keys, LockKind};
use crate::lease::{MAX_LEASE, as_millis};
use crate::store::redis::attempt::Attempt;
use crate::store::redis::connection::Eval;
use crate::store::redis::notifications::{Notification, parse};
use crate::store::redis::operation::Operation;
use crate::store::redis::script;
use crate::store::redis::script_call::Reply;
use crate::store::redis::scripts::{LOCKS, LOCKS_RARE};
use crate::store::request::{Mode, Request};
use crate::token::{ClientId, Token};

pub(super) const CLIENTS: usize = 4;

const CHANNELS: &str = "lockstock:wake:";
const CLOCK: &str = "lockstock:clock";
/// The channel of a message that follows the notifications of an operation.
const END: &str = "end-of-operation";

/// Stands for the rest of a short grant: shorter than [`MAX_LEASE`], which the requests ask for, and
/// longer than an operation.
const SHORT_LEASE_MS: u64 = 3_600_000;

/// Content of the keys.
#[derive(Clone, Default)]
pub(super) struct Stored {
    pub(super) holder: Option<Holder>,
    /// Members and their scores.
    pub(super) queue: Vec<(String, String)>,
    clock: Option<String>,
}

#[derive(Clone)]
pub(super) struct Holder {
    pub(super) value: String,
    pub(super) token: Token,
    pub(super) fence: u64,
    pub(super) is_short: bool,
}

/// A server, and the requests of the clients for one lock.
pub(super) struct Server<'a> {
    pub(super) attempts: [Attempt; CLIENTS],
    connection: &'a mut Connection,
    subscription: PubSub<'a>,
    keys: Arc<Keys>,
}

impl<'a> Server<'a> {
    /// Subscribes all clients, by the second connection.
    pub(super) fn new([connection, subscriber]: &'a mut [Connection; 2]) -> Self {
        let keys = Arc::new(Keys::of(LockKind::Lock, b"hot").unwrap());
        let attempts = [(); CLIENTS].map(|()| {
            let client = ClientId::random();
            let request = Request::new(client, keys.clone(), Mode::Exclusive, MAX_LEASE, None);
            let attempt = Attempt::new(request);
            attempt.ask_for_fences(1);
            attempt
        });
        let mut subscription = subscriber.as_pubsub();
        for attempt in &attempts {
            let client = attempt.request.token.client_id();
            subscription
                .subscribe(format!("{CHANNELS}{client}"))
                .unwrap();
        }
        subscription.subscribe(END).unwrap();
        for lua in [&LOCKS, &LOCKS_RARE] {
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(lua.source());
            load.exec(connection).unwrap();
        }
        Self {
            attempts,
            connection,
            subscription,
            keys,
        }
    }

    /// Sets the keys, and runs an operation. Returns its reply, the keys and the notifications.
    pub(super) fn call(
        &mut self,
        before: &Stored,
        client: usize,
        operation: Operation,
    ) -> (Reply, Stored, Vec<(Token, Notification)>) {
        let (holder, queue) = (&self.keys.holder, &self.keys.queue);
        // One transaction, so that no lease ends within it.
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.cmd("DEL").arg(holder).arg(queue).arg(CLOCK).ignore();
        if let Some(Holder {
            value, is_short, ..
        }) = &before.holder
        {
            let lease_ms = match is_short {
                true => SHORT_LEASE_MS,
                false => as_millis(MAX_LEASE),
            };
            let set = pipe.cmd("SET").arg(holder).arg(value);
            set.arg("PX").arg(lease_ms).ignore();
        }
        for (member, score) in &before.queue {
            pipe.cmd("ZADD").arg(queue).arg(score).arg(member).ignore();
        }
        if let Some(clock) = &before.clock {
            pipe.cmd("SET").arg(CLOCK).arg(clock).ignore();
        }
        let sent_at = Instant::now();
        pipe.add_command(self.command(client, operation));
        pipe.cmd("GET").arg(holder);
        pipe.cmd("PTTL").arg(holder);
        pipe.cmd("ZRANGE")
            .arg(queue)
            .arg(0)
            .arg(-1)
            .arg("WITHSCORES");
        pipe.cmd("GET").arg(CLOCK);
        pipe.cmd("PUBLISH").arg(END).arg("").ignore();
        type Results = (
            (i64, Value),
            Option<String>,
            i64,
            Vec<(String, String)>,
            Option<String>,
        );
        let results: Results = pipe.query(self.connection).unwrap();
        let ((server_time_us, value), holder, remaining_ms, queue, clock) = results;
        let mut notifications = Vec::new();
        loop {
            let message = self.subscription.get_message().unwrap();
            if message.get_channel_name() == END {
                break;
            }
            let payload: String = message.get_payload().unwrap();
            notifications.push(parse(&payload).unwrap());
        }
        let holder = holder.map(|value| {
            let mut parts = value.rsplit(':');
            let mut part = || parts.next().unwrap();
            Holder {
                fence: part().parse().unwrap(),
                token: Token::parse(part()).unwrap(),
                is_short: Duration::from_millis(remaining_ms.try_into().unwrap()) < MAX_LEASE / 2,
                value,
            }
        });
        let reply = Reply {
            value,
            server_time_us,
            sent_at,
            repeated: false,
        };
        let after = Stored {
            holder,
            queue,
            clock,
        };
        (reply, after, notifications)
    }

    fn command(&self, client: usize, operation: Operation) -> Cmd {
        let mut cmd = Eval::Sha.command(script(LockKind::Lock, operation));
        let counts = [0, 1].map(|rank| usize::from(operation.rank() == rank));
        cmd.arg(3)
            .arg(CLOCK)
            .arg(&self.keys.holder)
            .arg(&self.keys.queue)
            .arg(CHANNELS)
            .arg(self.attempts[client].request.token.client_id().to_string())
            .arg(&counts);
        operation.write(&mut cmd);
        cmd
    }
}
