//! The condition of a backend: of the database, or of the store of the locks.
//!
//! A backend is up if a write would succeed now; a backend that replies may still be read-only.
//! Failed calls report what they have met, and a check decides (see `state.rs`). The condition
//! decides no request: it is what `/readyz`, the metrics and the log share.

use std::time::Duration;

use metrics::Gauge;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

/// How often another reason for the same condition is logged: reasons may alternate.
const REASON_INTERVAL: Duration = Duration::from_secs(1);

/// What a backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Writes succeed.
    Up,
    /// Reads may succeed, writes fail.
    ReadOnly,
    /// There is no backend to call.
    Down,
}

/// A condition, since when, and why.
#[derive(Debug, Clone)]
pub struct Status {
    pub condition: Condition,
    pub since: Instant,
    /// Empty if the backend is up. Without a password.
    pub reason: String,
    logged: Logged,
}

/// The last line about a backend in the log.
#[derive(Debug, Clone)]
struct Logged {
    reason: String,
    at: Instant,
}

/// The condition of one backend, shared by all that use it.
#[derive(Debug)]
pub struct Health {
    backend: &'static str,
    status: watch::Sender<Status>,
    up: Gauge,
}

impl Condition {
    /// Returns the word for it in `/readyz`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::ReadOnly => "read-only",
            Self::Down => "down",
        }
    }
}

impl Health {
    /// Returns the health of a backend that is up.
    pub fn new(backend: &'static str) -> Self {
        let up = metrics::gauge!("lockstock_backend_up", "backend" => backend);
        up.set(1.0);
        let status = Status {
            condition: Condition::Up,
            since: Instant::now(),
            reason: String::new(),
            logged: Logged {
                reason: String::new(),
                at: Instant::now(),
            },
        };
        Self {
            backend,
            status: watch::Sender::new(status),
            up,
        }
    }

    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    pub fn is_up(&self) -> bool {
        self.status.borrow().condition == Condition::Up
    }

    /// Completes when the backend is found not to be up.
    pub async fn failed(&self) {
        let mut status = self.status.subscribe();
        // Never fails: the sender is alive.
        let _ = status
            .wait_for(|status| status.condition != Condition::Up)
            .await;
    }

    /// Records that a write has succeeded.
    pub fn recovered(&self) {
        if !self.is_up() {
            self.change(Condition::Up, String::new());
        }
    }

    /// Records that a call has failed, and that the next one would fail too.
    pub fn report(&self, condition: Condition, reason: impl Into<String>) {
        self.change(condition, reason.into());
    }

    /// Logs a change of the condition, and another reason for it, but not a further failure.
    fn change(&self, condition: Condition, reason: String) {
        let now = Instant::now();
        self.status.send_if_modified(|status| {
            let backend = self.backend;
            let is_changed = status.condition != condition;
            let is_another_reason =
                status.logged.reason != reason && now >= status.logged.at + REASON_INTERVAL;
            if is_changed {
                let after = now - status.since;
                match condition {
                    Condition::Up => {
                        info!(was = status.reason, ?after, "the {backend} is up again");
                    }
                    Condition::ReadOnly => {
                        warn!(reason, "the {backend} is read-only: writes get 503");
                    }
                    Condition::Down => warn!(reason, "the {backend} is down"),
                }
                self.up.set(f64::from(u8::from(condition == Condition::Up)));
                status.condition = condition;
                status.since = now;
            } else if is_another_reason {
                warn!(reason, "the {backend} is still not up");
            }
            if is_changed || is_another_reason {
                status.logged = Logged {
                    reason: reason.clone(),
                    at: now,
                };
            }
            status.reason = reason;
            is_changed
        });
    }
}

/// Records the condition that an error of the store proves. A store that rejects writes is
/// read-only: a replica, a server with a full memory or without a disk for its snapshots.
pub(crate) fn report_store_error(health: &Health, error: &dyn std::fmt::Display) {
    const READ_ONLY: [&str; 4] = ["READONLY ", "OOM ", "MISCONF ", "NOREPLICAS "];
    let reason = error.to_string();
    let condition = if READ_ONLY.iter().any(|code| reason.contains(code)) {
        Condition::ReadOnly
    } else {
        Condition::Down
    };
    health.report(condition, reason);
}
