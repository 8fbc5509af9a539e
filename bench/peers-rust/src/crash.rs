//! A holder that is killed, and a waiter that gets its locks.

use std::io::stdin;
use std::time::Duration;

use anyhow::{Context, Result};
use lockstock::Store;

use crate::clock;

pub fn lease(milliseconds: &str) -> Result<Duration> {
    Ok(Duration::from_millis(
        milliseconds.parse().context("LEASE_MS")?,
    ))
}

/// Acquires the lock, prints when the lease expires, and holds it until the process is killed.
pub async fn hold(url: &str, lease: Duration, name: &str) -> Result<()> {
    let store = Store::connect(url).await?;
    let guard = store.lock(name).lease(lease)?.acquire().await?;
    // Counts from before the request was sent, so it is never later than the server's expiry.
    let remaining_ns = u64::try_from(guard.remaining().as_nanos())?;
    println!("until {}", clock::now_ns() + remaining_ns);
    std::future::pending::<()>().await;
    drop(guard);
    Ok(())
}

/// Acquires each name from standard input, and prints when it was acquired.
pub async fn next(url: &str, lease: Duration) -> Result<()> {
    let store = Store::connect(url).await?;
    println!("ready");
    for name in stdin().lines() {
        let name = name?;
        let guard = store.lock(&name).lease(lease)?.acquire().await?;
        println!("since {name} {}", clock::now_ns());
        guard.release().await?;
    }
    Ok(())
}
