//! The check whether a server still replies, and the replacement of a connection that is dead.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::{CallError, Connector, Inner, ManagedConnection, OpenError, State};

/// The pause between two checks of a server that does not reply.
const CHECK_PAUSE: Duration = Duration::from_millis(50);

impl<C: Connector> ManagedConnection<C> {
    /// Checks in the background whether the server still replies on the connection. If it does
    /// not, but does on a new connection, the new one replaces it. A network can drop a
    /// connection without ever breaking it.
    ///
    /// While the breaker is open, this is repeated: the server has to reply to no other call.
    pub(in super::super) fn check_health(&self) {
        if self.0.is_checking.swap(true, Ordering::SeqCst) {
            return;
        }
        // Weak: a server that never replies again must not keep the connection.
        let inner = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            while let Some(managed) = inner.upgrade().map(Self) {
                let Inner {
                    breaker,
                    is_checking,
                    ..
                } = &*managed.0;
                if managed.recover().await {
                    breaker.close();
                }
                if !breaker.is_open() {
                    is_checking.store(false, Ordering::SeqCst);
                    // A call may have opened it meanwhile, and found a check in progress.
                    if !breaker.is_open() || is_checking.swap(true, Ordering::SeqCst) {
                        return;
                    }
                }
                drop(managed);
                sleep(CHECK_PAUSE).await;
            }
        });
    }

    /// Returns whether the server replies, if necessary on a new connection, or refuses connections:
    /// then a call costs no timeout.
    async fn recover(&self) -> bool {
        if self.0.current().is_some() {
            return self.is_healthy().await || self.replace().await;
        }
        match self.get_or_open().await {
            Ok(_) => true,
            Err(error) => !error.timed_out,
        }
    }

    /// Returns whether the server replies on the current connection, `true` if there is none.
    pub(in super::super) async fn is_healthy(&self) -> bool {
        let Some(mut open) = self.0.current() else {
            return true;
        };
        let ping = redis::cmd("PING");
        let reply = ping.query_async::<()>(&mut open.connection);
        match timeout(self.0.timeout, reply).await {
            Ok(Ok(())) => true,
            // A server that is loading or runs a long script replies with an error.
            Ok(Err(error)) => matches!(self.classify(&open, error), CallError::Rejected(_)),
            Err(_) => false,
        }
    }

    /// Opens a new connection to replace the current one, which stays if that fails. Returns
    /// whether the current connection is now at least as new as this call.
    pub(in super::super) async fn replace(&self) -> bool {
        let open = match self.connect(self.next_number()).await {
            Ok(open) => open,
            Err(OpenError { reason, .. }) => {
                debug!(address = self.0.address, reason, "cannot reconnect");
                return false;
            }
        };
        {
            let mut state = self.0.state();
            match &*state {
                // A later attempt has more recent information about the right server.
                State::Open(newer) if newer.number > open.number => return true,
                _ => *state = State::Open(open),
            }
            self.0.push_handler.disconnected();
        }
        warn!(address = self.0.address, "reconnected");
        true
    }
}
