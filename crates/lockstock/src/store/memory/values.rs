//! Values with a time to live, in the memory of this process.
//!
//! Expired values are never returned. Each write removes a few of them, so their number stays
//! proportional to that of the live values, and no call takes long.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// The maximum number of expired values that a write removes. More than it adds.
const SWEEP_BATCH: usize = 4;

/// When a value expires. The number makes the key of values that expire together unique.
type Expiry = (Instant, u64);

#[derive(Default)]
pub(in crate::store) struct Values {
    values: HashMap<Arc<[u8]>, (Bytes, Expiry)>,
    /// The keys in the order in which their values expire.
    expiries: BTreeMap<Expiry, Arc<[u8]>>,
    last_number: u64,
}

impl Values {
    pub(in crate::store) fn get(&self, key: &[u8], now: Instant) -> Option<Bytes> {
        let (value, (expires_at, _)) = self.values.get(key)?;
        (*expires_at > now).then(|| value.clone())
    }

    pub(in crate::store) fn set(&mut self, key: &[u8], value: &[u8], ttl: Duration, now: Instant) {
        self.sweep(now);
        self.delete(key);
        self.last_number += 1;
        let (key, expiry) = (Arc::<[u8]>::from(key), (now + ttl, self.last_number));
        // A copy: the value may be a slice of a larger buffer, such as a whole request.
        let value = Bytes::copy_from_slice(value);
        self.values.insert(key.clone(), (value, expiry));
        self.expiries.insert(expiry, key);
    }

    pub(in crate::store) fn delete(&mut self, key: &[u8]) {
        if let Some((_, expiry)) = self.values.remove(key) {
            self.expiries.remove(&expiry);
        }
    }

    fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEEP_BATCH {
            match self.expiries.first_entry() {
                Some(first) if first.key().0 <= now => {
                    self.values.remove(&first.remove());
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_writes_remove_expired_values() {
        let (mut values, now) = (Values::default(), Instant::now());
        for n in 0..100_u8 {
            values.set(&[n], b"short", Duration::from_secs(1), now);
        }
        let later = now + Duration::from_secs(2);
        assert_eq!(values.get(&[7], later), None);
        for n in 0..34_u8 {
            values.set(&[b'x', n], b"long", Duration::from_secs(60), later);
        }
        assert_eq!((values.values.len(), values.expiries.len()), (34, 34));
    }

    #[test]
    fn a_rewritten_value_has_the_new_expiry() {
        let (mut values, now) = (Values::default(), Instant::now());
        values.set(b"a", b"1", Duration::from_secs(1), now);
        values.set(b"a", b"2", Duration::from_secs(60), now);
        let later = now + Duration::from_secs(2);
        values.set(b"b", b"", Duration::from_secs(60), later);
        assert_eq!(values.get(b"a", later), Some(Bytes::from_static(b"2")));
        assert_eq!(values.expiries.len(), 2);
    }
}
