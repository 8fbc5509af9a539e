//! What an entry has beside its value: when it becomes stale, how long its computation took, the
//! tags under which it was written. Only entries that need it have an envelope; all others are the
//! plain bytes of their value.
//!
//! Guarantees: every sequence of bytes is either plain, an envelope, or malformed. A plain value
//! that begins like an envelope is written inside one.
//!
//! The format, numbers in big-endian order:
//!
//! | bytes | content |
//! |---|---|
//! | 4 | `C1 4C 53 01`. No JSON, no MessagePack and no integer begins with `C1` |
//! | 8 | when the value becomes stale, in milliseconds since 1970; all ones: never |
//! | 8 | how long the computation took, in microseconds |
//! | 2 | the number of tags; for each: 2 bytes length, the tag, 8 bytes token |
//! | rest | the value |

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::{Error, Result};
use crate::lease::as_millis;

/// What an envelope begins with. The last byte is the version of the format.
const MAGIC: [u8; 4] = [0xC1, b'L', b'S', 1];

/// The value of an entry that never becomes stale.
pub(crate) const NEVER_MS: u64 = u64::MAX;

/// Content of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// On the clock of the machine that wrote the entry.
    pub(crate) stale_at_ms: u64,
    pub(crate) computed_in_us: u64,
    pub(crate) tags: Vec<TagToken>,
    pub(crate) payload: Bytes,
}

/// A tag and the token that it had before the value was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TagToken {
    pub(crate) tag: Bytes,
    pub(crate) token: u64,
}

impl Envelope {
    pub(crate) fn plain(payload: Bytes) -> Self {
        Self {
            stale_at_ms: NEVER_MS,
            computed_in_us: 0,
            tags: Vec::new(),
            payload,
        }
    }

    /// Returns the bytes of the entry: plain if the envelope contains nothing but the value.
    pub(crate) fn seal(self) -> Bytes {
        let has_only_a_value = self.stale_at_ms == NEVER_MS && self.tags.is_empty();
        if has_only_a_value && !self.payload.starts_with(&MAGIC) {
            return self.payload;
        }
        let tags = self.tags.iter().map(|tag| tag.tag.len() + 10);
        let len = MAGIC.len() + 18 + tags.sum::<usize>() + self.payload.len();
        let mut bytes = BytesMut::with_capacity(len);
        bytes.put_slice(&MAGIC);
        bytes.put_u64(self.stale_at_ms);
        bytes.put_u64(self.computed_in_us);
        // Both fit: `tags.rs` bounds the number of tags and their lengths.
        bytes.put_u16(self.tags.len() as u16);
        for TagToken { tag, token } in &self.tags {
            bytes.put_u16(tag.len() as u16);
            bytes.put_slice(tag);
            bytes.put_u64(*token);
        }
        bytes.put_slice(&self.payload);
        bytes.freeze()
    }

    /// Reads an entry. The payload is a part of `bytes`, not a copy.
    ///
    /// # Errors
    ///
    /// [`is_malformed`](Error::is_malformed) if `bytes` begin like an envelope and are none.
    pub(crate) fn open(mut bytes: Bytes) -> Result<Self> {
        if !bytes.starts_with(&MAGIC) {
            return Ok(Self::plain(bytes));
        }
        bytes.advance(MAGIC.len());
        let malformed = |_| Error::malformed("the entry in the cache is no valid envelope");
        let stale_at_ms = bytes.try_get_u64().map_err(malformed)?;
        let computed_in_us = bytes.try_get_u64().map_err(malformed)?;
        let count = bytes.try_get_u16().map_err(malformed)?;
        // Without a capacity: the number may be wrong.
        let mut tags = Vec::new();
        for _ in 0..count {
            let len = usize::from(bytes.try_get_u16().map_err(malformed)?);
            if bytes.len() < len {
                return Err(Error::malformed("the entry in the cache ends in a tag"));
            }
            let tag = bytes.split_to(len);
            let token = bytes.try_get_u64().map_err(malformed)?;
            tags.push(TagToken { tag, token });
        }
        Ok(Self {
            stale_at_ms,
            computed_in_us,
            tags,
            payload: bytes,
        })
    }

    pub(crate) fn is_stale(&self, now_ms: u64) -> bool {
        self.stale_at_ms != NEVER_MS && self.stale_at_ms <= now_ms
    }
}

/// Returns the wall clock in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    as_millis(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn bytes(len: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), len).prop_map(Bytes::from)
    }

    fn payload() -> impl Strategy<Value = Bytes> {
        let like_an_envelope = bytes(0..40).prop_map(|rest| [&MAGIC[..], &rest].concat().into());
        prop_oneof![bytes(0..40), like_an_envelope]
    }

    fn envelope() -> impl Strategy<Value = Envelope> {
        let tag = (bytes(0..20), any::<u64>()).prop_map(|(tag, token)| TagToken { tag, token });
        let stale_at_ms = prop_oneof![Just(NEVER_MS), any::<u64>()];
        let content = (stale_at_ms, any::<u64>(), vec(tag, 0..4), payload());
        content.prop_map(|(stale_at_ms, computed_in_us, tags, payload)| Envelope {
            stale_at_ms,
            computed_in_us,
            tags,
            payload,
        })
    }

    proptest! {
        #[test]
        fn a_sealed_entry_is_opened_again(envelope in envelope()) {
            let opened = Envelope::open(envelope.clone().seal()).unwrap();
            if opened == Envelope::plain(envelope.payload.clone()) {
                // Without an expiry, the time of the computation is not kept.
                prop_assert_eq!((envelope.stale_at_ms, envelope.tags), (NEVER_MS, vec![]));
            } else {
                prop_assert_eq!(opened, envelope);
            }
        }

        #[test]
        fn any_bytes_are_plain_or_an_envelope_or_malformed(bytes in payload()) {
            match Envelope::open(bytes.clone()) {
                Ok(opened) if bytes.starts_with(&MAGIC) => {
                    prop_assert!(bytes.ends_with(&opened.payload));
                }
                Ok(opened) => prop_assert_eq!(opened, Envelope::plain(bytes)),
                Err(error) => prop_assert!(error.is_malformed()),
            }
        }

        #[test]
        fn a_truncated_envelope_is_never_plain(envelope in envelope(), end in 4_usize..60) {
            let sealed = envelope.clone().seal();
            prop_assume!(sealed.starts_with(&MAGIC) && end < sealed.len());
            if let Ok(opened) = Envelope::open(sealed.slice(..end)) {
                prop_assert!(envelope.payload.starts_with(&opened.payload));
            }
        }
    }

    #[test]
    fn the_payload_is_not_copied() {
        let envelope = Envelope {
            stale_at_ms: 1,
            ..Envelope::plain(Bytes::from_static(b"value"))
        };
        let sealed = envelope.seal();
        let end = sealed.as_ptr_range().end;
        assert_eq!(
            Envelope::open(sealed).unwrap().payload.as_ptr_range().end,
            end
        );
    }
}
