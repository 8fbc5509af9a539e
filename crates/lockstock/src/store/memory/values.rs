//! Values with a time to live, in the memory of this process.
//!
//! Expired values are never returned. Each write removes a few of them, so their number stays
//! proportional to that of the live values, and no call takes long.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::cache::{Ttl, parse_integer};
use crate::command::{Command, Reply};
use crate::error::{Error, Result};
use crate::store::values::{
    Delete, DeleteIfEqual, Exists, Get, GetMany, Increment, Persist, Set, SetCondition, Touch,
    TtlOf, ValueCommand,
};

/// The maximum number of expired values that a write removes. More than it adds.
const SWEEP_BATCH: usize = 4;

/// When a value expires. The number makes the key of values that expire together unique.
type Expiry = (Instant, u64);

#[derive(Default)]
pub(crate) struct Values {
    /// In the order of the keys, so that a scan can go on after a key.
    entries: BTreeMap<Arc<[u8]>, Entry>,
    /// The keys in the order in which their values expire.
    expiries: BTreeMap<Expiry, Arc<[u8]>>,
    last_number: u64,
}

struct Entry {
    value: Bytes,
    /// `None`: never.
    expiry: Option<Expiry>,
}

impl Entry {
    fn is_live(&self, now: Instant) -> bool {
        self.expiry.is_none_or(|(expires_at, _)| expires_at > now)
    }
}

/// A command as the memory store carries it out.
pub(crate) trait Apply: ValueCommand {
    fn apply(&self, values: &mut Values, now: Instant) -> Result<Self::Reply>;
}

impl Values {
    fn live(&self, key: &[u8], now: Instant) -> Option<&Entry> {
        let entry = self.entries.get(key)?;
        entry.is_live(now).then_some(entry)
    }

    /// Returns the keys from a bound on, in order, each with whether its value has not expired.
    pub(super) fn keys_from(
        &self,
        from: Bound<&[u8]>,
        now: Instant,
    ) -> impl Iterator<Item = (&Arc<[u8]>, bool)> {
        let entries = self.entries.range::<[u8], _>((from, Bound::Unbounded));
        entries.map(move |(key, entry)| (key, entry.is_live(now)))
    }

    fn get(&self, key: &[u8], now: Instant) -> Option<Bytes> {
        Some(self.live(key, now)?.value.clone())
    }

    fn set(&mut self, key: &[u8], value: &[u8], ttl: Ttl, now: Instant) {
        self.sweep(now);
        self.remove(key);
        let key = Arc::<[u8]>::from(key);
        let expiry = self.expire(&key, ttl, now);
        // A copy: the value may be a slice of a larger buffer, such as a whole request.
        let value = Bytes::copy_from_slice(value);
        self.entries.insert(key, Entry { value, expiry });
    }

    /// Records when the value under `key` expires.
    fn expire(&mut self, key: &Arc<[u8]>, ttl: Ttl, now: Instant) -> Option<Expiry> {
        let Ttl::After(ttl) = ttl else { return None };
        self.last_number += 1;
        let expiry = (now + ttl, self.last_number);
        self.expiries.insert(expiry, key.clone());
        Some(expiry)
    }

    /// Changes when a live value expires. Returns its previous expiry, `None` if there is no value.
    fn touch(&mut self, key: &[u8], ttl: Ttl, now: Instant) -> Option<Option<Expiry>> {
        self.live(key, now)?;
        let (key, before) = {
            let (key, entry) = self.entries.get_key_value(key)?;
            (key.clone(), entry.expiry)
        };
        if let Some(before) = before {
            self.expiries.remove(&before);
        }
        let expiry = self.expire(&key, ttl, now);
        self.entries.get_mut(&key)?.expiry = expiry;
        Some(before)
    }

    /// Returns whether the key was present, expired or not.
    fn remove(&mut self, key: &[u8]) -> bool {
        let removed = self.entries.remove(key);
        if let Some(expiry) = removed.as_ref().and_then(|entry| entry.expiry) {
            self.expiries.remove(&expiry);
        }
        removed.is_some()
    }

    fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEEP_BATCH {
            match self.expiries.first_entry() {
                Some(first) if first.key().0 <= now => {
                    self.entries.remove(&first.remove());
                }
                _ => return,
            }
        }
    }
}

impl Apply for Get {
    fn apply(&self, values: &mut Values, now: Instant) -> Result<Option<Bytes>> {
        Ok(values.get(&self.key, now))
    }
}

