//! The Redis keys of a lock name.
//!
//! Guarantees: all keys of a name hash to one Redis Cluster slot; two names never share a key; an
//! ordinary name *is* its holder key, so that redis-py, django-redis and rslock can contend for
//! the same lock.
//!
//! The keys of an exclusive lock:
//!
//! | name | holder key | queue key |
//! |---|---|---|
//! | contains no `}` | the name | `lockstock:{NAME}:queue` |
//! | contains a hash tag, `a{tag}b` | the name | `lockstock:t:{tag}:queue:NAME` |
//! | contains braces but no usable tag, or begins with `lockstock:` | `lockstock:e:{ENCODED}` | `lockstock:e:{ENCODED}:queue` |
//!
//! For a semaphore, both keys have the form of the queue key, with `permits` and `permits-queue`
//! in place of `queue`; for a read-write lock, with `holders` and `holders-queue`.
//!
//! A hash tag is that of [the Cluster specification]: the bytes between the first `{` and the
//! first `}` after it, if there are any. ENCODED is the name with `%`, `{` and `}` written as
//! `%25`, `%7B` and `%7D`.
//!
//! [the Cluster specification]: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::error::{Error, Result};
use crate::escaped::Escaped;

/// The maximum length of a lock name: 1 KiB.
pub const MAX_NAME_BYTES: usize = 1024;

const RESERVED: &[u8] = b"lockstock:";

/// The kind of a lock. Locks of different kinds are independent, even if they have the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LockKind {
    /// One holder at a time: [`Store::lock`](crate::Store::lock).
    Lock,
    /// Up to N holders at a time: [`Store::semaphore`](crate::Store::semaphore).
    Semaphore,
    /// Many readers or one writer: [`Store::read_lock`](crate::Store::read_lock).
    ReadWrite,
}

impl LockKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Lock, Self::Semaphore, Self::ReadWrite];
}

/// Displays `lock`, `semaphore` or `read-write`.
impl fmt::Display for LockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lock => "lock",
            Self::Semaphore => "semaphore",
            Self::ReadWrite => "read-write",
        })
    }
}

/// The keys of a lock in the store.
pub(crate) struct Keys {
    pub(crate) kind: LockKind,
    /// The lock name, `None` if it is the holder key.
    name: Option<Box<[u8]>>,
    /// The key of the holder or holders, absent if there is none.
    pub(crate) holder: Vec<u8>,
    /// The key of the waiters in order of arrival.
    pub(crate) queue: Vec<u8>,
}

impl Keys {
    /// Fails on an empty name and on one longer than [`MAX_NAME_BYTES`].
    pub(crate) fn of(kind: LockKind, name: &[u8]) -> Result<Self> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(Error::invalid(format!(
                "the name of a lock must have 1 to {MAX_NAME_BYTES} bytes, this one has {}",
                name.len()
            )));
        }
        let encoded;
        let (prefix, suffix, is_plain) = if name.starts_with(RESERVED) {
            encoded = encode(name);
            (
                [b"lockstock:e:{", &encoded[..], b"}"].concat(),
                &b""[..],
                false,
            )
        } else if let Some(tag) = hash_tag(name) {
            ([b"lockstock:t:{", tag, b"}"].concat(), name, true)
        } else if name.contains(&b'}') {
            encoded = encode(name);
            (
                [b"lockstock:e:{", &encoded[..], b"}"].concat(),
                &b""[..],
                false,
            )
        } else {
            ([b"lockstock:{", name, b"}"].concat(), &b""[..], true)
        };
        let side = |word: &[u8]| {
            let colon: &[u8] = if suffix.is_empty() { b"" } else { b":" };
            [&prefix[..], b":", word, colon, suffix].concat()
        };
        let (holder, queue) = match kind {
            LockKind::Lock if is_plain => (name.to_vec(), side(b"queue")),
            LockKind::Lock => (prefix.clone(), side(b"queue")),
            LockKind::Semaphore => (side(b"permits"), side(b"permits-queue")),
            LockKind::ReadWrite => (side(b"holders"), side(b"holders-queue")),
        };
        Ok(Self {
            kind,
            name: (holder != name).then(|| name.into()),
            holder,
            queue,
        })
    }

    /// Returns the lock name.
    pub(crate) fn name(&self) -> &[u8] {
        self.name.as_deref().unwrap_or(&self.holder)
    }

    /// Returns kind and name of the lock that a holder or queue key belongs to, the inverse of
    /// [`of`](Self::of). `None` if the key belongs to no lock name.
    pub(crate) fn parse(key: &[u8]) -> Option<(LockKind, Vec<u8>)> {
        let (kind, name) = match key.strip_prefix(RESERVED) {
            None => (LockKind::Lock, key.to_vec()),
            Some(rest) => parse_reserved(rest)?,
        };
        // Reject keys that only resemble one.
        let keys = Self::of(kind, &name).ok()?;
        (keys.holder == key || keys.queue == key).then_some((kind, name))
    }
}

