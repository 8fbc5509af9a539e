//! Values that are computed when they are missing, by one caller for all.
//!
//! Guarantees: of all callers in this process that find no value under a key, one computes, and the
//! others get its value or its error; the same over all processes with
//! [`once_per_store`](ComputePolicy::once_per_store). If that caller panics, is cancelled, or its
//! process dies, another one computes. A value whose computation began before a write or a removal
//! of its key in the same process is not kept. If the store is unavailable, values are computed and
//! returned without it.
//!
//! Not guaranteed: one computation while the store is unavailable, or when a computation takes
//! longer than [`max_wait`](ComputePolicy::max_wait). That a value whose computation began before
//! another process wrote or removed the key does not replace it: [tags](Cache::tags) guarantee that.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crc::{CRC_64_XZ, Crc};
use futures_util::future::join_all;
use metrics::{counter, histogram};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use super::Cache;
use super::codec::Codec;
use super::envelope::{Envelope, TagToken, now_ms};
use super::flight::{Failure, Lead, Role};
use super::policy::ComputePolicy;
use super::tags::Tags;
use crate::error::{Error, Result};
use crate::escaped::Escaped;
use crate::guard::Guard;
use crate::key::MAX_NAME_BYTES;
use crate::lock::Acquired;
use crate::store::values::Delete;

/// What the names of the locks of [`once_per_store`](ComputePolicy::once_per_store) begin with.
const LOCK_PREFIX: &[u8] = b"lockstock-cache:";

/// Why [`get_or_try_set`](Cache::get_or_try_set) has no value.
#[derive(Debug)]
pub enum ComputeError<E> {
    /// The computation failed. Shared by all callers that waited for it.
    Failed(Arc<E>),
    /// The call can never succeed ([`is_invalid`](Error::is_invalid)). Never the unavailability of
    /// the store.
    Invalid(Error),
}

/// One call, whatever it turns out to do.
struct Call {
    key: Vec<u8>,
    policy: ComputePolicy,
    /// The end of all waits.
    deadline: Option<Instant>,
    /// From 0 to 1. Drawn once, so that a second look at an entry does not decide otherwise.
    random: f64,
}

/// An entry whose value may be returned.
struct Entry<T> {
    value: T,
    payload: Bytes,
    stale_at_ms: u64,
    /// The value is stale, or is to be computed early.
    is_due: bool,
    /// The tokens of the tags of the policy.
    tokens: Vec<TagToken>,
}

/// What a leader begins with.
struct Start<T> {
    /// The tags as they were before now. `None` if they have to be read.
    tags: Option<Tags>,
    /// The value to return if there is no newer one.
    due: Option<Entry<T>>,
    is_available: bool,
}

/// The decision over all processes about the caller that computes.
enum Election<T> {
    Won(Guard),
    /// Another process has written the value.
    Found(Entry<T>),
    /// Another process is computing, and the caller need not wait.
    Lost,
    /// The store is unavailable, or another process takes too long.
    Undecided,
}

impl<T, C: Codec<T>> Cache<T, C> {
    /// Returns the value under `key`. If there is none, computes it and writes it: as
    /// [`get_or_try_set`](Self::get_or_try_set), for a computation that cannot fail.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let squares = store.cache::<u64>("squares");
    /// let minute = Duration::from_secs(60);
    /// assert_eq!(squares.get_or_set("12", minute, async || 12 * 12).await?, 144);
    /// assert_eq!(squares.get("12").await?, Some(144));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`is_invalid`](Error::is_invalid) as [`ComputeError::Invalid`]. Never unavailable.
    pub async fn get_or_set(
        &self,
        key: impl AsRef<[u8]>,
        policy: impl Into<ComputePolicy>,
        compute: impl AsyncFnOnce() -> T,
    ) -> Result<T> {
        let compute = async move || Ok::<_, Infallible>(compute().await);
        let value = self.get_or_try_set(key, policy, compute).await;
        value.map_err(|error| match error {
            ComputeError::Failed(never) => match *never {},
            ComputeError::Invalid(error) => error,
        })
    }

