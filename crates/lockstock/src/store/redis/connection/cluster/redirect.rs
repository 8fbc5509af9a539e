//! One script on its way through the Cluster, to wherever its slot is by now.

use std::sync::Arc;
use std::time::Duration;

use redis::{Arg, Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::time::{Instant, sleep};

use super::super::managed::CallError;
use super::node::Node;
use super::{Cluster, slot};
use crate::error::Error;

/// How long to wait before asking for several keys again of which some have moved already.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(50);
/// How often one command may be sent elsewhere.
const MOVES: usize = 8;

/// One script, and an account of what happened to it.
pub(super) struct Redirector<'a> {
    cluster: &'a Cluster,
    /// Where the last command went, and whether as an exception. A script that is not known
    /// there is loaded there.
    last: Option<(Arc<Node>, bool)>,
    /// When the last attempt was begun.
    pub(super) begun: Instant,
    /// Whether an attempt before it may have run as well.
    pub(super) repeated: bool,
    /// What was said last by a server that has to be asked again in a moment.
    pub(super) not_yet: Option<RedisError>,
    /// Why there is no answer, where it is not a server's.
    pub(super) failed: Option<Error>,
}

/// Where else something is.
pub(super) struct Redirect<'a> {
    pub(super) slot: u16,
    /// `None`: on the same host.
    pub(super) host: Option<&'a str>,
    pub(super) port: u16,
    /// For this one command.
    pub(super) ask: bool,
}

pub(super) fn redirection(error: &RedisError) -> Option<Redirect<'_>> {
    let (address, slot) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    Some(Redirect {
        slot,
        host: (!matches!(host, "" | "?")).then_some(host),
        port: port.parse().ok()?,
        ask: error.kind() == ServerErrorKind::Ask.into(),
    })
}

impl<'a> Redirector<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        Self {
            cluster,
            last: None,
            begun: Instant::now(),
            repeated: false,
            not_yet: None,
            failed: None,
        }
    }

    /// Nothing was heard in time: from the last node, if it had been asked.
    pub(super) fn doubt(&self) {
        if let Some((node, _)) = &self.last {
            node.link.doubt();
        }
        self.cluster.look_soon();
    }

    pub(super) async fn send(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        let slot = key(command).map(slot::slot);
        let mut pause = FIRST_PAUSE;
        let (mut moves, mut looked) = (0, false);
        // Where we were sent by way of exception.
        let mut exception = None::<Arc<Node>>;
        loop {
            let (node, asking) = match (exception.take(), slot, &self.last) {
                (Some(node), ..) => (node, true),
                (None, Some(slot), _) => match self.cluster.owner(slot).await {
                    Ok(node) => (node, false),
                    Err(error) => return Err(self.fail(error)),
                },
                (None, None, Some((node, asking))) => (node.clone(), *asking),
                (None, None, None) => {
                    return Err(self.fail(Error::invalid("a script without a key")));
                }
            };
            self.last = Some((node.clone(), asking));
            self.begun = Instant::now();
            let trouble = match node.send(command, asking).await {
                Ok(value) => return Ok(value),
                Err(trouble) => trouble,
            };
            self.not_yet = None;
            let again = match &trouble {
                // Dead for hours perhaps, or in this moment: then somebody takes over.
                CallError::Broken(_) if !self.repeated => {
                    self.repeated = true;
                    true
                }
                CallError::Unreachable(_) => !std::mem::replace(&mut looked, true),
                CallError::TimedOut => {
                    self.doubt();
                    false
                }
                CallError::Refused(error) => match (redirection(error), error.kind()) {
                    (Some(moved), _) if moves < MOVES => {
                        moves += 1;
                        let host = moved.host.unwrap_or(&node.host);
                        let sent = if moved.ask {
                            let other = self.cluster.node(host, moved.port);
                            other.map(|other| exception = Some(other))
                        } else {
                            let owner = self.cluster.set_owner(moved.slot, host, moved.port);
                            owner.map(drop)
                        };
                        if let Err(error) = sent {
                            return Err(self.fail(error));
                        }
                        continue;
                    }
                    // Some of the keys have moved already. It takes a moment, or as long as
                    // it takes.
                    (_, ErrorKind::Server(ServerErrorKind::TryAgain)) => {
                        self.not_yet = Some(error.clone());
                        sleep(pause).await;
                        pause = (2 * pause).min(LAST_PAUSE);
                        continue;
                    }
                    (_, ErrorKind::Server(ServerErrorKind::ReadOnly)) => {
                        !std::mem::replace(&mut looked, true)
                    }
                    (_, ErrorKind::Server(ServerErrorKind::ClusterDown)) => {
                        self.cluster.look_soon();
                        false
                    }
                    _ => false,
                },
                CallError::Broken(_) => false,
            };
            if !again {
                return Err(match trouble {
                    CallError::Refused(error) => error,
                    trouble => self.fail(node.link.error(trouble)),
                });
            }
            if let Some(slot) = slot {
                self.cluster.look_at(slot, &node).await;
            }
        }
    }

    /// What `run` answers. The redis crate needs an error of its own meanwhile.
    fn fail(&mut self, error: Error) -> RedisError {
        self.failed = Some(error);
        (ErrorKind::Client, "no answer").into()
    }
}

/// The first key of a script or of a value's command; `None` for a command that has none.
fn key(command: &Cmd) -> Option<&[u8]> {
    let mut words = command.args_iter();
    let before = match words.next() {
        Some(Arg::Simple(b"EVALSHA" | b"EVAL")) => 2,
        Some(Arg::Simple(b"GET" | b"SET" | b"DEL")) => 0,
        _ => return None,
    };
    match words.nth(before) {
        Some(Arg::Simple(key)) => Some(key),
        _ => None,
    }
}
