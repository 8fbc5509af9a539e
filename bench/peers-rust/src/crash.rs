//! A holder to be killed, and the next one who waits for it.

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

/// Says until when it holds, and holds until it is killed.
pub async fn hold(url: &str, lease: Duration, name: &str) -> Result<()> {
    let store = Store::connect(url).await?;
    let guard = store.lock(name).lease(lease)?.acquire().await?;
    // Counted from before the request was sent: never later than the server's end of it.
    let left = u64::try_from(guard.remaining().as_nanos())?;
    println!("until {}", clock::now() + left);
    std::future::pending::<()>().await;
    drop(guard);
    Ok(())
}

/// Acquires each name it reads, and says when it had it.
pub async fn next(url: &str, lease: Duration) -> Result<()> {
    let store = Store::connect(url).await?;
    println!("ready");
    for name in stdin().lines() {
        let name = name?;
        let guard = store.lock(&name).lease(lease)?.acquire().await?;
        println!("since {name} {}", clock::now());
        guard.release().await?;
    }
    Ok(())
}