/// Parses the part of a key after `lockstock:`.
fn parse_reserved(key: &[u8]) -> Option<(LockKind, Vec<u8>)> {
    let open = key.iter().position(|&byte| byte == b'{')?;
    let close = key.iter().position(|&byte| byte == b'}')?;
    let (form, tag, rest) = (&key[..open], key.get(open + 1..close)?, &key[close + 1..]);
    if rest.is_empty() {
        // The holder key of an exclusive lock.
        return Some((LockKind::Lock, decode(tag)));
    }
    let rest = rest.strip_prefix(b":")?;
    let end = rest.iter().position(|&byte| byte == b':');
    let (word, suffix) = rest.split_at(end.unwrap_or(rest.len()));
    let kind = match word {
        b"queue" => LockKind::Lock,
        b"permits" | b"permits-queue" => LockKind::Semaphore,
        b"holders" | b"holders-queue" => LockKind::ReadWrite,
        _ => return None,
    };
    let name = match form {
        b"" => tag.to_vec(),
        b"t:" => suffix.strip_prefix(b":")?.to_vec(),
        b"e:" => decode(tag),
        _ => return None,
    };
    Some((kind, name))
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({} {:?})", self.kind, Escaped(self.name()))
    }
}

impl fmt::Display for Keys {
    /// Displays the holder key, for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.holder.escape_ascii())
    }
}

// No two names share a holder key.
impl PartialEq for Keys {
    fn eq(&self, other: &Self) -> bool {
        self.holder == other.holder
    }
}

impl Eq for Keys {}

impl Hash for Keys {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.holder.hash(state);
    }
}

/// Encodes a name for use within braces.
fn encode(name: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(name.len() + 8);
    for &byte in name {
        match byte {
            b'%' => encoded.extend_from_slice(b"%25"),
            b'{' => encoded.extend_from_slice(b"%7B"),
            b'}' => encoded.extend_from_slice(b"%7D"),
            _ => encoded.push(byte),
        }
    }
    encoded
}

