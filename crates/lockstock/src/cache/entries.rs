//! What an entry of a cache looks like in the store: its key, its bytes, its time to live. The
//! same for asynchronous and for blocking callers.

use std::sync::Arc;

use bytes::Bytes;

use super::codec::{Codec, CodecError};
use super::envelope::Envelope;
use super::ttl::{MIN_TTL, Ttl};
use crate::error::{Error, Result};
use crate::escaped::Escaped;
use crate::lease::truncate_to_millis;
use crate::random::random;

/// The maximum length of a key: 64 KiB.
pub const MAX_KEY_BYTES: usize = 64 * 1024;
/// The maximum size of a value, unless [`max_value_bytes`](crate::Cache::max_value_bytes) sets
/// another: 16 MiB. Larger values delay the locks, which use the same connection.
pub const MAX_VALUE_BYTES: usize = 16 * 1024 * 1024;

/// The length up to which a key in the store is built on the stack.
const SHORT_KEY_BYTES: usize = 192;

/// The prefix of the keys of all values. No lock uses it (see `key.rs`).
const KEY_PREFIX: &[u8] = b"lockstock:cache:";
/// The prefix of the tokens of all tags, which no value and no lock uses.
const TAG_PREFIX: &[u8] = b"lockstock:tag:";

/// Layout and format of the entries of one namespace and version.
#[derive(Debug, Clone)]
pub(crate) struct Entries<C> {
    namespace: Arc<[u8]>,
    version: u64,
    layout: KeyLayout,
    /// What the keys begin with, derived from the fields above.
    prefix: Arc<[u8]>,
    /// What the keys of the tokens begin with. The same for all versions and layouts.
    tag_prefix: Arc<[u8]>,
    pub(crate) codec: C,
    /// The largest share of a time to live that is subtracted at random.
    jitter: f64,
    max_value_bytes: usize,
}

/// How the key of an entry is built.
#[derive(Debug, Clone, Copy)]
enum KeyLayout {
    /// `lockstock:cache:NAMESPACE:VERSION:KEY`.
    Lockstock,
    /// `NAMESPACE:VERSION:KEY`, as Django and django-redis do.
    Django,
    /// `KEY`.
    Bare,
}

impl<C> Entries<C> {
    pub(crate) fn new(namespace: &[u8], codec: C) -> Self {
        let (version, layout) = (1, KeyLayout::Lockstock);
        Self {
            namespace: namespace.into(),
            version,
            layout,
            prefix: prefix(layout, namespace, version),
            tag_prefix: [TAG_PREFIX, &escape(namespace), b":"].concat().into(),
            codec,
            jitter: 0.0,
            max_value_bytes: MAX_VALUE_BYTES,
        }
    }

    pub(crate) fn with_codec<D>(self, codec: D) -> Entries<D> {
        Entries {
            namespace: self.namespace,
            version: self.version,
            layout: self.layout,
            prefix: self.prefix,
            tag_prefix: self.tag_prefix,
            codec,
            jitter: self.jitter,
            max_value_bytes: self.max_value_bytes,
        }
    }

    pub(crate) fn set_version(&mut self, version: u64) {
        self.version = version;
        self.prefix = prefix(self.layout, &self.namespace, version);
    }

    pub(crate) fn use_django_keys(&mut self) {
        self.layout = KeyLayout::Django;
        self.prefix = prefix(self.layout, &self.namespace, self.version);
    }

    pub(crate) fn use_bare_keys(&mut self) {
        self.layout = KeyLayout::Bare;
        self.prefix = prefix(self.layout, &self.namespace, self.version);
    }

    pub(crate) fn set_jitter(&mut self, share: f64) {
        self.jitter = share.clamp(0.0, 1.0);
    }

    pub(crate) fn set_max_value_bytes(&mut self, bytes: usize) {
        self.max_value_bytes = bytes;
    }