    /// Returns the value under `key`. If there is none, calls `compute`, and writes and returns its
    /// value. `policy` is a time to live, or a [`ComputePolicy`] for more.
    ///
    /// Callers in this process that find no value at the same time share one call of `compute`, its
    /// value or its error. An error is not kept: the next caller computes again. A value that cannot
    /// be decoded counts as missing.
    ///
    /// If the store is unavailable, the value is computed and returned without it; that is logged
    /// once, and counted in `lockstock_cache_unavailable_total`. A value that is larger than
    /// [`max_value_bytes`](Self::max_value_bytes) is returned and not written.
    ///
    /// ```
    /// use std::time::Duration;
    /// use lockstock::{ComputePolicy, Store};
    ///
    /// # async fn rate_of(currency: &str) -> std::io::Result<f64> { Ok(1.09) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Store::memory();
    /// let rates = store.cache::<f64>("rates");
    /// let policy = ComputePolicy::new(Duration::from_secs(60))
    ///     .stale_for(Duration::from_secs(600))
    ///     .once_per_store(Duration::from_secs(5));
    /// let rate = rates.get_or_try_set("EUR", policy, async || rate_of("EUR").await).await?;
    /// assert_eq!(rate, 1.09);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ComputeError::Failed`] if the computation failed and there is no stale value.
    /// [`ComputeError::Invalid`] if the key, the policy or a tag is out of range, the value cannot
    /// be encoded, or `compute` itself asks for the value of `key`. A computation in a task that
    /// `compute` has spawned, or two computations that ask for each other's values, are not
    /// detected: they end at [`max_wait`](ComputePolicy::max_wait).
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, so is the computation, and one of the callers that wait computes
    /// instead.
    pub async fn get_or_try_set<E: Send + Sync + 'static>(
        &self,
        key: impl AsRef<[u8]>,
        policy: impl Into<ComputePolicy>,
        compute: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<T, ComputeError<E>> {
        let policy = policy.into().checked().map_err(ComputeError::Invalid)?;
        let key = self.entries.key(key.as_ref());
        let call = Call {
            key: key.map_err(ComputeError::Invalid)?,
            deadline: Instant::now().checked_add(policy.max_wait),
            random: rand::random(),
            policy,
        };
        let flights = self.store.flights();
        let ended = flights.ended();
        let (entry, is_available) = self.look_up_if_available(&call).await;
        let (lead, start) = match entry {
            Some(entry) if !entry.is_due => {
                counter!("lockstock_cache_hits_total").increment(1);
                return Ok(entry.value);
            }
            Some(entry) => match flights.try_lead(&call.key, &entry.tokens, ended) {
                Some(lead) => (
                    lead,
                    Start {
                        tags: None,
                        due: Some(entry),
                        is_available,
                    },
                ),
                None => return Ok(entry.value_while_due()),
            },
            None => {
                counter!("lockstock_cache_misses_total").increment(1);
                let mut start = Start {
                    tags: None,
                    due: None,
                    is_available,
                };
                self.read_tags_if_available(&call, &mut start).await;
                let tokens = start.tags.as_ref().map(Tags::tokens).unwrap_or_default();
                let waiter = match flights.join(&call.key, &tokens, ended) {
                    Role::Lead(lead) => return self.lead(&call, lead, start, compute).await,
                    Role::Wait(waiter) => waiter,
                    Role::Recursive => {
                        return Err(ComputeError::Invalid(Error::invalid(format!(
                            "the computation of the value of {:?} asks for the same value",
                            Escaped(&call.key)
                        ))));
                    }
                };
                let outcome = match call.deadline {
                    Some(deadline) => timeout_at(deadline, waiter.wait()).await,
                    None => Ok(waiter.wait().await),
                };
                let lead = match outcome {
                    Ok(Ok(Ok(payload))) => match self.entries.decode(&payload) {
                        Ok(value) => return Ok(value),
                        // Of a cache with another codec.
                        Err(_) => None,
                    },
                    Ok(Ok(Err(Failure::Invalid(error)))) => {
                        return Err(ComputeError::Invalid(error));
                    }
                    Ok(Ok(Err(Failure::Computation(error)))) => match error.downcast() {
                        Ok(error) => return Err(ComputeError::Failed(error)),
                        // Of a computation with another type of error.
                        Err(_) => None,
                    },
                    Ok(Err(lead)) => Some(lead),
                    Err(_) => waiter.take_over(),
                };
                drop(waiter);
                match lead {
                    Some(lead) => (lead, start),
                    None => return compute_alone(compute).await,
                }
            }
        };
        self.lead(&call, lead, start, compute).await
    }

