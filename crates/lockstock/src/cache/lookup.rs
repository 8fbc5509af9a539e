//! One look at an entry, for a call that may compute it.

use bytes::Bytes;
use futures_util::future::join_all;
use metrics::counter;
use tokio::time::Instant;
use tracing::debug;

use super::codec::Codec;
use super::envelope::{Envelope, TagToken, now_ms};
use super::policy::ComputePolicy;
use super::{Cache, Source};
use crate::error::Result;
use crate::escaped::Escaped;

/// One call, whatever it turns out to do.
pub(super) struct Call {
    pub(super) key: Vec<u8>,
    pub(super) policy: ComputePolicy,
    /// The end of all waits.
    pub(super) deadline: Option<Instant>,
    /// From 0 to 1. Drawn once, so that a second look at an entry does not decide otherwise.
    pub(super) random: f64,
}

/// An entry whose value may be returned.
pub(super) struct Entry<T> {
    pub(super) value: T,
    pub(super) payload: Bytes,
    pub(super) stale_at_ms: u64,
    /// The value is stale, or is to be computed early.
    pub(super) is_due: bool,
    /// The tokens of the tags of the policy.
    pub(super) tokens: Vec<TagToken>,
}

impl<T, C: Codec<T>> Cache<T, C> {
    /// Looks at the entry. Returns also whether the store is available.
    pub(super) async fn look_up_if_available(
        &self,
        call: &Call,
        source: Source,
    ) -> (Option<Entry<T>>, bool) {
        match self.look_up(call, source).await {
            Ok(entry) => {
                self.store.bypass().note_success();
                (entry, true)
            }
            Err(error) => {
                self.store.bypass().note_failure(&error);
                (None, false)
            }
        }
    }

    /// Returns the entry of `call`, `None` if there is none that may be returned.
    pub(super) async fn look_up(&self, call: &Call, source: Source) -> Result<Option<Entry<T>>> {
        let tags = &call.policy.tags;
        let tokens = join_all(tags.iter().map(|tag| self.read_token(tag, source)));
        // At the same time, so that tags cost no round trip.
        let (bytes, tokens) = tokio::join!(self.read_bytes(call.key.clone(), source), tokens);
        let entry = match self.judge(call, source, bytes, tokens).await {
            Err(error) if error.is_malformed() => {
                debug!(key = ?Escaped(&call.key), "computing the value again: {error}");
                None
            }
            entry => entry?,
        };
        Ok(entry)
    }

    async fn judge(
        &self,
        call: &Call,
        source: Source,
        bytes: Result<Option<Bytes>>,
        tokens: Vec<Result<Option<u64>>>,
    ) -> Result<Option<Entry<T>>> {
        let Some(bytes) = bytes? else { return Ok(None) };
        let tokens = tokens.into_iter().collect::<Result<Vec<_>>>()?;
        let envelope = Envelope::open(bytes)?;
        let mut present = Vec::with_capacity(tokens.len());
        for (tag, token) in call.policy.tags.iter().zip(tokens) {
            let tag = tag.clone();
            // An entry that does not carry a tag of the policy was not written by it.
            match token.map(|token| TagToken { tag, token }) {
                Some(token) if envelope.tags.contains(&token) => present.push(token),
                _ => return Ok(None),
            }
        }
        let others = envelope.tags.iter().filter(|tag| !present.contains(tag));
        let others: Vec<_> = others.cloned().collect();
        if !self.are_valid(&others, source).await? {
            return Ok(None);
        }
        let stale_at_ms = envelope.stale_at_ms;
        let is_stale = envelope.is_stale(now_ms());
        if is_stale && !call.policy.allows_stale(stale_at_ms) {
            return Ok(None);
        }
        let computed_in_us = envelope.computed_in_us;
        let is_early = || {
            call.policy
                .is_early(stale_at_ms, computed_in_us, call.random)
        };
        Ok(Some(Entry {
            value: self.entries.decode(&envelope.payload)?,
            payload: envelope.payload,
            stale_at_ms,
            is_due: is_stale || is_early(),
            tokens: present,
        }))
    }
}

impl<T> Entry<T> {
    /// Returns the value, which is not computed again by this caller.
    pub(super) fn value_while_due(self) -> T {
        let metric = match self.stale_at_ms <= now_ms() {
            true => counter!("lockstock_cache_stale_total"),
            false => counter!("lockstock_cache_hits_total"),
        };
        metric.increment(1);
        self.value
    }
}
