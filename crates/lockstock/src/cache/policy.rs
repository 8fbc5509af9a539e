//! What [`get_or_try_set`](crate::Cache::get_or_try_set) does when a value is missing or old.

use std::time::Duration;

use bytes::Bytes;

use super::entries::Entries;
use super::envelope::{NEVER_MS, now_ms};
use super::tags::check_tags;
use super::ttl::{MAX_TTL, Ttl};
use crate::error::{Error, Result};
use crate::lease::{as_millis, checked_lease, truncate_to_millis};

/// How long a caller waits for the computation of another caller, unless
/// [`max_wait`](ComputePolicy::max_wait) sets another time: 30 s.
pub const DEFAULT_COMPUTE_WAIT: Duration = Duration::from_secs(30);

/// How a value is computed and kept: its time to live, and what else
/// [`get_or_try_set`](crate::Cache::get_or_try_set) shall do. A [`Duration`] or a [`Ttl`] converts
/// to a policy that has only a time to live.
///
/// ```
/// # use std::time::Duration;
/// use lockstock::ComputePolicy;
///
/// let policy = ComputePolicy::new(Duration::from_secs(60))
///     .stale_for(Duration::from_secs(600)) // while one caller computes, or if that fails
///     .once_per_store(Duration::from_secs(5)) // one computation over all processes
///     .tags(["product:42"]);
/// ```
///
/// With [`stale_for`](Self::stale_for), [`early_refresh`](Self::early_refresh) or
/// [`tags`](Self::tags) an entry has an envelope: another program cannot read it as plain bytes, and
/// it cannot be [incremented](crate::Cache::incr). [`get`](crate::Cache::get) reads it, and returns
/// no value that is stale or invalidated. [`contains`](crate::Cache::contains),
/// [`ttl`](crate::Cache::ttl) and [`add`](crate::Cache::add) do not read it: such an entry is present
/// to them until the store removes it, and [`touch`](crate::Cache::touch) does not make it fresh.
#[derive(Debug, Clone)]
#[must_use]
pub struct ComputePolicy {
    ttl: Ttl,
    stale_for: Duration,
    early_beta: Option<f64>,
    pub(super) if_missing: bool,
    pub(super) lease: Option<Duration>,
    pub(super) max_wait: Duration,
    pub(super) tags: Vec<Bytes>,
}

/// When a new entry becomes stale, and when it expires.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetime {
    /// [`NEVER_MS`] if the entry has no envelope, or does not expire.
    pub(super) stale_at_ms: u64,
    pub(super) ttl: Ttl,
}

impl ComputePolicy {
    /// Returns a policy by which a value is computed again when it is older than `ttl`.
    pub fn new(ttl: impl Into<Ttl>) -> Self {
        Self {
            ttl: ttl.into(),
            stale_for: Duration::ZERO,
            early_beta: None,
            if_missing: false,
            lease: None,
            max_wait: DEFAULT_COMPUTE_WAIT,
            tags: Vec::new(),
        }
    }

    /// Keeps a value for `stale_for` after its time to live. Meanwhile one caller computes it again,
    /// and all others get the stale value at once. If the computation fails, its caller gets the
    /// stale value too.
    ///
    /// "One caller" is one in each process, or one over all processes with
    /// [`once_per_store`](Self::once_per_store).
    ///
    /// The end of the time to live is compared with the clocks of the machines. Where they differ, a
    /// value is stale earlier or later by the difference. The end of the stale time is the store's.
    pub fn stale_for(mut self, stale_for: Duration) -> Self {
        self.stale_for = stale_for;
        self
    }

    /// Computes a value at most once at the same time over all processes that use the store, by a
    /// lock that its holder renews while it computes. If the holder crashes, another process computes
    /// after `lease`.
    ///
    /// The other processes wait for the value: one release of the lock notifies all of them. A value
    /// is not written if its process has lost the lock, after a pause for example.
    ///
    /// The lock is the read-write lock `lockstock-cache:KEY`, where KEY is the key in the store.
    pub fn once_per_store(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Computes a value again some time before it expires: the later it is and the longer the last
    /// computation took, the more probably. Then no caller has to wait at the expiry, on average.
    /// 1.0 is a good `beta`; more is earlier.
    ///
    /// The algorithm is XFetch by Vattani, Chierichetti and Lowenstein, *Optimal Probabilistic Cache
    /// Stampede Prevention* (2015). The caller that computes waits; for all others nothing changes.
    ///
    /// The expiry is compared with the clocks of the machines, as with [`stale_for`](Self::stale_for):
    /// a machine whose clock is ahead by more than the time to live computes each time.
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.early_beta = Some(beta.max(0.0));
        self
    }

    /// Writes a computed value only if there is none under the key by then, as Django's `get_or_set`
    /// does. Otherwise another program has written one during the computation, and that value is
    /// returned. A stale value is replaced.
    pub fn if_missing(mut self) -> Self {
        self.if_missing = true;
        self
    }