    /// Computes the value for all callers that wait.
    async fn lead<E: Send + Sync + 'static>(
        &self,
        call: &Call,
        lead: Lead<'_>,
        mut start: Start<T>,
        compute: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<T, ComputeError<E>> {
        if lead.must_read_again && start.is_available {
            let (entry, is_available) = self.look_up_if_available(call).await;
            start.is_available = is_available;
            match entry {
                Some(entry) if !entry.is_due => {
                    lead.publish(Ok(entry.payload));
                    return Ok(entry.value);
                }
                Some(entry) => start.due = Some(entry),
                None => {}
            }
        }
        let mut guard = None;
        if let Some(lease) = call.policy.lease
            && start.is_available
        {
            match self.elect(call, lease, start.due.is_some()).await {
                Election::Won(won) => guard = Some(won),
                Election::Found(entry) => {
                    lead.publish(Ok(entry.payload));
                    return Ok(entry.value);
                }
                Election::Lost | Election::Undecided => {
                    if let Some(entry) = start.due {
                        return Ok(entry.value_while_due());
                    }
                }
            }
            // The tags may have been invalidated during the wait.
            start.tags = None;
        }
        self.read_tags_if_available(call, &mut start).await;

        let begun = Instant::now();
        let computed = lead.run(compute()).await;
        let elapsed = begun.elapsed();
        count_computation(computed.is_ok(), elapsed);
        let value = match computed {
            Ok(value) => value,
            Err(error) => {
                let error = Arc::new(error);
                lead.publish(Err(Failure::Computation(error.clone())));
                return match start.due {
                    Some(entry) if call.policy.allows_stale(entry.stale_at_ms) => {
                        warn!(key = ?Escaped(&call.key), "a computation failed: returning the last value");
                        Ok(entry.value_while_due())
                    }
                    _ => Err(ComputeError::Failed(error)),
                };
            }
        };
        let payload = match self.entries.encode_payload(&value) {
            Ok(payload) => payload,
            Err(error) => {
                lead.publish(Err(Failure::Invalid(error.clone())));
                return Err(ComputeError::Invalid(error));
            }
        };
        lead.publish(Ok(payload.clone()));
        if let (true, Some(tags)) = (start.is_available, &start.tags) {
            let written = self
                .write_computed(call, &lead, guard.as_ref(), tags, payload, elapsed)
                .await;
            if let Err(error) = written {
                self.store.bypass().note_failure(&error);
            }
        }
        Ok(value)
    }

    /// Writes a value unless it is too large or has been overtaken.
    async fn write_computed(
        &self,
        call: &Call,
        lead: &Lead<'_>,
        guard: Option<&Guard>,
        tags: &Tags,
        payload: Bytes,
        elapsed: Duration,
    ) -> Result<()> {
        if let Err(error) = self.entries.check_size(&payload) {
            warn!(key = ?Escaped(&call.key), "not written: {error}");
            return Ok(());
        }
        // If the lock was lost, another process may have written a later value.
        if lead.is_superseded() || guard.is_some_and(|guard| guard.remaining().is_zero()) {
            debug!(key = ?Escaped(&call.key), "not written: overtaken");
            return Ok(());
        }
        let lifetime = call.policy.lifetime(&self.entries)?;
        let envelope = Envelope {
            stale_at_ms: lifetime.stale_at_ms,
            computed_in_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            tags: tags.tokens(),
            payload,
        };
        let written = self
            .write_envelope(call.key.clone(), envelope, lifetime.ttl, Some(tags))
            .await;
        // Another caller may have written or removed the key since the check above.
        if lead.is_superseded() {
            let keys = vec![call.key.clone()];
            self.store.value(&Delete { keys }).await?;
        }
        written
    }

    /// Decides over all processes whether this one computes.
    ///
    /// The one that computes holds the write side of a lock. The others wait for the read side, which
    /// one release grants to all of them, and read the entry. If there is none, because the
    /// computation has failed or its process has died, they queue for the write side.
    async fn elect(&self, call: &Call, lease: Duration, has_value: bool) -> Election<T> {
        match self.try_elect(call, lease, has_value).await {
            Ok(election) => election,
            Err(error) => {
                self.store.bypass().note_failure(&error);
                Election::Undecided
            }
        }
    }

