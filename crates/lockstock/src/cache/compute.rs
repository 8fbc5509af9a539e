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
use metrics::{counter, histogram};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use super::codec::Codec;
use super::election::Election;
use super::envelope::Envelope;
use super::flight::{Failure, Lead, Role, Waiter};
use super::lookup::{Call, Entry};
use super::policy::ComputePolicy;
use super::tags::Tags;
use super::writing::Writing;
use super::{Cache, Source};
use crate::error::{Error, Result};
use crate::escaped::Escaped;
use crate::guard::Guard;
use crate::random::random;
use crate::store::values::SetCondition;

/// Why [`get_or_try_set`](Cache::get_or_try_set) has no value.
#[derive(Debug)]
pub enum ComputeError<E> {
    /// The computation failed. Shared by all callers that waited for it.
    Failed(Arc<E>),
    /// The call can never succeed ([`is_invalid`](Error::is_invalid)). Never the unavailability of
    /// the store.
    Invalid(Error),
}

/// What a leader begins with.
struct Start<T> {
    /// The tags as they were before now. `None` if they have to be read.
    tags: Option<Tags>,
    /// The value to return if there is no newer one.
    due: Option<Entry<T>>,
    is_available: bool,
}

/// A computed value that is to be written.
struct Computed {
    payload: Bytes,
    /// How long the computation took.
    elapsed: Duration,
    condition: SetCondition,
}

