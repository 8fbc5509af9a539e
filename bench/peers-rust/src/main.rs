//! A client of a Rust lock library, which `./dev bench lock` starts. All libraries run in the same
//! loop, so that only the library differs.
//!
//!   lock-clients work LIBRARY URL LEASE_MS TASKS FIRST_TASK NAMES FILE
//!   lock-clients hold URL LEASE_MS NAME
//!   lock-clients next URL LEASE_MS
//!
//! `work` prints `ready`, reads `START END GIVE_UP` (nanoseconds of CLOCK_MONOTONIC), and acquires
//! and releases until END. It writes three numbers per acquisition to FILE: when acquire was
//! called, when it returned, and when the release began; the last two are 0 for a wait that was
//! given up. `hold` prints when its lease expires, and holds the lock until it is killed. `next`
//! acquires each name that it reads, and prints when.

mod clock;
mod crash;
mod libraries;
mod worker;

use anyhow::{Context, Result, bail};

use self::libraries::{Lockstock, Raw, Release, Rslock};

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["work", library, url, lease, tasks, first, names, file] => {
            let lease = crash::lease(lease)?;
            let worker = worker::Worker {
                tasks: tasks.parse().context("TASKS")?,
                first: first.parse().context("FIRST_TASK")?,
                names: names.parse().context("NAMES")?,
                file: file.into(),
            };
            match library {
                "lockstock" => worker.run(&Lockstock::open(url, lease).await?).await,
                "raw-delete" => {
                    worker
                        .run(&Raw::open(url, lease, Release::Delete).await?)
                        .await
                }
                "raw-script" => {
                    worker
                        .run(&Raw::open(url, lease, Release::Script).await?)
                        .await
                }
                "rslock" => worker.run(&Rslock::open(url, lease)).await,
                _ => bail!("unknown library '{library}'"),
            }
        }
        ["hold", url, lease, name] => crash::hold(url, crash::lease(lease)?, name).await,
        ["next", url, lease] => crash::next(url, crash::lease(lease)?).await,
        _ => bail!("invalid arguments: see main.rs"),
    }
}
