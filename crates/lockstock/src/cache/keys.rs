//! Calls on the entries of a cache whose keys the caller does not know.

use std::fmt;
use std::vec;

use super::Cache;
use super::entries::MAX_KEY_BYTES;
use crate::error::{Error, Result};
use crate::store::Scan;

/// The pattern of every key.
const ALL: &[u8] = b"*";

/// Scan for the keys of a [`Cache`], from [`Cache::keys`].
pub struct KeyScan {
    scan: Scan,
    /// The length of what is not part of a key.
    prefix_bytes: usize,
    page: vec::IntoIter<Vec<u8>>,
}

impl KeyScan {
    /// Returns another key, `None` if there are no more.
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](Error::is_unavailable) if the store fails or does not reply. The next
    /// call continues the scan.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, no key is lost: the next call continues the scan.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(mut key) = self.page.next() {
                return Ok(Some(key.split_off(self.prefix_bytes)));
            }
            match self.scan.next_page().await? {
                Some(page) => self.page = page.into_iter(),
                None => return Ok(None),
            }
        }
    }
}

impl<T, C> Cache<T, C> {
    /// Scans for the keys that match a glob pattern as in Redis: `*`, `?`, `[abc]`, `[a-c]`,
    /// `[^a]`, and `\` before a character that stands for itself. Pattern and keys are without the
    /// namespace.
    ///
    /// A scan visits all keys of the database, not only those of this cache, in steps of about a
    /// thousand, and blocks the server only for a moment each. On a Cluster it visits each master.
    /// Keys are in no order.
    ///
    /// A key that exists during the whole scan is returned, possibly several times; one that is
    /// written or removed meanwhile may be returned. On a Cluster a key whose slot moves meanwhile may
    /// be missed.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let carts = store.cache::<u32>("carts");
    /// carts.set_many([("de:1", 2), ("fr:1", 5)], Duration::from_secs(60)).await?;
    /// let mut keys = carts.keys("de:*")?;
    /// while let Some(key) = keys.next().await? {
    ///     assert_eq!(key, b"de:1");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`is_invalid`](Error::is_invalid) if the pattern has more than 64 KiB ([`MAX_KEY_BYTES`]).
    pub fn keys(&self, pattern: impl AsRef<[u8]>) -> Result<KeyScan> {
        let (prefix, pattern) = (self.entries.prefix(), pattern.as_ref());
        if pattern.len() > MAX_KEY_BYTES {
            return Err(Error::invalid(format!(
                "a pattern can have at most {MAX_KEY_BYTES} bytes, this one has {}",
                pattern.len()
            )));
        }
        Ok(KeyScan {
            scan: self.store.scan(prefix, pattern),
            prefix_bytes: prefix.len(),
            page: Vec::new().into_iter(),
        })
    }

    /// Removes the values whose keys match a glob pattern: see [`keys`](Self::keys). Returns their
    /// number, too few if a reply was lost and a command was sent again. Each step of the scan removes
    /// what it has found.
    ///
    /// Entries that others write meanwhile may remain. To leave all earlier entries behind at once,
    /// use another [`version`](Self::version).
    ///
    /// # Errors
    ///
    /// As [`keys`](Self::keys), and [`is_unavailable`](Error::is_unavailable) if the store fails or
    /// does not reply: then some of the values may have been removed, and the call can be repeated.
    pub async fn delete_matching(&self, pattern: impl AsRef<[u8]>) -> Result<u64> {
        let mut scan = self.keys(pattern)?.scan;
        // Whatever the pattern is: it costs no more than another computation.
        let flights = self.store.flights();
        flights.supersede_all(self.entries.prefix());
        let mut deleted = 0;
        while let Some(keys) = scan.next_page().await? {
            deleted += self.store.delete_values(keys).await?;
        }
        Ok(deleted)
    }

    /// Removes all values of this namespace and version, and nothing else: see
    /// [`delete_matching`](Self::delete_matching). Returns their number.
    ///
    /// # Errors
    ///
    /// As [`delete_matching`](Self::delete_matching).
    pub async fn clear(&self) -> Result<u64> {
        self.delete_matching(ALL).await
    }
}

impl fmt::Debug for KeyScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyScan")
    }
}
