//! Values with a time to live, in the memory of this process.
//!
//! What has ended is never seen, and is removed in small steps: each write removes a few. So
//! there are never many more of them than of those that are alive, and no call takes long.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// How many a write removes at most. More than the one that it adds.
const A_STEP: usize = 4;

/// When a value ends; the number tells those that end together apart.
type End = (Instant, u64);

#[derive(Default)]
pub(in crate::store) struct Values {
    values: HashMap<Arc<[u8]>, (Bytes, End)>,
    /// The same in the order in which they end.
    ends: BTreeMap<End, Arc<[u8]>>,
    last: u64,
}

impl Values {
    pub(in crate::store) fn get(&self, key: &[u8], now: Instant) -> Option<Bytes> {
        let (value, (ends, _)) = self.values.get(key)?;
        (*ends > now).then(|| value.clone())
    }

    pub(in crate::store) fn set(&mut self, key: &[u8], value: &[u8], ttl: Duration, now: Instant) {
        self.sweep(now);
        self.delete(key);
        self.last += 1;
        let (key, end) = (Arc::<[u8]>::from(key), (now + ttl, self.last));
        // A copy: what it was cut from, a whole request perhaps, need not stay.
        let value = Bytes::copy_from_slice(value);
        self.values.insert(key.clone(), (value, end));
        self.ends.insert(end, key);
    }

    pub(in crate::store) fn delete(&mut self, key: &[u8]) {
        if let Some((_, end)) = self.values.remove(key) {
            self.ends.remove(&end);
        }
    }

    fn sweep(&mut self, now: Instant) {
        for _ in 0..A_STEP {
            match self.ends.first_entry() {
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
    fn what_has_ended_is_removed_by_later_writes() {
        let (mut values, now) = (Values::default(), Instant::now());
        for n in 0..100_u8 {
            values.set(&[n], b"short", Duration::from_secs(1), now);
        }
        let later = now + Duration::from_secs(2);
        assert_eq!(values.get(&[7], later), None);
        for n in 0..34_u8 {
            values.set(&[b'x', n], b"long", Duration::from_secs(60), later);
        }
        assert_eq!((values.values.len(), values.ends.len()), (34, 34));
    }

    #[test]
    fn a_value_that_is_written_again_has_its_new_end() {
        let (mut values, now) = (Values::default(), Instant::now());
        values.set(b"a", b"1", Duration::from_secs(1), now);
        values.set(b"a", b"2", Duration::from_secs(60), now);
        let later = now + Duration::from_secs(2);
        values.set(b"b", b"", Duration::from_secs(60), later);
        assert_eq!(values.get(b"a", later), Some(Bytes::from_static(b"2")));
        assert_eq!(values.ends.len(), 2);
    }
}
