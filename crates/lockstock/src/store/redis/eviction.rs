//! A check of the server's settings that no command of a lock would notice.
//!
//! With `maxmemory` set and another policy than `noeviction`, Redis evicts held locks, which have
//! an expiry like the entries of a cache. Every command succeeds, and two holders overlap.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::connection::{Connection, ReadConnection};
use crate::error::{Error, Result};

/// Warns if a server may evict locks. Silent if it does not say, for example because the user
/// may not run `INFO`.
pub(super) async fn warn_of_eviction(connection: Connection, timeout: Duration) {
    let policies = async {
        let servers = connection.servers().await?;
        let policies = servers.iter().map(|server| policy(server, timeout));
        join_all(policies).await.into_iter().collect()
    };
    match policies.await {
        Ok(policies) => {
            // Of a Cluster usually all are the same.
            let policies: Vec<Option<String>> = policies;
            if let Some(policy) = policies.into_iter().flatten().next() {
                warn!(
                    policy,
                    "Redis may evict held locks when its memory is full: two holders would overlap. Set \
                     maxmemory-policy to noeviction, or use a server for the locks alone"
                );
            }
        }
        Err(error) => debug!(%error, "cannot check maxmemory-policy"),
    }
}

/// Returns the policy by which the server evicts keys, `None` if it evicts none.
async fn policy(server: &ReadConnection, timeout: Duration) -> Result<Option<String>> {
    let info = redis::cmd("INFO").arg("memory").take();
    let replies = server.read::<String>(vec![info], Instant::now() + timeout);
    let mut policy = None;
    for reply in replies.await?.values {
        policy = evicting_policy(&reply.map_err(Error::redis)?);
    }
    Ok(policy)
}

fn evicting_policy(info: &str) -> Option<String> {
    let value = |name| info.lines().find_map(|line| line.strip_prefix(name));
    let policy = value("maxmemory_policy:")?.trim();
    let is_limited = value("maxmemory:")?.trim() != "0";
    (is_limited && policy != "noeviction").then(|| policy.to_owned())
}

#[cfg(test)]
mod tests {
    use super::evicting_policy;

    #[test]
    fn only_a_limited_memory_is_evicted() {
        let info = |maxmemory, policy| {
            evicting_policy(&format!(
                "# Memory\r\nused_memory:1\r\nmaxmemory:{maxmemory}\r\n\
                 maxmemory_human:x\r\nmaxmemory_policy:{policy}\r\n"
            ))
        };
        assert_eq!(info(1, "allkeys-lru").as_deref(), Some("allkeys-lru"));
        // Held locks have an expiry.
        assert_eq!(info(1, "volatile-ttl").as_deref(), Some("volatile-ttl"));
        assert_eq!(info(1, "noeviction"), None);
        assert_eq!(info(0, "allkeys-lru"), None);
        assert_eq!(evicting_policy(""), None);
    }
}
