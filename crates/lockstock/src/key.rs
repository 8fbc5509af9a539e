//! From a lock's name to its keys in the store.
//!
//! Guarantees: all keys of one name hash to one Redis Cluster slot; two names never share
//! a key; an ordinary name *is* its key, so that redis-py, django-redis and rslock, which
//! know nothing of us, can contend for the same lock.
//!
//! | name | holder's key | side keys |
//! |---|---|---|
//! | no `}` in it | the name | `lockstock:{NAME}:KIND` |
//! | with a hash tag, `a{tag}b` | the name | `lockstock:t:{tag}:KIND:NAME` |
//! | braces that leave no usable tag, or a name that begins with `lockstock:` | `lockstock:e:{ENCODED}` | `lockstock:e:{ENCODED}:KIND` |
//!
//! A hash tag is what [the Cluster specification] says it is: what stands between the
//! first `{` and the first `}` after it, if that is not empty. ENCODED is the name with
//! `%`, `{` and `}` written as `%25`, `%7B` and `%7D`.
//!
//! [the Cluster specification]: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/

use crate::error::{Error, Result};

/// The longest name of a lock, in bytes.
pub const MAX_NAME_BYTES: usize = 1024;

const RESERVED: &[u8] = b"lockstock:";

/// The keys of one lock in the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Keys {
    /// Holds the token of the holder; absent when the lock is free.
    pub(crate) holder: Vec<u8>,
    /// Counts the fences given out.
    pub(crate) fence: Vec<u8>,
    /// Who waits, in order of arrival.
    pub(crate) queue: Vec<u8>,
}

impl Keys {
    /// Fails on an empty name and on one longer than [`MAX_NAME_BYTES`].
    pub(crate) fn of(name: &[u8]) -> Result<Self> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(Error::invalid(format!(
                "a lock's name takes 1 to {MAX_NAME_BYTES} bytes, this one has {}",
                name.len()
            )));
        }
        Ok(if name.starts_with(RESERVED) {
            Self::encoded(name)
        } else if let Some(tag) = hash_tag(name) {
            let side = |kind: &[u8]| [b"lockstock:t:{", tag, b"}:", kind, b":", name].concat();
            Self {
                holder: name.to_vec(),
                fence: side(b"fence"),
                queue: side(b"queue"),
            }
        } else if name.contains(&b'}') {
            Self::encoded(name)
        } else {
            let side = |kind: &[u8]| [b"lockstock:{", name, b"}:", kind].concat();
            Self {
                holder: name.to_vec(),
                fence: side(b"fence"),
                queue: side(b"queue"),
            }
        })
    }

    fn encoded(name: &[u8]) -> Self {
        let mut encoded = Vec::with_capacity(name.len() + 8);
        for &byte in name {
            match byte {
                b'%' => encoded.extend_from_slice(b"%25"),
                b'{' => encoded.extend_from_slice(b"%7B"),
                b'}' => encoded.extend_from_slice(b"%7D"),
                _ => encoded.push(byte),
            }
        }
        let holder = [b"lockstock:e:{", &encoded[..], b"}"].concat();
        Self {
            fence: [&holder[..], b":fence"].concat(),
            queue: [&holder[..], b":queue"].concat(),
            holder,
        }
    }
}

fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|&byte| byte == b'{')?;
    let length = key[open + 1..].iter().position(|&byte| byte == b'}')?;
    (length > 0).then(|| &key[open + 1..open + 1 + length])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// What the Cluster specification hashes: the tag, or else the whole key.
    fn hashed(key: &[u8]) -> &[u8] {
        hash_tag(key).unwrap_or(key)
    }

    #[test]
    fn names_of_every_shape_stay_in_one_slot_and_share_no_key() {
        let names: &[&[u8]] = &[
            b"product-update-lock-42",
            b"a{b",
            b"a}b",
            b"a%7Db",
            b"{}",
            b"a{}b",
            b"a{}b{x}",
            b"{x}",
            b"x",
            b"a{x}b",
            b"a{x}b{y}",
            b"}{",
            b"{{x}}",
            b"lockstock:{x}:fence",
            b"lockstock:e:{a%7Db}",
            b"lockstock:",
            b"with\0nul\r\nand newline",
            b"t:{x}",
            &[0xff, 0xfe],
        ];
        let mut owner: HashMap<Vec<u8>, &[u8]> = HashMap::new();
        for name in names {
            let keys = Keys::of(name).unwrap();
            for side in [&keys.fence, &keys.queue] {
                assert_eq!(hashed(&keys.holder), hashed(side), "slots of {name:?}");
            }
            for key in [keys.holder, keys.fence, keys.queue] {
                if let Some(other) = owner.insert(key.clone(), name) {
                    panic!("{name:?} and {other:?} share {key:?}");
                }
            }
        }
    }

    #[test]
    fn an_ordinary_name_is_its_own_key() {
        assert_eq!(
            Keys::of(b"product-update-lock-42").unwrap().holder,
            b"product-update-lock-42"
        );
        assert_eq!(Keys::of(b"cart:{7}").unwrap().holder, b"cart:{7}");
    }

    #[test]
    fn a_name_is_1_to_1024_bytes() {
        assert!(Keys::of(b"").unwrap_err().is_invalid());
        assert!(Keys::of(&[b'x'; 1024]).is_ok());
        assert!(Keys::of(&[b'x'; 1025]).unwrap_err().is_invalid());
    }
}
