//! A client of a lock library, started by `./dev bench lock`. Every library goes through the
//! same loop, so that what differs is the library.
//!
//!   lock-clients turns LIBRARY URL LEASE_MS TASKS FIRST_TASK NAMES FILE
//!   lock-clients hold URL LEASE_MS NAME
//!   lock-clients next URL LEASE_MS
//!
//! `turns` says `ready`, reads `START END GIVE_UP` (nanoseconds of CLOCK_MONOTONIC), takes
//! turns until END and writes each to FILE; `hold` says until when it holds, and holds until it
//! is killed; `next` acquires each name it reads and says when it had it.

mod clock;
mod crash;
mod libraries;
mod turns;

use anyhow::{Context, Result, bail};

use self::libraries::{Lockstock, Raw, Release, Rslock};

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["turns", library, url, lease, tasks, first, names, file] => {
            let lease = crash::lease(lease)?;
            let team = turns::Team {
                tasks: tasks.parse().context("TASKS")?,
                first: first.parse().context("FIRST_TASK")?,
                names: names.parse().context("NAMES")?,
                file: file.into(),
            };
            match library {
                "lockstock" => team.work(&Lockstock::open(url, lease).await?).await,
                "raw-delete" => {
                    team.work(&Raw::open(url, lease, Release::Delete).await?)
                        .await
                }
                "raw-script" => {
                    team.work(&Raw::open(url, lease, Release::Script).await?)
                        .await
                }
                "rslock" => team.work(&Rslock::open(url, lease)).await,
                _ => bail!("no library '{library}'"),
            }
        }
        ["hold", url, lease, name] => crash::hold(url, crash::lease(lease)?, name).await,
        ["next", url, lease] => crash::next(url, crash::lease(lease)?).await,
        _ => bail!("see the head of main.rs"),
    }
}