    async fn try_elect(
        &self,
        call: &Call,
        lease: Duration,
        has_value: bool,
    ) -> Result<Election<T>> {
        let name = lock_name(&call.key);
        let write = self.store.write_lock(&name).lease(lease)?;
        let guard = match write.try_acquire().await? {
            Acquired::Held(guard) => guard,
            Acquired::Busy(_) if has_value => return Ok(Election::Lost),
            Acquired::Busy(_) => {
                let read = self.store.read_lock(&name).lease(lease)?;
                match read.acquire_before(call.deadline).await? {
                    // Dropped before the entry is read: the release is on its way with the read.
                    Acquired::Held(guard) => drop(guard),
                    Acquired::Busy(_) => return Ok(Election::Undecided),
                }
                if let Some(entry) = self.look_up(call).await? {
                    return Ok(Election::Found(entry));
                }
                match write.acquire_before(call.deadline).await? {
                    Acquired::Held(guard) => guard,
                    Acquired::Busy(_) => return Ok(Election::Undecided),
                }
            }
        };
        let guard = guard.auto_renew(call.policy.max_wait);
        // Another process may have written it before this one held the lock.
        Ok(match self.look_up(call).await? {
            Some(entry) if !entry.is_due => Election::Found(entry),
            _ => Election::Won(guard),
        })
    }

    async fn look_up_if_available(&self, call: &Call) -> (Option<Entry<T>>, bool) {
        match self.look_up(call).await {
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

    /// Reads the tags unless they have been read.
    async fn read_tags_if_available(&self, call: &Call, start: &mut Start<T>) {
        if start.tags.is_none() && start.is_available {
            match self.read_tags(&call.policy.tags).await {
                Ok(tags) => start.tags = Some(tags),
                Err(error) => {
                    self.store.bypass().note_failure(&error);
                    start.is_available = false;
                }
            }
        }
    }

    /// Returns the entry of `call`, `None` if there is none that may be returned.
    async fn look_up(&self, call: &Call) -> Result<Option<Entry<T>>> {
        let tags = &call.policy.tags;
        let tokens = join_all(tags.iter().map(|tag| self.read_token(tag)));
        // At the same time, so that tags cost no round trip.
        let (bytes, tokens) = tokio::join!(self.read_bytes(call.key.clone()), tokens);
        let entry = match self.judge(call, bytes, tokens).await {
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
        if !self.are_valid(&others).await? {
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
    fn value_while_due(self) -> T {
        let metric = match self.stale_at_ms <= now_ms() {
            true => counter!("lockstock_cache_stale_total"),
            false => counter!("lockstock_cache_hits_total"),
        };
        metric.increment(1);
        self.value
    }
}

/// Computes a value that cannot be shared.
async fn compute_alone<T, E>(
    compute: impl AsyncFnOnce() -> Result<T, E>,
) -> Result<T, ComputeError<E>> {
    let begun = Instant::now();
    let computed = compute().await;
    count_computation(computed.is_ok(), begun.elapsed());
    computed.map_err(|error| ComputeError::Failed(Arc::new(error)))
}

fn count_computation(is_ok: bool, elapsed: Duration) {
    let outcome = if is_ok { "computed" } else { "failed" };
    counter!("lockstock_cache_computations_total", "outcome" => outcome).increment(1);
    histogram!("lockstock_cache_compute_seconds").record(elapsed);
}

/// Returns the name of the lock of an entry. A long key is cut and its checksum appended: two keys
/// with the same name would only wait for each other.
fn lock_name(key: &[u8]) -> Vec<u8> {
    let name = [LOCK_PREFIX, key].concat();
    if name.len() <= MAX_NAME_BYTES {
        return name;
    }
    let checksum = Crc::<u64>::new(&CRC_64_XZ).checksum(key);
    let checksum = format!(":{checksum:016x}");
    [
        &name[..MAX_NAME_BYTES - checksum.len()],
        checksum.as_bytes(),
    ]
    .concat()
}

impl<E> ComputeError<E> {
    /// Returns the error of the computation, `None` if it was not called.
    pub fn failed(&self) -> Option<&E> {
        match self {
            Self::Failed(error) => Some(error),
            Self::Invalid(_) => None,
        }
    }
}

impl<E> Clone for ComputeError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Failed(error) => Self::Failed(error.clone()),
            Self::Invalid(error) => Self::Invalid(error.clone()),
        }
    }
}

impl<E: fmt::Display> fmt::Display for ComputeError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "the value cannot be computed: {error}"),
            Self::Invalid(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for ComputeError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(error) => Some(&**error),
            Self::Invalid(error) => error.source(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_names_are_distinct_and_fit() {
        assert_eq!(
            lock_name(b"lockstock:cache:a:1:b"),
            b"lockstock-cache:lockstock:cache:a:1:b"
        );
        let (a, b) = ([b'x'; 5000], [b'x'; 5001]);
        assert_ne!(lock_name(&a), lock_name(&b));
        assert_eq!(lock_name(&a).len(), MAX_NAME_BYTES);
    }
}
