//! The signals that stop the server.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;
use tracing::{info, warn};

/// How long a connection without a request stays open after the socket is closed. A request needs
/// milliseconds from a proxy to here.
const LINGER: Duration = Duration::from_millis(500);

/// The exit code after a second signal.
const FORCED_EXIT: i32 = 1;

pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Received {
    Terminate,
    Interrupt,
}

impl Signals {
    /// Handles SIGTERM and SIGINT from now on.
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for a signal, calls `begin`, and completes when the server is to stop accepting:
    /// `drain_delay` after SIGTERM, at once after SIGINT. A second signal ends the process.
    /// Returns how long a connection may stay open in case a proxy has sent a request on it.
    pub(super) async fn shutdown(
        mut self,
        drain_delay: Duration,
        begin: impl FnOnce(),
    ) -> Duration {
        let received = self.next().await;
        info!("shutting down: finishing requests in progress");
        begin();
        tokio::spawn(async move {
            self.next().await;
            warn!("second signal: exiting at once");
            std::process::exit(FORCED_EXIT);
        });
        // Ctrl-C is pressed by a user who waits; no load balancer has to notice it first.
        match received {
            Received::Terminate => {
                sleep(drain_delay).await;
                LINGER
            }
            Received::Interrupt => Duration::ZERO,
        }
    }

    async fn next(&mut self) -> Received {
        tokio::select! {
            _ = self.terminate.recv() => Received::Terminate,
            _ = self.interrupt.recv() => Received::Interrupt,
        }
    }
}