/// The inverse of [`encode`].
fn decode(encoded: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&byte, tail)) = rest.split_first() {
        let (byte, tail) = match rest {
            [b'%', b'2', b'5', tail @ ..] => (b'%', tail),
            [b'%', b'7', b'B', tail @ ..] => (b'{', tail),
            [b'%', b'7', b'D', tail @ ..] => (b'}', tail),
            _ => (byte, tail),
        };
        name.push(byte);
        rest = tail;
    }
    name
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

    /// The part of a key that the Cluster specification hashes: the tag, or else the whole key.
    fn hashed(key: &[u8]) -> &[u8] {
        hash_tag(key).unwrap_or(key)
    }

    #[test]
    fn keys_of_a_name_share_a_slot_and_keys_of_two_names_are_distinct() {
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
            for kind in [LockKind::Lock, LockKind::Semaphore, LockKind::ReadWrite] {
                let keys = Keys::of(kind, name).unwrap();
                let slots = (hashed(&keys.holder), hashed(&keys.queue));
                assert_eq!(slots.0, slots.1, "slots of {name:?}");
                for key in [keys.holder, keys.queue] {
                    if let Some(other) = owner.insert(key.clone(), name) {
                        panic!("{name:?} and {other:?} share {key:?}");
                    }
                }
            }
        }
    }

    /// Returns all names of these bytes up to a length.
    fn names(bytes: &[u8], length: usize) -> Vec<Vec<u8>> {
        let mut names = vec![Vec::new()];
        let mut from = 0;
        for _ in 0..length {
            let to = names.len();
            for at in from..to {
                for &byte in bytes {
                    names.push([&names[at][..], &[byte]].concat());
                }
            }
            from = to;
        }
        names.remove(0);
        names
    }

    #[test]
    fn every_key_parses_to_its_name_and_kind() {
        let mut all = names(b"a:%{}", 5);
        for tail in names(b"a%{}", 3) {
            for head in [
                "lockstock:",
                "lockstock:{",
                "lockstock:e:{",
                "lockstock:t:{",
            ] {
                all.push([head.as_bytes(), &tail].concat());
                all.push([head.as_bytes(), &tail, b"}:queue"].concat());
                all.push([head.as_bytes(), &tail, b"}:permits:a{b}"].concat());
            }
        }
        all.extend([b"%7B}".to_vec(), b"a}%257D".to_vec(), vec![0xff, b'}']]);
        for name in all {
            for kind in LockKind::ALL {
                let keys = Keys::of(kind, &name).unwrap();
                for key in [&keys.holder, &keys.queue] {
                    assert_eq!(
                        Keys::parse(key),
                        Some((kind, name.clone())),
                        "{}",
                        key.escape_ascii()
                    );
                }
            }
        }
    }

    #[test]
    fn keys_that_only_resemble_one_do_not_parse() {
        let valid = names(b"a:%{}", 4).into_iter().flat_map(|name| {
            let all = LockKind::ALL.map(|kind| Keys::of(kind, &name).unwrap());
            all.map(|keys| [keys.holder, keys.queue]).concat()
        });
        let valid = valid.collect::<std::collections::HashSet<_>>();
        let mut keys = Vec::new();
        for tag in names(b"a%{}", 3) {
            for form in ["", "t:", "e:", "x:"] {
                for tail in [
                    "",
                    ":queue",
                    ":queue:a",
                    ":permits",
                    ":holders-queue",
                    ":fence",
                ] {
                    let key = [b"lockstock:", form.as_bytes(), b"{", &tag, b"}"].concat();
                    keys.push([&key[..], tail.as_bytes()].concat());
                }
            }
        }
        for key in &keys {
            if let Some((kind, name)) = Keys::parse(key)
                && name.len() <= 4
            {
                assert!(valid.contains(key), "{kind} {}", key.escape_ascii());
            }
        }
        for key in [
            "",
            "lockstock:",
            "lockstock:clock",
            "lockstock:ping:0123456789abcdef",
            "lockstock:{x}:fence",
            "lockstock:{x}",
            "lockstock:e:{a}",
            "lockstock:e:{a%7db}",
            "lockstock:t:{x}:queue",
            "lockstock:t:{x}:queue:a{y}",
            "lockstock:}x{:queue",
        ] {
            assert_eq!(Keys::parse(key.as_bytes()), None, "{key}");
        }
    }

    #[test]
    fn an_ordinary_name_is_its_own_key() {
        assert_eq!(
            Keys::of(LockKind::Lock, b"product-update-lock-42")
                .unwrap()
                .holder,
            b"product-update-lock-42"
        );
        assert_eq!(
            Keys::of(LockKind::Lock, b"cart:{7}").unwrap().holder,
            b"cart:{7}"
        );
    }

    #[test]
    fn a_name_is_1_to_1024_bytes() {
        assert!(Keys::of(LockKind::Lock, b"").unwrap_err().is_invalid());
        assert!(Keys::of(LockKind::Lock, &[b'x'; 1024]).is_ok());
        assert!(
            Keys::of(LockKind::Lock, &[b'x'; 1025])
                .unwrap_err()
                .is_invalid()
        );
    }
}
