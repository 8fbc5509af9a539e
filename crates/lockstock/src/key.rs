//! From a lock's name to its keys in the store.
//!
//! Guarantees: all keys of one name hash to one Redis Cluster slot; two names never share
//! a key; an ordinary name *is* its key, so that redis-py, django-redis and rslock, which
//! know nothing of us, can contend for the same lock.
//!
//! Of a lock, whose side key is its queue:
//!
//! | name | holder's key | side key |
//! |---|---|---|
//! | no `}` in it | the name | `lockstock:{NAME}:queue` |
//! | with a hash tag, `a{tag}b` | the name | `lockstock:t:{tag}:queue:NAME` |
//! | braces that leave no usable tag, or a name that begins with `lockstock:` | `lockstock:e:{ENCODED}` | `lockstock:e:{ENCODED}:queue` |
//!
//! Of a semaphore both keys are side keys, called `permits` and `permits-queue`; of a
//! read-write lock `holders` and `holders-queue`.
//!
//! A hash tag is what [the Cluster specification] says it is: what stands between the
//! first `{` and the first `}` after it, if that is not empty. ENCODED is the name with
//! `%`, `{` and `}` written as `%25`, `%7B` and `%7D`.
//!
//! [the Cluster specification]: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::error::{Error, Result};

/// The longest name of a lock, in bytes.
pub const MAX_NAME_BYTES: usize = 1024;

const RESERVED: &[u8] = b"lockstock:";

/// What kind of lock a name is of. Names of different families have nothing to do with each
/// other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LockKind {
    /// One holder at a time: [`Store::lock`](crate::Store::lock).
    Lock,
    /// So many at a time: [`Store::semaphore`](crate::Store::semaphore).
    Semaphore,
    /// Many readers or one writer: [`Store::read_lock`](crate::Store::read_lock).
    ReadWrite,
}

impl LockKind {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Lock, Self::Semaphore, Self::ReadWrite];
}

/// `lock`, `semaphore` or `read-write`.
impl fmt::Display for LockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lock => "lock",
            Self::Semaphore => "semaphore",
            Self::ReadWrite => "read-write",
        })
    }
}

/// The keys of one lock in the store.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) kind: LockKind,
    /// Holds the token of the holder, or those of the holders; absent when there is none.
    pub(crate) holder: Vec<u8>,
    /// Who waits, in order of arrival.
    pub(crate) queue: Vec<u8>,
}

impl Keys {
    /// Fails on an empty name and on one longer than [`MAX_NAME_BYTES`].
    pub(crate) fn of(kind: LockKind, name: &[u8]) -> Result<Self> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(Error::invalid(format!(
                "a lock's name takes 1 to {MAX_NAME_BYTES} bytes, this one has {}",
                name.len()
            )));
        }
        let encoded;
        let (front, back, plain) = if name.starts_with(RESERVED) {
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
        let side = |kind: &[u8]| {
            let colon: &[u8] = if back.is_empty() { b"" } else { b":" };
            [&front[..], b":", kind, colon, back].concat()
        };
        let (holder, queue) = match kind {
            LockKind::Lock if plain => (name.to_vec(), side(b"queue")),
            LockKind::Lock => (front.clone(), side(b"queue")),
            LockKind::Semaphore => (side(b"permits"), side(b"permits-queue")),
            LockKind::ReadWrite => (side(b"holders"), side(b"holders-queue")),
        };
        Ok(Self {
            kind,
            holder,
            queue,
        })
    }

    /// Whose key it is, the holder's or the queue's: the inverse of [`of`](Self::of). `None`
    /// for a key of which no name has any.
    pub(crate) fn whose(key: &[u8]) -> Option<(LockKind, Vec<u8>)> {
        let (kind, name) = match key.strip_prefix(RESERVED) {
            None => (LockKind::Lock, key.to_vec()),
            Some(side) => read_side(side)?,
        };
        // What only looks like one is none.
        let keys = Self::of(kind, &name).ok()?;
        (keys.holder == key || keys.queue == key).then_some((kind, name))
    }
}

/// Reads what stands behind `lockstock:` in a key.
fn read_side(side: &[u8]) -> Option<(LockKind, Vec<u8>)> {
    let open = side.iter().position(|&byte| byte == b'{')?;
    let close = side.iter().position(|&byte| byte == b'}')?;
    let (shape, tag, rest) = (
        &side[..open],
        side.get(open + 1..close)?,
        &side[close + 1..],
    );
    if rest.is_empty() {
        // The holder of a lock.
        return Some((LockKind::Lock, decode(tag)));
    }
    let rest = rest.strip_prefix(b":")?;
    let end = rest.iter().position(|&byte| byte == b':');
    let (kind, back) = rest.split_at(end.unwrap_or(rest.len()));
    let kind = match kind {
        b"queue" => LockKind::Lock,
        b"permits" | b"permits-queue" => LockKind::Semaphore,
        b"holders" | b"holders-queue" => LockKind::ReadWrite,
        _ => return None,
    };
    let name = match shape {
        b"" => tag.to_vec(),
        b"t:" => back.strip_prefix(b":")?.to_vec(),
        b"e:" => decode(tag),
        _ => return None,
    };
    Some((kind, name))
}

impl fmt::Display for Keys {
    /// As logs name the lock.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.holder.escape_ascii())
    }
}

// The holder's key is nobody else's.
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

/// A name that can stand in braces.
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

/// What [`encode`] has written.
fn decode(encoded: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&byte, behind)) = rest.split_first() {
        let (byte, behind) = match rest {
            [b'%', b'2', b'5', behind @ ..] => (b'%', behind),
            [b'%', b'7', b'B', behind @ ..] => (b'{', behind),
            [b'%', b'7', b'D', behind @ ..] => (b'}', behind),
            _ => (byte, behind),
        };
        name.push(byte);
        rest = behind;
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

    /// All names of these bytes up to a length.
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
    fn a_key_tells_its_name_and_family() {
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
                        Keys::whose(key),
                        Some((kind, name.clone())),
                        "{}",
                        key.escape_ascii()
                    );
                }
            }
        }
    }

    #[test]
    fn what_only_looks_like_a_key_is_nobodys() {
        let ours = names(b"a:%{}", 4).into_iter().flat_map(|name| {
            let families = LockKind::ALL.map(|kind| Keys::of(kind, &name).unwrap());
            families.map(|keys| [keys.holder, keys.queue]).concat()
        });
        let ours = ours.collect::<std::collections::HashSet<_>>();
        let mut keys = Vec::new();
        for tag in names(b"a%{}", 3) {
            for shape in ["", "t:", "e:", "x:"] {
                for tail in [
                    "",
                    ":queue",
                    ":queue:a",
                    ":permits",
                    ":holders-queue",
                    ":fence",
                ] {
                    let key = [b"lockstock:", shape.as_bytes(), b"{", &tag, b"}"].concat();
                    keys.push([&key[..], tail.as_bytes()].concat());
                }
            }
        }
        for key in &keys {
            if let Some((kind, name)) = Keys::whose(key)
                && name.len() <= 4
            {
                assert!(ours.contains(key), "{kind} {}", key.escape_ascii());
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
            assert_eq!(Keys::whose(key.as_bytes()), None, "{key}");
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