    /// Returns what the keys of all entries begin with.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Returns what the keys of the tokens of all tags begin with.
    pub(crate) fn tag_prefix(&self) -> &Arc<[u8]> {
        &self.tag_prefix
    }

    /// Returns the key in the store.
    pub(crate) fn key(&self, key: &[u8]) -> Result<Vec<u8>> {
        check(key)?;
        Ok([&self.prefix, key].concat())
    }

    /// Calls `read` with the key in the store, which is not allocated unless it is long.
    pub(crate) fn with_key<R>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        check(key)?;
        let (prefix, mut buffer) = (self.prefix.len(), [0; SHORT_KEY_BYTES]);
        match buffer.get_mut(..prefix + key.len()) {
            Some(buffer) => {
                buffer[..prefix].copy_from_slice(&self.prefix);
                buffer[prefix..].copy_from_slice(key);
                Ok(read(buffer))
            }
            None => Ok(read(&[&self.prefix, key].concat())),
        }
    }

    /// Returns the time to live of an entry that is written now.
    pub(crate) fn ttl(&self, ttl: Ttl) -> Result<Ttl> {
        Ok(match ttl.checked()? {
            Ttl::After(ttl) if self.jitter > 0.0 => {
                let share = 1.0 - self.jitter * random::<f64>();
                Ttl::After(truncate_to_millis(ttl.mul_f64(share)).max(MIN_TTL))
            }
            ttl => ttl,
        })
    }

    /// Returns the bytes of an entry that has only a value.
    pub(crate) fn encode<T>(&self, value: &T) -> Result<Bytes>
    where
        C: Codec<T>,
    {
        let payload = self.encode_payload(value)?;
        self.check_size(&payload)?;
        Ok(Envelope::plain(payload).seal())
    }

    pub(crate) fn encode_payload<T>(&self, value: &T) -> Result<Bytes>
    where
        C: Codec<T>,
    {
        self.codec.encode(value).map_err(cannot_encode)
    }

    pub(crate) fn check_size(&self, payload: &Bytes) -> Result<()> {
        if payload.len() > self.max_value_bytes {
            return Err(Error::invalid(format!(
                "a value can have at most {} bytes, this one has {}",
                self.max_value_bytes,
                payload.len()
            )));
        }
        Ok(())
    }

    /// Decodes the value of an entry, without its envelope.
    pub(crate) fn decode<T>(&self, payload: &Bytes) -> Result<T>
    where
        C: Codec<T>,
    {
        // Without the key, which may be a secret, such as the id of a session.
        self.codec.decode(payload).map_err(|error| {
            Error::malformed(format!(
                "a value under {:?} cannot be decoded: {error}. Delete it, or add the format that it \
                 was written in to the codec of the cache",
                Escaped(&self.prefix)
            ))
        })
    }
}

fn check(key: &[u8]) -> Result<()> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(Error::invalid(format!(
            "a cache key must have 1 to {MAX_KEY_BYTES} bytes, this one has {}",
            key.len()
        )));
    }
    Ok(())
}

fn cannot_encode(error: CodecError) -> Error {
    Error::invalid(format!("the value cannot be encoded: {error}"))
}

fn prefix(layout: KeyLayout, namespace: &[u8], version: u64) -> Arc<[u8]> {
    let mut prefix = Vec::new();
    match layout {
        KeyLayout::Lockstock => {
            prefix.extend_from_slice(KEY_PREFIX);
            prefix.extend_from_slice(&escape(namespace));
        }
        KeyLayout::Django => prefix.extend_from_slice(namespace),
        KeyLayout::Bare => return prefix.into(),
    }
    prefix.extend_from_slice(format!(":{version}:").as_bytes());
    prefix.into()
}

/// Writes a namespace so that it contains no colon.
fn escape(namespace: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(namespace.len());
    for &byte in namespace {
        match byte {
            b'%' => escaped.extend_from_slice(b"%25"),
            b':' => escaped.extend_from_slice(b"%3A"),
            _ => escaped.push(byte),
        }
    }
    escaped
}