/// How a wait for another caller ended.
enum Waited<'a, T, E> {
    Done(Result<T, ComputeError<E>>),
    /// This caller has to compute for all.
    Lead(Lead<'a>),
    /// This caller has to compute for itself.
    Unshared,
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
            random: random(),
            policy,
        };
        let flights = self.store.flights();
        let ended = flights.ended();
        let (entry, is_available) = self.look_up_if_available(&call, Source::Any).await;
        let mut start = Start {
            tags: None,
            due: None,
            is_available,
        };
        let lead = match entry {
            Some(entry) if !entry.is_due => {
                counter!("lockstock_cache_hits_total").increment(1);
                return Ok(entry.value);
            }
            Some(entry) => match flights.try_lead(&call.key, &entry.tokens, ended) {
                Some(lead) => {
                    start.due = Some(entry);
                    lead
                }
                None => return Ok(entry.value_while_due()),
            },
            None => {
                counter!("lockstock_cache_misses_total").increment(1);
                // Before the computation that this call may share: a later invalidation ends it.
                self.read_tags_if_available(&call, &mut start).await;
                let tokens = start.tags.as_ref().map(Tags::tokens).unwrap_or_default();
                match flights.join(&call.key, &tokens, ended) {
                    Role::Lead(lead) => lead,
                    Role::Wait(waiter) => match self.wait(&call, waiter).await {
                        Waited::Done(done) => return done,
                        Waited::Lead(lead) => lead,
                        Waited::Unshared => return compute_alone(compute).await,
                    },
                    Role::Recursive => return Err(is_recursive(&call.key)),
                }
            }
        };
        self.lead(&call, lead, start, compute).await
    }

    /// Waits for the outcome of another caller.
    async fn wait<'a, E: Send + Sync + 'static>(
        &self,
        call: &Call,
        waiter: Waiter<'a>,
    ) -> Waited<'a, T, E> {
        let outcome = match call.deadline {
            Some(deadline) => timeout_at(deadline, waiter.wait()).await,
            None => Ok(waiter.wait().await),
        };
        match outcome {
            Ok(Ok(Ok(payload))) => match self.entries.decode(&payload) {
                Ok(value) => Waited::Done(Ok(value)),
                // Of a cache with another codec.
                Err(_) => Waited::Unshared,
            },
            Ok(Ok(Err(Failure::Computation(error)))) => match error.downcast() {
                Ok(error) => Waited::Done(Err(ComputeError::Failed(error))),
                // Of a computation with another type of error.
                Err(_) => Waited::Unshared,
            },
            Ok(Ok(Err(Failure::Invalid(error)))) => Waited::Done(Err(ComputeError::Invalid(error))),
            Ok(Err(lead)) => Waited::Lead(lead),
            Err(_) => match waiter.take_over() {
                Some(lead) => Waited::Lead(lead),
                None => Waited::Unshared,
            },
        }
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
            let (entry, is_available) = self.look_up_if_available(call, Source::Store).await;
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
                drop(lead);
                release(guard).await;
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
        let condition = match call.policy.if_missing && start.due.is_none() {
            true => SetCondition::IfMissing,
            false => SetCondition::Always,
        };
        if condition == SetCondition::Always {
            // Before it is written, which the other callers need not wait for.
            lead.publish(Ok(payload.clone()));
        }
        let mut other = None;
        if let (true, Some(tags)) = (start.is_available, &start.tags) {
            let computed = Computed {
                payload: payload.clone(),
                elapsed,
                condition,
            };
            let written = self
                .write_computed(call, &lead, guard.as_ref(), tags, computed)
                .await;
            match written {
                Ok(entry) => other = entry,
                Err(error) => {
                    self.store.bypass().note_failure(&error);
                    // Released in the background.
                    guard = None;
                }
            }
        }
        let value = match other {
            Some(entry) => {
                lead.publish(Ok(entry.payload));
                entry.value
            }
            None => {
                lead.publish(Ok(payload));
                value
            }
        };
        drop(lead);
        release(guard).await;
        Ok(value)
    }

    /// Writes a value unless it is too large or has been overtaken. Returns the entry of another
    /// writer that has precedence.
    async fn write_computed(
        &self,
        call: &Call,
        lead: &Lead<'_>,
        guard: Option<&Guard>,
        tags: &Tags,
        computed: Computed,
    ) -> Result<Option<Entry<T>>> {
        let Computed {
            payload,
            elapsed,
            condition,
        } = computed;
        if let Err(error) = self.entries.check_size(&payload) {
            warn!(key = ?Escaped(&call.key), "not written: {error}");
            return Ok(None);
        }
        // If the lock was lost, another process may have written a later value.
        if lead.is_superseded() || guard.is_some_and(|guard| guard.remaining().is_zero()) {
            debug!(key = ?Escaped(&call.key), "not written: overtaken");
            return match condition {
                SetCondition::IfMissing => self.look_up(call, Source::Store).await,
                _ => Ok(None),
            };
        }
        let lifetime = call.policy.lifetime(&self.entries)?;
        let envelope = Envelope {
            stale_at_ms: lifetime.stale_at_ms,
            computed_in_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            tags: tags.tokens(),
            payload,
        };
        let (key, entry) = (call.key.clone(), envelope.seal());
        let writing = Writing::new(&self.store, lead, &key, &entry);
        let written = self
            .write_entry(key.clone(), entry.clone(), lifetime.ttl, tags, condition)
            .await;
        let is_written = match written {
            Ok(is_written) => is_written,
            Err(error) => {
                writing.end().await?;
                return Err(error);
            }
        };
        let mut other = None;
        if !is_written {
            other = self.look_up(call, Source::Store).await?;
            if other.is_none() {
                // What is there cannot be returned: it is stale, invalidated or malformed.
                let always = SetCondition::Always;
                self.write_entry(key.clone(), entry.clone(), lifetime.ttl, tags, always)
                    .await?;
            }
        }
        writing.end().await?;
        Ok(other)
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

fn is_recursive<E>(key: &[u8]) -> ComputeError<E> {
    ComputeError::Invalid(Error::invalid(format!(
        "the computation of the value of {:?} asks for the same value",
        Escaped(key)
    )))
}

/// Releases the lock of a computation. Waits for that, because a process that ends next would leave the
/// lock held, and all other processes would wait for the end of its lease.
async fn release(guard: Option<Guard>) {
    if let Some(guard) = guard {
        // Retried in the background if the store does not reply.
        let _ = guard.release().await;
    }
}

fn count_computation(is_ok: bool, elapsed: Duration) {
    let outcome = if is_ok { "computed" } else { "failed" };
    counter!("lockstock_cache_computations_total", "outcome" => outcome).increment(1);
    histogram!("lockstock_cache_compute_seconds").record(elapsed);
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
