//! Which process computes a value.
//!
//! The process that computes holds the write side of a lock. The others wait for the read side,
//! which one release grants to all of them, and read the entry. If there is none, because the
//! computation has failed or its process has died, they queue for the write side.

use std::time::Duration;

use crc::{CRC_64_XZ, Crc};

use super::codec::Codec;
use super::lookup::{Call, Entry};
use super::{Cache, Source};
use crate::error::Result;
use crate::guard::Guard;
use crate::key::MAX_NAME_BYTES;
use crate::lock::Acquired;

/// What the names of the locks of [`once_per_store`](ComputePolicy::once_per_store) begin with.
const LOCK_PREFIX: &[u8] = b"lockstock-cache:";

/// The decision over all processes about the caller that computes.
pub(super) enum Election<T> {
    Won(Guard),
    /// Another process has written the value.
    Found(Entry<T>),
    /// Another process is computing, and the caller need not wait.
    Lost,
    /// The store is unavailable, or another process takes too long.
    Undecided,
}

impl<T, C: Codec<T>> Cache<T, C> {
    /// Decides over all processes whether this one computes. `has_value`: the caller does not wait.
    pub(super) async fn elect(&self, call: &Call, lease: Duration, has_value: bool) -> Election<T> {
        match self.try_elect(call, lease, has_value).await {
            Ok(election) => election,
            Err(error) => {
                self.store.bypass().note_failure(&error);
                Election::Undecided
            }
        }
    }

    async fn try_elect(
        &self,
        call: &Call,
        lease: Duration,
        has_value: bool,
    ) -> Result<Election<T>> {
        let name = lock_name(&call.key);
        let write = self.store.write_lock(&name).lease(lease)?;
        let guard = match write.try_acquire().await? {
            Acquired::Held(guard) => guard,
            Acquired::Busy(_) if has_value => return Ok(Election::Lost),
            Acquired::Busy(_) => {
                let read = self.store.read_lock(&name).lease(lease)?;
                match read.acquire_before(call.deadline).await? {
                    // Dropped before the entry is read: the release is on its way with the read.
                    Acquired::Held(guard) => drop(guard),
                    Acquired::Busy(_) => return Ok(Election::Undecided),
                }
                if let Some(entry) = self.look_up(call, Source::Store).await? {
                    return Ok(Election::Found(entry));
                }
                match write.acquire_before(call.deadline).await? {
                    Acquired::Held(guard) => guard,
                    Acquired::Busy(_) => return Ok(Election::Undecided),
                }
            }
        };
        let guard = guard.auto_renew(call.policy.max_wait);
        // Another process may have written it before this one held the lock.
        Ok(match self.look_up(call, Source::Store).await? {
            Some(entry) if !entry.is_due => Election::Found(entry),
            _ => Election::Won(guard),
        })
    }
}

/// Returns the name of the lock of an entry. A long key is cut and its checksum appended: two keys
/// with the same name would only wait for each other.
fn lock_name(key: &[u8]) -> Vec<u8> {
    let name = [LOCK_PREFIX, key].concat();
    if name.len() <= MAX_NAME_BYTES {
        return name;
    }
    let checksum = Crc::<u64>::new(&CRC_64_XZ).checksum(key);
    let checksum = format!(":{checksum:016x}");
    [
        &name[..MAX_NAME_BYTES - checksum.len()],
        checksum.as_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_names_are_distinct_and_fit() {
        assert_eq!(
            lock_name(b"lockstock:cache:a:1:b"),
            b"lockstock-cache:lockstock:cache:a:1:b"
        );
        let (a, b) = ([b'x'; 5000], [b'x'; 5001]);
        assert_ne!(lock_name(&a), lock_name(&b));
        assert_eq!(lock_name(&a).len(), MAX_NAME_BYTES);
    }
}
