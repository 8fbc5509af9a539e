//! The signals that stop the server.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;
use tracing::{info, warn};

/// The exit code after a second signal.
const FORCED_EXIT: i32 = 1;

pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

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

    /// Waits for a signal, sets `draining`, and completes when the server is to stop accepting:
    /// `drain_delay` after SIGTERM, at once after SIGINT. A second signal ends the process.
    pub(super) async fn shutdown(mut self, drain_delay: Duration, draining: &AtomicBool) {
        let received = self.next().await;
        info!("shutting down: finishing requests in progress");
        draining.store(true, Ordering::Relaxed);
        tokio::spawn(async move {
            self.next().await;
            warn!("second signal: exiting at once");
            std::process::exit(FORCED_EXIT);
        });
        // Ctrl-C is pressed by a user who waits; no load balancer has to notice it first.
        if let Received::Terminate = received {
            sleep(drain_delay).await;
        }
    }

    async fn next(&mut self) -> Received {
        tokio::select! {
            _ = self.terminate.recv() => Received::Terminate,
            _ = self.interrupt.recv() => Received::Interrupt,
        }
    }
}
