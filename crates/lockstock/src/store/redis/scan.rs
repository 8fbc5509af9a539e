//! Scans of the key space, page by page.
//!
//! Guarantees: a key that exists during the whole scan is found at least once. A server that has
//! restarted, or the new master after a failover, has its keys in another order: if the connection
//! changes, the scan of that server begins again.
//!
//! Not guaranteed: a key whose slot moves from one node of a Cluster to another during the scan. A
//! key may be found several times.

use std::collections::VecDeque;

use redis::RedisResult;
use tokio::time::Instant;

use super::Redis;
use super::connection::ReadConnection;
use crate::error::{Error, Result};

/// Number of keys that a server visits for a page, which takes it well under a millisecond.
pub(super) const KEYS_PER_PAGE: usize = 1000;
/// How many times the scan of a server begins again.
const MAX_RESTARTS: usize = 8;

/// Scan of one server.
pub(super) struct ServerScan {
    pub(super) server: ReadConnection,
    /// Options of `SCAN`.
    filter: Vec<Vec<u8>>,
    /// `None` at the end.
    cursor: Option<u64>,
    /// The number of the connection that the cursor is from.
    connection: Option<u64>,
    restarts: usize,
}

impl ServerScan {
    pub(super) fn new(server: ReadConnection, filter: Vec<Vec<u8>>) -> Self {
        Self {
            server,
            filter,
            cursor: Some(0),
            connection: None,
            restarts: 0,
        }
    }

    /// Whether there are no more pages.
    pub(super) fn is_at_end(&self) -> bool {
        self.cursor.is_none()
    }

    /// Returns the keys of the next page, which may be empty. `None`: there are no more pages.
    pub(super) async fn next_page(&mut self, redis: &Redis) -> Result<Option<Vec<Vec<u8>>>> {
        let Some(cursor) = self.cursor else {
            return Ok(None);
        };
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor)
            .arg("COUNT")
            .arg(KEYS_PER_PAGE)
            .arg(&self.filter);
        let deadline = Instant::now() + redis.timeout;
        let replies = self.server.read(vec![scan], deadline).await?;
        let Some(page) = replies.values.into_iter().next() else {
            return Ok(None);
        };
        let page: RedisResult<(u64, Vec<Vec<u8>>)> = page;
        let (next, keys) = page.map_err(Error::redis)?;
        self.cursor = (next != 0).then_some(next);
        let connection = self.connection.replace(replies.connection);
        if cursor != 0 && connection != self.connection {
            // Before the failure too: the next call continues the scan.
            self.cursor = Some(0);
            self.restarts += 1;
            if self.restarts > MAX_RESTARTS {
                return Err(Error::unavailable(format!(
                    "the connection has changed {MAX_RESTARTS} times during the scan of the keys"
                )));
            }
        }
        Ok(Some(keys))
    }
}

/// Scan of all servers for the keys of a cache.
pub(in crate::store) struct Scan {
    /// For `MATCH`.
    pattern: Vec<u8>,
    /// `None` before the first page.
    servers: Option<VecDeque<ServerScan>>,
}

impl Scan {
    /// Scans for the keys that begin with `prefix` and whose rest matches the glob `pattern`.
    pub(in crate::store) fn new(prefix: &[u8], pattern: &[u8]) -> Self {
        let mut escaped = Vec::with_capacity(prefix.len() + pattern.len());
        for &byte in prefix {
            if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\') {
                escaped.push(b'\\');
            }
            escaped.push(byte);
        }
        escaped.extend_from_slice(pattern);
        Self {
            pattern: escaped,
            servers: None,
        }
    }

    /// Returns the keys of the next page, which are distinct. It may be empty. `None`: there are no
    /// more pages.
    pub(in crate::store) async fn next_page(
        &mut self,
        redis: &Redis,
    ) -> Result<Option<Vec<Vec<u8>>>> {
        let servers = match &mut self.servers {
            Some(servers) => servers,
            None => {
                let filter = vec![b"MATCH".to_vec(), self.pattern.clone()];
                let servers = redis.connection.servers().await?.into_iter();
                let scans = servers.map(|server| ServerScan::new(server, filter.clone()));
                self.servers.insert(scans.collect())
            }
        };
        while let Some(server) = servers.front_mut() {
            if let Some(mut keys) = server.next_page(redis).await? {
                keys.sort_unstable();
                keys.dedup();
                return Ok(Some(keys));
            }
            servers.pop_front();
        }
        Ok(None)
    }
}
