//! The command line of `lockstock locks`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use lockstock::LockKind;

use super::lock_name::{self, Name};
use super::timeout;

const EXAMPLES: &str = "\
What the table shows:
  HOLDER   the process that holds it; each server logs its own when it starts. 'foreign' is a
           client of another kind (redis-py, django-redis) that one of ours waits for
  STATE    held: it may be released at any moment. kept: the work is done, and nobody gets the
           lock for the rest of the lease
  FENCE    the number of the grant. What was written under a lower one is older
  WAITERS  how many, and for how long the first has been waiting. Of each process only the
           first waiter of a lock is seen

Looking changes nothing. It walks through all keys of the store in small steps: for operators,
not for every request.

Examples:
  lockstock locks --store redis://127.0.0.1:6379/1
  lockstock locks --watch                           again every 2 seconds; Ctrl-C ends it
  lockstock locks --json | jq '.[] | select(.waiters != [])'
  lockstock locks release product-update-lock-42";

const CONSEQUENCES: &str = "\
What happens: the holder loses the lock at once, and the first waiter is handed it, with a
higher fence. The old holder is not told. If it is still at work, it may write until the next
one has written; then a database that compares fences, as the shop's does, refuses it.

Examples:
  lockstock locks release product-update-lock-42
  lockstock locks release uploads --kind semaphore --holder 3f9c0a1b22334455
  lockstock locks release 'odd\\nname'               as the table shows it";

/// Where to look, and how often.
#[derive(Debug, Args)]
#[command(args_override_self = true, after_help = EXAMPLES)]
pub(crate) struct Locks {
    #[command(subcommand)]
    pub(crate) command: Option<LocksCommand>,

    /// Where the locks are, as the servers have it: redis://HOST:PORT/DB, rediss://… (TLS) or
    /// redis+unix:///PATH
    #[arg(
        long,
        env = "LOCKSTOCK_STORE",
        value_name = "URL",
        default_value = "memory://",
        hide_default_value = true,
        hide_env_values = true,
        global = true
    )]
    pub(crate) store: String,

    /// How long the store may take to answer one command
    #[arg(long, env = "LOCKSTOCK_STORE_TIMEOUT", value_name = "TIME", default_value = "1s", value_parser = timeout, global = true)]
    pub(crate) store_timeout: Duration,

    /// Print a line of JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,

    /// Look again and again: every so many seconds, 2 if not given
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = seconds)]
    pub(crate) watch: Option<Duration>,
}

/// What to do, other than to look.
#[derive(Debug, Subcommand)]
pub(crate) enum LocksCommand {
    /// Take a lock away from whoever holds or keeps it
    #[command(args_override_self = true, after_help = CONSEQUENCES)]
    Release(Release),
}

/// Which lock to release.
#[derive(Debug, Args)]
pub(crate) struct Release {
    /// The lock's name, as the table shows it
    #[arg(value_parser = lock_name::read)]
    pub(crate) name: Name,

    /// What kind of lock, if several have the name
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<Kind>,

    /// Only this one of several holders: its token, or as much of it as tells it apart
    #[arg(long, value_name = "TOKEN")]
    pub(crate) holder: Option<String>,

    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

/// What kind of lock.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    Lock,
    Semaphore,
    ReadWrite,
}

impl Kind {
    pub(crate) fn lock_kind(self) -> LockKind {
        match self {
            Self::Lock => LockKind::Lock,
            Self::Semaphore => LockKind::Semaphore,
            Self::ReadWrite => LockKind::ReadWrite,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 0.1..=3600.0) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("a number of seconds from 0.1 to 3600, like 2".to_owned()),
    }
}
