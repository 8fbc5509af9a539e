//! Operations on a lock, and their arguments in a script call.

use std::borrow::Cow;

use redis::Cmd;

use super::attempt::{Attempt, Ownership};
use crate::inspect::HolderId;
use crate::lease::as_millis;
use crate::store::request::{Mode, Request};
use crate::token::Token;

/// One step of a script: see `scripts/acquire_release.lua` and `scripts/rare.lua`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operation {
    Release {
        ownership: Ownership,
        /// The last fence that was used, if several were minted with the grant.
        last_used: Option<u64>,
    },
    Acquire {
        args: AcquireArgs,
        waited_us: u64,
    },
    /// A release that puts the next local waiter into the queue.
    Pass {
        ownership: Ownership,
        last_used: Option<u64>,
        args: AcquireArgs,
        waited_us: u64,
    },
    Leave {
        args: AcquireArgs,
        give_back: bool,
    },
    Keep {
        ownership: Ownership,
        last_used: Option<u64>,
    },
    Renew {
        token: Token,
        remaining_ms: u64,
    },
    Rename {
        token: Token,
        new: Token,
    },
    ForceRelease(HolderId),
}

/// A request as the queue in Redis stores it.
#[derive(Debug, Clone, Copy)]
pub(super) struct AcquireArgs {
    token: Token,
    lease_ms: u64,
    wait: Wait,
    /// Number of fences to mint.
    fences: u64,
    mode: Mode,
}

/// Length of the whole wait.
#[derive(Debug, Clone, Copy)]
enum Wait {
    None,
    Millis(u64),
    Forever,
}

impl AcquireArgs {
    /// Returns the arguments of a request that waits in the queue.
    pub(super) fn waiting(attempt: &Attempt) -> Self {
        let Request {
            wait_deadline,
            requested_at,
            ..
        } = attempt.request;
        let wait = match wait_deadline {
            // The scripts and the listing read a signed number.
            Some(deadline) => Wait::Millis(
                as_millis(deadline.saturating_duration_since(requested_at))
                    .min(i64::MAX.unsigned_abs()),
            ),
            None => Wait::Forever,
        };
        Self::new(attempt, wait)
    }

    /// Returns the arguments of a request that does not wait.
    pub(super) fn immediate(attempt: &Attempt) -> Self {
        Self::new(attempt, Wait::None)
    }

    fn new(attempt: &Attempt, wait: Wait) -> Self {
        Self {
            token: attempt.request.token,
            lease_ms: as_millis(attempt.request.lease),
            wait,
            fences: attempt.fences(),
            mode: attempt.request.mode,
        }
    }
}

/// Returns how long the request has waited in this process, which counts as a wait in Redis'
/// queue. Zero below 1 ms.
pub(super) fn waited_us(request: &Request) -> u64 {
    match request.requested_at.elapsed().as_micros() {
        ..1000 => 0,
        waited => u64::try_from(waited).unwrap_or(u64::MAX),
    }
}

impl Operation {
    /// Returns whether the operation is in the script of rare operations.
    pub(super) fn is_rare(self) -> bool {
        matches!(
            self,
            Self::Leave { .. } | Self::Renew { .. } | Self::Rename { .. } | Self::ForceRelease(_)
        )
    }

    /// Returns the position in a batch, which the scripts rely on.
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::Release { .. } => 0,
            Self::Acquire { .. } => 1,
            Self::Pass { .. }
            | Self::Leave { .. }
            | Self::Keep { .. }
            | Self::Renew { .. }
            | Self::Rename { .. }
            | Self::ForceRelease(_) => 2,
        }
    }
}

impl Operation {
    /// Appends the arguments of the operation to a call.
    pub(super) fn write(self, cmd: &mut Cmd) {
        match self {
            Self::Release {
                ownership,
                last_used,
            } => write_ownership(cmd, ownership, last_used),
            Self::Acquire { args, waited_us } => args.write_with(waited_us, cmd),
            Self::Pass {
                ownership,
                last_used,
                args,
                waited_us,
            } => {
                cmd.arg("pass");
                write_ownership(cmd, ownership, last_used);
                args.write_with(waited_us, cmd);
            }
            Self::Leave { args, give_back } => {
                cmd.arg("leave");
                args.write_times(cmd);
                cmd.arg(args.fences)
                    .arg(mode(args.mode))
                    .arg(u8::from(give_back));
            }
            Self::Keep {
                ownership,
                last_used,
            } => {
                cmd.arg("keep");
                write_ownership(cmd, ownership, last_used);
            }
            Self::Renew {
                token,
                remaining_ms,
            } => {
                cmd.arg("renew").arg(token.to_string()).arg(remaining_ms);
            }
            Self::Rename { token, new } => {
                cmd.arg("rename")
                    .arg(token.to_string())
                    .arg(new.to_string());
            }
            Self::ForceRelease(holder) => {
                cmd.arg("force").arg(holder.to_string());
            }
        }
    }
}

/// Writes the value that the holder's key has while there are no waiters, so that the script
/// only has to compare.
fn write_ownership(cmd: &mut Cmd, ownership: Ownership, last_used: Option<u64>) {
    cmd.arg(format!(
        "lockstock:held:{}:{}",
        ownership.token, ownership.last_fence
    ));
    match last_used {
        Some(fence) => cmd.arg(fence),
        None => cmd.arg(""),
    };
}

impl AcquireArgs {
    fn write_with(self, waited_us: u64, cmd: &mut Cmd) {
        self.write_times(cmd);
        cmd.arg(waited_us).arg(self.fences).arg(mode(self.mode));
    }

    fn write_times(self, cmd: &mut Cmd) {
        cmd.arg(self.token.to_string()).arg(self.lease_ms);
        match self.wait {
            Wait::None => cmd.arg(""),
            Wait::Millis(wait_ms) => cmd.arg(wait_ms),
            Wait::Forever => cmd.arg(-1),
        };
    }
}

/// Returns a mode as the scripts write it.
fn mode(mode: Mode) -> Cow<'static, str> {
    match mode {
        Mode::Exclusive => "x".into(),
        Mode::Permits { max, taken } if taken.get() == 1 => format!("s{max}").into(),
        Mode::Permits { max, taken } => format!("s{max}m{taken}").into(),
        Mode::Read => "s0".into(),
    }
}
