//! The signals that stop the server, and the one that reloads its API keys.

use std::future::pending;
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
    /// SIGHUP if it stops the server. `None` if the process was started with SIGHUP ignored, as
    /// `nohup` does.
    hangup: Option<Signal>,
    /// SIGHUP if it reloads the API keys.
    pub(super) reload: Option<Signal>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Received {
    Terminate,
    Interrupt,
    Hangup,
}

impl Signals {
    /// Handles SIGTERM, SIGINT and SIGHUP from now on. With `hangup_reloads` also a process that was
    /// started with SIGHUP ignored handles it: it must be possible to revoke a key.
    pub(super) fn listen(hangup_reloads: bool) -> anyhow::Result<Self> {
        let hangup = match hangup_reloads || !ignores_hangup() {
            true => Some(signal(SignalKind::hangup())?),
            false => None,
        };
        let (reload, hangup) = match hangup_reloads {
            true => (hangup, None),
            false => (None, hangup),
        };
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup,
            reload,
        })
    }

    /// Waits for a signal, calls `begin`, and completes when the server is to stop accepting:
    /// `drain_delay` after SIGTERM or SIGHUP, at once after SIGINT. A second signal ends the process,
    /// unless one of the two is SIGHUP.
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
            self.second_after(received).await;
            warn!("second signal: exiting at once");
            std::process::exit(FORCED_EXIT);
        });
        // Ctrl-C is pressed by a user who waits; no load balancer has to notice it first.
        match received {
            Received::Terminate | Received::Hangup => {
                sleep(drain_delay).await;
                LINGER
            }
            Received::Interrupt => Duration::ZERO,
        }
    }

    /// Waits for a signal that shows impatience. SIGHUP does not: a terminal that closes sends it
    /// more than once, and systemd may send it right after SIGTERM (`SendSIGHUP=yes`).
    async fn second_after(&mut self, first: Received) {
        let mut is_second = first != Received::Hangup;
        loop {
            match self.next().await {
                Received::Hangup => {}
                Received::Terminate | Received::Interrupt if is_second => return,
                Received::Terminate | Received::Interrupt => is_second = true,
            }
        }
    }

    async fn next(&mut self) -> Received {
        tokio::select! {
            _ = self.terminate.recv() => Received::Terminate,
            _ = self.interrupt.recv() => Received::Interrupt,
            () = received(self.hangup.as_mut()) => Received::Hangup,
        }
    }
}

async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => _ = signal.recv().await,
        None => pending().await,
    }
}

/// Returns whether the process was started with SIGHUP ignored. A handler would undo that.
fn ignores_hangup() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return false;
    };
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 << (SignalKind::hangup().as_raw_value() - 1) != 0)
}
