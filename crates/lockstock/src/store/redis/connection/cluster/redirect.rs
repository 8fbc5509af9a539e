//! The route of one command through a Cluster, to the node that serves its slot.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::time::{Instant, sleep};

use super::super::Attempt;
use super::super::managed::CallError;
use super::node::Node;
use super::slot::SLOTS;
use super::{Cluster, slot};
use crate::command::first_key;
use crate::error::Error;

/// The pause before a command with several keys is repeated while some of them have moved.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(50);
/// How many redirections of one command are followed.
const MAX_REDIRECTIONS: usize = 8;

/// Sends one script, and records how that went.
pub(super) struct Redirector<'a> {
    cluster: &'a Cluster,
    /// The node that the last command was sent to, and whether with `ASKING`. A script that is
    /// not loaded there is sent there again.
    last: Option<(Arc<Node>, bool)>,
    settings: Attempt,
    /// When the last attempt was sent.
    pub(super) sent_at: Instant,
    /// Whether an earlier attempt may have run as well.
    pub(super) repeated: bool,
    /// The last `TRYAGAIN`, while it is being followed.
    pub(super) try_again: Option<RedisError>,
    /// Why there is no reply, unless a server replied with an error.
    pub(super) failure: Option<Error>,
}

/// A `MOVED` or an `ASK`.
pub(super) struct Redirect<'a> {
    pub(super) slot: u16,
    /// `None`: the same host.
    pub(super) host: Option<&'a str>,
    pub(super) port: u16,
    /// Applies to this command only.
    pub(super) ask: bool,
}

pub(super) fn redirection(error: &RedisError) -> Option<Redirect<'_>> {
    let (address, slot) = error.redirect_node()?;
    if slot >= SLOTS {
        return None;
    }
    let (host, port) = address.rsplit_once(':')?;
    Some(Redirect {
        slot,
        host: (!matches!(host, "" | "?")).then_some(host),
        port: port.parse().ok()?,
        ask: error.kind() == ServerErrorKind::Ask.into(),
    })
}

impl<'a> Redirector<'a> {
    pub(super) fn new(cluster: &'a Cluster, settings: Attempt) -> Self {
        Self {
            cluster,
            last: None,
            settings,
            sent_at: Instant::now(),
            repeated: false,
            try_again: None,
            failure: None,
        }
    }

    /// After a timeout: checks the connection to the last node, and the slot map.
    pub(super) fn timed_out(&self) {
        if let Some((node, _)) = &self.last {
            node.timed_out(self.sent_at);
        }
        self.cluster.refresh_soon();
    }

    pub(super) async fn send(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        let slot = first_key(command).map(slot::slot);
        let mut pause = FIRST_PAUSE;
        let (mut redirections, mut refreshed) = (0, false);
        // The target of an `ASK`.
        let mut ask_target = None::<Arc<Node>>;
        loop {
            let (node, asking) = match (ask_target.take(), slot, &self.last) {
                (Some(node), ..) => (node, true),
                (None, Some(slot), _) => match self.cluster.owner(slot).await {
                    Ok(node) => (node, false),
                    Err(error) => return Err(self.fail(error)),
                },
                (None, None, Some((node, asking))) => (node.clone(), *asking),
                (None, None, None) => {
                    return Err(self.fail(Error::invalid("the script has no key")));
                }
            };
            self.last = Some((node.clone(), asking));
            self.sent_at = Instant::now();
            let Attempt {
                admission,
                is_gathered,
                ..
            } = self.settings;
            let reply = match (asking, is_gathered) {
                (true, _) => node.ask(command, admission).await,
                (false, true) => node.gather(command, admission).await,
                (false, false) => node.send(command, admission).await,
            };
            let error = match reply {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            self.try_again = None;
            let retry = match &error {
                // The connection may have been dead for hours, or the node has just died and a
                // replica takes over.
                CallError::Broken(_) if self.settings.is_repeatable && !self.repeated => {
                    self.repeated = true;
                    true
                }
                CallError::Unreachable(_) => !std::mem::replace(&mut refreshed, true),
                // A replica may have taken over.
                CallError::Refused(_) => {
                    self.cluster.refresh_soon();
                    false
                }
                CallError::Rejected(error) => match (redirection(error), error.kind()) {
                    (Some(redirect), _) if redirections < MAX_REDIRECTIONS => {
                        redirections += 1;
                        let host = redirect.host.unwrap_or(&node.host);
                        if redirect.ask {
                            ask_target = Some(self.cluster.node(host, redirect.port));
                        } else {
                            self.cluster.set_owner(redirect.slot, host, redirect.port);
                        }
                        continue;
                    }
                    // Some of the keys have moved already. Retried until the deadline.
                    (_, ErrorKind::Server(ServerErrorKind::TryAgain)) => {
                        self.try_again = Some(error.clone());
                        sleep(pause).await;
                        pause = (2 * pause).min(LAST_PAUSE);
                        continue;
                    }
                    (_, ErrorKind::Server(ServerErrorKind::ReadOnly)) => {
                        !std::mem::replace(&mut refreshed, true)
                    }
                    (_, ErrorKind::Server(ServerErrorKind::ClusterDown)) => {
                        self.cluster.refresh_soon();
                        false
                    }
                    _ => false,
                },
                CallError::Broken(_) | CallError::TimedOut => false,
            };
            if !retry {
                return Err(match error {
                    CallError::Rejected(error) => error,
                    error => self.fail(node.commands.error(error)),
                });
            }
            if let Some(slot) = slot {
                self.cluster.refresh_if_owner(slot, &node).await;
            }
        }
    }

    /// Records the error that `Cluster::run` returns. The placeholder is never shown.
    fn fail(&mut self, error: Error) -> RedisError {
        self.failure = Some(error);
        (ErrorKind::Client, "no reply").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_to_a_slot_that_does_not_exist_is_an_error() {
        let error = |line: &[u8]| {
            let reply = redis::parse_redis_value(line).unwrap();
            reply.extract_error().unwrap_err()
        };
        let last = error(b"-MOVED 16383 a:1\r\n");
        assert_eq!(redirection(&last).unwrap().slot, 16_383);
        assert!(redirection(&error(b"-MOVED 16384 a:1\r\n")).is_none());
        assert!(redirection(&error(b"-ASK 65535 a:1\r\n")).is_none());
    }
}
