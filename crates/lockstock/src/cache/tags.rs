//! Tags: entries that are removed together.
//!
//! A tag has a random token in the store. An entry carries the tokens that its tags had before its
//! value was loaded, and is a miss unless they are still the same. To invalidate a tag is to remove
//! its token; the next use creates another one.
//!
//! Guarantees: after [`invalidate_tag`](Cache::invalidate_tag) has returned, no read that begins
//! later returns a value of that tag whose tags were read before; in another process with a
//! [near cache](Cache::near), within the bound that it sets. If the store loses a token, the
//! entries of that tag are misses, and stay so.
//!
//! Not guaranteed: that a failover to a replica keeps the removal of a token that the replica had
//! not received. Entries of that tag are valid again then, as any value that was removed is
//! present again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use tokio::time::Instant;

use super::codec::Codec;
use super::entries::Entries;
use super::envelope::{Envelope, NEVER_MS, TagToken};
use super::ttl::{MAX_TTL, Ttl};
use super::{Cache, Source};
use crate::error::{Error, Result};
use crate::random::random;
use crate::store::values::{Delete, Persist, Set, SetCondition, Touch, TtlOf};

/// The maximum number of tags of an entry: 64. Each read of the entry reads the token of each tag.
pub const MAX_TAGS: usize = 64;
/// The maximum length of a tag: 1 KiB.
pub const MAX_TAG_BYTES: usize = 1024;

/// How long a new token lives, unless an entry that carries it lives longer.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);

/// The state of some tags at one moment, from [`Cache::tags`]. A value that is loaded later is valid
/// as long as none of them is invalidated.
#[derive(Debug, Clone)]
#[must_use = "pass it to `set_tagged` with the value that was loaded after it"]
pub struct Tags {
    tokens: Vec<Token>,
    /// The cache that the tags belong to.
    tag_prefix: Arc<[u8]>,
}

/// A token, and how long it lives in the store at least.
#[derive(Debug, Clone)]
struct Token {
    token: TagToken,
    /// `None`: without end.
    expires_at: Option<Instant>,
}

impl Tags {
    pub(super) fn tokens(&self) -> Vec<TagToken> {
        self.tokens
            .iter()
            .map(|token| token.token.clone())
            .collect()
    }
}

impl<T, C: Codec<T>> Cache<T, C> {
    /// Returns the state of `tags`, for [`set_tagged`](Self::set_tagged). Call it **before** the value
    /// is loaded: an invalidation in between makes the entry a miss.
    ///
    /// A tag is any bytes, 1 byte to 1 KiB ([`MAX_TAG_BYTES`]), and belongs to the namespace: all
    /// versions share it. In Redis its token is a string under `lockstock:tag:NAMESPACE:TAG`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn load_page() -> String { "Mug, 12 €".to_owned() }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let pages = store.cache::<String>("pages");
    /// let tags = pages.tags(["product:42", "category:mugs"]).await?;
    /// let page = load_page().await;
    /// pages.set_tagged("/mugs", &page, Duration::from_secs(60), &tags).await?;
    /// assert_eq!(pages.get("/mugs").await?.as_deref(), Some("Mug, 12 €"));
    ///
    /// pages.invalidate_tag("product:42").await?;
    /// assert_eq!(pages.get("/mugs").await?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`is_invalid`](crate::Error::is_invalid) if a tag is empty or too long or there are more than
    /// 64 ([`MAX_TAGS`]), [`is_unavailable`](crate::Error::is_unavailable) if the store fails or does
    /// not reply.
    pub async fn tags<N: AsRef<[u8]>>(&self, tags: impl IntoIterator<Item = N>) -> Result<Tags> {
        let tags = tags.into_iter();
        let tags: Vec<_> = tags
            .map(|tag| Bytes::copy_from_slice(tag.as_ref()))
            .collect();
        check_tags(&tags)?;
        self.read_tags(&tags).await
    }