    /// Sets how long a caller waits for the computation of another caller, 30 s
    /// ([`DEFAULT_COMPUTE_WAIT`]) by default. After that it computes itself. Should be longer than the
    /// longest computation.
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// Writes the value under these tags, so that
    /// [`invalidate_tag`](crate::Cache::invalidate_tag) removes it. The tags are read before the
    /// computation begins. At most 64 ([`MAX_TAGS`](crate::MAX_TAGS)).
    pub fn tags<N: AsRef<[u8]>>(mut self, tags: impl IntoIterator<Item = N>) -> Self {
        let tags = tags.into_iter();
        self.tags = tags
            .map(|tag| Bytes::copy_from_slice(tag.as_ref()))
            .collect();
        self
    }

    /// Returns the policy if all of it is in range.
    pub(super) fn checked(mut self) -> Result<Self> {
        if let Ttl::After(ttl) = self.ttl.checked()?
            && ttl.saturating_add(self.stale_for) > MAX_TTL
        {
            return Err(Error::invalid(format!(
                "time to live and stale time can be at most {MAX_TTL:?} together"
            )));
        }
        self.stale_for = truncate_to_millis(self.stale_for);
        self.lease = self.lease.map(checked_lease).transpose()?;
        check_tags(&self.tags)?;
        Ok(self)
    }

    /// Returns the lifetime of an entry that is written now.
    pub(super) fn lifetime<C>(&self, entries: &Entries<C>) -> Result<Lifetime> {
        Ok(match entries.ttl(self.ttl)? {
            Ttl::After(ttl) if !self.stale_for.is_zero() || self.early_beta.is_some() => Lifetime {
                stale_at_ms: now_ms().saturating_add(as_millis(ttl)),
                ttl: Ttl::After(ttl + self.stale_for),
            },
            ttl => Lifetime {
                stale_at_ms: NEVER_MS,
                ttl,
            },
        })
    }

    /// Returns whether a stale value may still be returned.
    pub(super) fn allows_stale(&self, stale_at_ms: u64) -> bool {
        now_ms() < stale_at_ms.saturating_add(as_millis(self.stale_for))
    }

    /// Returns whether a value is computed again before it is stale. `random` is from 0 to 1.
    pub(super) fn is_early(&self, stale_at_ms: u64, computed_in_us: u64, random: f64) -> bool {
        match self.early_beta {
            Some(beta) if stale_at_ms != NEVER_MS => {
                let left_ms = stale_at_ms.saturating_sub(now_ms()) as f64;
                left_ms <= early_by_ms(computed_in_us, beta, random)
            }
            _ => false,
        }
    }
}

/// Returns how long before its expiry a value is computed again: an exponential distribution whose
/// mean is `beta` computations.
fn early_by_ms(computed_in_us: u64, beta: f64, random: f64) -> f64 {
    // `random` is never 1 and may be 0: the logarithm is finite.
    computed_in_us as f64 / 1000.0 * beta * -(1.0 - random).ln()
}

impl From<Duration> for ComputePolicy {
    fn from(ttl: Duration) -> Self {
        Self::new(ttl)
    }
}

impl From<Ttl> for ComputePolicy {
    fn from(ttl: Ttl) -> Self {
        Self::new(ttl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_refreshed_early_by_beta_computations_on_average() {
        const COUNT: u32 = 10_000;
        let mean = |beta| {
            let random = (0..COUNT).map(|n| f64::from(n) / f64::from(COUNT));
            random
                .map(|random| early_by_ms(20_000, beta, random))
                .sum::<f64>()
                / f64::from(COUNT)
        };
        for (beta, expected) in [(0.0, 0.0), (1.0, 20.0), (2.0, 40.0)] {
            let mean = mean(beta);
            assert!(
                (mean - expected).abs() <= expected / 100.0,
                "{beta}: {mean}"
            );
        }
    }

    #[test]
    fn a_refresh_is_the_more_probable_the_later_it_is() {
        let policy = ComputePolicy::new(Duration::from_secs(60)).early_refresh(1.0);
        let minute_us = 60_000_000;
        let in_ms = |ms| now_ms() + ms;
        // A tenth of all draws is above 0.9, by which a value is 2.3 computations early.
        assert!(policy.is_early(in_ms(120_000), minute_us, 0.9));
        assert!(!policy.is_early(in_ms(150_000), minute_us, 0.9));
        assert!(!policy.is_early(in_ms(120_000), minute_us, 0.5));
        assert!(policy.is_early(in_ms(0), minute_us, 0.0));
        assert!(!policy.is_early(NEVER_MS, minute_us, 0.999));
        assert!(!policy.is_early(in_ms(1000), 0, 0.999));
        let without = ComputePolicy::new(Duration::from_secs(60));
        assert!(!without.is_early(in_ms(0), minute_us, 0.999));
    }

    #[test]
    fn a_policy_out_of_range_is_rejected() {
        let second = Duration::from_secs(1);
        let policy = ComputePolicy::new(second);
        for invalid in [
            ComputePolicy::new(Duration::ZERO),
            policy.clone().stale_for(MAX_TTL),
            policy.clone().once_per_store(Duration::ZERO),
            policy.clone().tags([""]),
            policy.clone().tags([[7; 2000]]),
            policy.clone().tags((0..=u8::MAX).map(|n| [n])),
        ] {
            assert!(
                invalid.clone().checked().unwrap_err().is_invalid(),
                "{invalid:?}"
            );
        }
        assert!(policy.stale_for(second).tags(["a", "b"]).checked().is_ok());
    }
}