impl Apply for GetMany {
    fn apply(&self, values: &mut Values, now: Instant) -> Result<Vec<Option<Bytes>>> {
        Ok(self.keys.iter().map(|key| values.get(key, now)).collect())
    }
}

impl Apply for Set {
    fn apply(&self, values: &mut Values, now: Instant) -> Result<bool> {
        let is_present = values.live(&self.key, now).is_some();
        let is_met = match self.condition {
            SetCondition::Always => true,
            SetCondition::IfMissing => !is_present,
            SetCondition::IfPresent => is_present,
        };
        if is_met {
            values.set(&self.key, &self.value, self.ttl, now);
        }
        Ok(is_met)
    }
}

impl Apply for Delete {
    fn apply(&self, values: &mut Values, now: Instant) -> Result<u64> {
        let mut deleted = 0;
        for key in &self.keys {
            deleted += u64::from(values.live(key, now).is_some());
            values.remove(key);
        }
        Ok(deleted)
    }
}

impl Apply for DeleteIfEqual {
    fn apply(&self, values: &mut Values, now: Instant) -> Result<bool> {
        let is_equal = values.get(&self.key, now).as_ref() == Some(&self.value);
        Ok(is_equal && values.remove(&self.key))
    }
}

impl Apply for Exists {
    fn apply(&self, values: &mut Values, now: Instant) -> Result<bool> {
        Ok(values.live(&self.key, now).is_some())
    }
}

impl Apply for Touch {
    fn apply(&self, values: &mut Values, now: Instant) -> Result<bool> {
        Ok(values.touch(&self.key, Ttl::After(self.ttl), now).is_some())
    }
}

impl Apply for Persist {
    fn apply(&self, values: &mut Values, now: Instant) -> Result<bool> {
        let before = values.touch(&self.key, Ttl::Never, now);
        Ok(before.flatten().is_some())
    }
}

impl Apply for TtlOf {
    fn apply(&self, values: &mut Values, now: Instant) -> Result<Option<Ttl>> {
        Ok(values.live(&self.key, now).map(|entry| match entry.expiry {
            Some((expires_at, _)) => Ttl::After(expires_at.saturating_duration_since(now)),
            None => Ttl::Never,
        }))
    }
}

impl Apply for Increment {
    fn apply(&self, values: &mut Values, now: Instant) -> Result<Option<i64>> {
        let Some(before) = values.get(&self.key, now) else {
            if let Some(ttl) = self.if_missing {
                values.set(&self.key, self.by.to_string().as_bytes(), ttl, now);
            }
            return Ok(self.if_missing.map(|_| self.by));
        };
        let before = parse_integer(&before)
            .ok_or_else(|| Error::malformed("the value in the cache is no integer of 64 bits"))?;
        let sum = before
            .checked_add(self.by)
            .ok_or_else(|| Error::malformed("the sum is no integer of 64 bits"))?;
        if let Some(entry) = values.entries.get_mut(&self.key[..]) {
            entry.value = sum.to_string().into();
        }
        Ok(Some(sum))
    }
}

impl Apply for Command {
    fn apply(&self, _: &mut Values, _: Instant) -> Result<Reply> {
        Err(Error::invalid(
            "a memory store has no commands of Redis: use redis:// instead of memory://",
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Ttl = Ttl::After(Duration::from_secs(1));
    const MINUTE: Ttl = Ttl::After(Duration::from_secs(60));

    #[test]
    fn later_writes_remove_expired_values() {
        let (mut values, now) = (Values::default(), Instant::now());
        for n in 0..100_u8 {
            values.set(&[n], b"short", SECOND, now);
        }
        let later = now + Duration::from_secs(2);
        assert_eq!(values.get(&[7], later), None);
        for n in 0..34_u8 {
            values.set(&[b'x', n], b"long", MINUTE, later);
        }
        assert_eq!((values.entries.len(), values.expiries.len()), (34, 34));
    }

    #[test]
    fn a_rewritten_value_has_the_new_expiry() {
        let (mut values, now) = (Values::default(), Instant::now());
        values.set(b"a", b"1", SECOND, now);
        values.set(b"a", b"2", MINUTE, now);
        let later = now + Duration::from_secs(2);
        values.set(b"b", b"", MINUTE, later);
        assert_eq!(values.get(b"a", later), Some(Bytes::from_static(b"2")));
        assert_eq!(values.expiries.len(), 2);
    }
}