    /// Writes `value` under `key` and the tags. The entry has an envelope: another program cannot
    /// read it as plain bytes, and it cannot be [incremented](Cache::incr).
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), and [`is_invalid`](crate::Error::is_invalid) if the tags are those of
    /// another namespace.
    pub async fn set_tagged(
        &self,
        key: impl AsRef<[u8]>,
        value: &T,
        ttl: impl Into<Ttl>,
        tags: &Tags,
    ) -> Result<()> {
        let key = self.entries.key(key.as_ref())?;
        if tags.tag_prefix != *self.entries.tag_prefix() {
            return Err(Error::invalid("the tags are those of another namespace"));
        }
        let ttl = self.entries.ttl(ttl.into())?;
        let envelope = Envelope {
            stale_at_ms: NEVER_MS,
            computed_in_us: 0,
            tags: tags.tokens(),
            payload: self.entries.encode_payload(value)?,
        };
        self.entries.check_size(&envelope.payload)?;
        self.store.flights().supersede(&key);
        let always = SetCondition::Always;
        self.write_entry(key, envelope.seal(), ttl, tags, always)
            .await?;
        Ok(())
    }

    /// Invalidates all entries that were written under `tag`, in this process and all others. After
    /// it has returned, no read that begins later returns one of them; another process with a
    /// [near cache](Self::near) may do so within the bound that it sets. A computation that began
    /// before is included: its value is written and not read.
    ///
    /// # Errors
    ///
    /// [`is_invalid`](crate::Error::is_invalid) if the tag is empty or too long,
    /// [`is_unavailable`](crate::Error::is_unavailable) if the store fails or does not reply. The tag
    /// may have been invalidated nevertheless: repeat the call until it succeeds.
    pub async fn invalidate_tag(&self, tag: impl AsRef<[u8]>) -> Result<()> {
        let tag = tag.as_ref();
        check_tag(tag)?;
        let keys = vec![self.entries.tag_key(tag)];
        self.store.value(&Delete { keys }).await?;
        Ok(())
    }

    /// Returns whether none of the tags was invalidated since.
    pub(super) async fn are_valid(&self, tokens: &[TagToken], source: Source) -> Result<bool> {
        let reads = tokens
            .iter()
            .map(|token| self.read_token(&token.tag, source));
        let present = try_join_all(reads).await?;
        let mut pairs = present.iter().zip(tokens);
        Ok(pairs.all(|(present, expected)| *present == Some(expected.token)))
    }

    /// Returns the token of a tag, `None` if there is none.
    pub(super) async fn read_token(&self, tag: &[u8], source: Source) -> Result<Option<u64>> {
        match self.read_bytes(self.entries.tag_key(tag), source).await {
            Ok(bytes) => Ok(bytes.as_deref().and_then(parse)),
            Err(error) if error.is_malformed() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the tokens of the tags, which are created if there are none.
    pub(super) async fn read_tags(&self, tags: &[Bytes]) -> Result<Tags> {
        Ok(Tags {
            tokens: try_join_all(tags.iter().map(|tag| self.token(tag))).await?,
            tag_prefix: self.entries.tag_prefix().clone(),
        })
    }

    async fn token(&self, tag: &Bytes) -> Result<Token> {
        let key = self.entries.tag_key(tag);
        let ttl = TtlOf { key: key.clone() };
        let (token, ttl) =
            tokio::join!(self.read_token(tag, Source::Store), self.store.value(&ttl));
        if let (Some(token), Some(ttl)) = (token?, ttl?) {
            return Ok(Token::new(tag, token, ttl));
        }
        let new = random();
        let ttl = Ttl::After(TOKEN_TTL);
        let mut set = Set {
            key,
            value: format(new),
            ttl,
            condition: SetCondition::IfMissing,
        };
        if self.store.value(&set).await? {
            return Ok(Token::new(tag, new, ttl));
        }
        let token = match self.read_token(tag, Source::Store).await? {
            // Of another caller that was faster.
            Some(token) => token,
            None => {
                // Invalidated again, or no token: it is replaced, so that the tag can be used.
                set.condition = SetCondition::Always;
                self.store.value(&set).await?;
                new
            }
        };
        Ok(Token::new(tag, token, ttl))
    }

    /// Writes an entry. The tokens that it carries live at least as long. Returns whether the
    /// condition was met.
    pub(super) async fn write_entry(
        &self,
        key: Vec<u8>,
        entry: Bytes,
        ttl: Ttl,
        tags: &Tags,
        condition: SetCondition,
    ) -> Result<bool> {
        let tokens = tags.tokens.iter();
        let prolonged = join_all(tokens.map(|token| self.prolong(token, ttl))).await;
        prolonged.into_iter().collect::<Result<()>>()?;
        let set = Set {
            key,
            value: entry,
            ttl,
            condition,
        };
        self.store.value(&set).await
    }

    /// Lets a token live at least for `ttl`. Twice as long, so that a tag in use is prolonged rarely.
    async fn prolong(&self, token: &Token, ttl: Ttl) -> Result<()> {
        let key = self.entries.tag_key(&token.token.tag);
        match (ttl, token.expires_at) {
            (_, None) => {}
            (Ttl::After(ttl), Some(expires_at)) if Instant::now() + ttl <= expires_at => {}
            (Ttl::After(ttl), Some(_)) => {
                let ttl = (2 * ttl).clamp(TOKEN_TTL, MAX_TTL);
                self.store.value(&Touch { key, ttl }).await?;
            }
            (Ttl::Never, Some(_)) => {
                self.store.value(&Persist { key }).await?;
            }
        }
        Ok(())
    }
}

impl Token {
    fn new(tag: &Bytes, token: u64, ttl: Ttl) -> Self {
        let tag = tag.clone();
        let expires_at = match ttl {
            Ttl::After(ttl) => Some(Instant::now() + ttl),
            Ttl::Never => None,
        };
        Self {
            token: TagToken { tag, token },
            expires_at,
        }
    }
}

impl<C> Entries<C> {
    /// Returns the key of the token of a tag.
    pub(crate) fn tag_key(&self, tag: &[u8]) -> Vec<u8> {
        [self.tag_prefix(), tag].concat()
    }
}

/// Checks the number of tags, and each of them.
pub(super) fn check_tags(tags: &[Bytes]) -> Result<()> {
    if tags.len() > MAX_TAGS {
        return Err(Error::invalid(format!(
            "an entry can have at most {MAX_TAGS} tags, not {}",
            tags.len()
        )));
    }
    tags.iter().try_for_each(|tag| check_tag(tag))
}

fn check_tag(tag: &[u8]) -> Result<()> {
    if tag.is_empty() || tag.len() > MAX_TAG_BYTES {
        return Err(Error::invalid(format!(
            "a tag must have 1 to {MAX_TAG_BYTES} bytes, this one has {}",
            tag.len()
        )));
    }
    Ok(())
}

fn format(token: u64) -> Bytes {
    format!("{token:016x}").into()
}

/// Parses the output of [`format`].
fn parse(bytes: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(bytes).ok()?;
    (digits.len() == 16).then_some(())?;
    u64::from_str_radix(digits, 16).ok()
}
