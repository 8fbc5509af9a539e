//! Limits on the rate of requests: of each API key, or of each address where there are no keys.
//!
//! Each caller has a bucket of tokens that refills evenly (GCRA). A server counts for itself:
//! replicas do not share the buckets.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter as Governor};
use metrics::counter;

use crate::error::ApiError;

// draft-ietf-httpapi-ratelimit-headers.
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// A number of requests in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    requests: NonZeroU32,
    window: Duration,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(requests, unit)| {
            let seconds = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                _ => return None,
            };
            Some(Self {
                requests: requests.parse().ok()?,
                window: Duration::from_secs(seconds),
            })
        });
        let parsed = parsed.filter(|rate| rate.requests.get() <= 1_000_000);
        parsed.ok_or_else(|| {
            "expected a number of requests from 1 to 1000000 per s, m or h, like 600/m".to_owned()
        })
    }
}

/// The callers that share a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Partition {
    /// The name of an API key.
    Key(Arc<str>),
    /// An address or, of IPv6, a network of 64 bits, which one client usually has for itself.
    Address(IpAddr),
    /// All peers of a Unix socket without a trusted proxy.
    Unknown,
}

impl Partition {
    pub(crate) fn of_address(address: Option<IpAddr>) -> Self {
        match address {
            Some(IpAddr::V6(address)) => {
                let network = u128::from(address) >> 64 << 64;
                Self::Address(Ipv6Addr::from(network).into())
            }
            Some(address) => Self::Address(address),
            None => Self::Unknown,
        }
    }

    /// Returns the name of the policy, for clients.
    fn policy(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Address(_) | Self::Unknown => "address",
        }
    }
}

/// The buckets of all callers.
pub(crate) struct RateLimiter {
    rate: Rate,
    clock: DefaultClock,
    buckets:
        Governor<Partition, HashMapStateStore<Partition>, DefaultClock, StateInformationMiddleware>,
}

/// The state of a bucket after a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RateStatus {
    policy: &'static str,
    rate: Rate,
    /// Number of requests that may follow at once.
    remaining: u32,
    /// Time until the bucket is full or, if it is empty, until it has a token.
    refilled_in: Duration,
    /// Set if the request is over the limit: the time until one is admitted.
    wait: Option<Duration>,
}

impl RateLimiter {
    pub(crate) fn new(rate: Rate) -> Self {
        // None only for a window of zero.
        let quota = Quota::with_period(rate.window / rate.requests.get())
            .unwrap_or_else(|| Quota::per_second(rate.requests))
            .allow_burst(rate.requests);
        Self {
            rate,
            clock: DefaultClock::default(),
            buckets: Governor::hashmap(quota).with_middleware(),
        }
    }

    /// Takes a token for a request.
    pub(crate) fn count(&self, partition: Partition) -> RateStatus {
        let (policy, rate) = (partition.policy(), self.rate);
        match self.buckets.check_key(&partition) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let missing = rate.requests.get().saturating_sub(remaining);
                RateStatus {
                    policy,
                    rate,
                    remaining,
                    refilled_in: rate.window / rate.requests.get() * missing,
                    wait: None,
                }
            }
            Err(not_until) => {
                counter!("lockstock_rate_limited_total", "policy" => policy).increment(1);
                let wait = not_until.wait_time_from(self.clock.now());
                RateStatus {
                    policy,
                    rate,
                    remaining: 0,
                    refilled_in: wait,
                    wait: Some(wait),
                }
            }
        }
    }

    /// Forgets buckets that are full. A caller that sends a few requests has one for that time only,
    /// so the memory is bounded by the number of requests in a window.
    pub(crate) fn forget_full(&self) {
        self.buckets.retain_recent();
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RateLimiter");
        shown.field("rate", &self.rate).finish_non_exhaustive()
    }
}

impl RateStatus {
    /// Returns the response to a request over the limit.
    pub(crate) fn rejection(self) -> Option<ApiError> {
        let Rate { requests, window } = self.rate;
        self.wait
            .map(|wait| ApiError::rate_limited(requests, window, wait))
    }

    /// Adds `RateLimit` and `RateLimit-Policy`.
    pub(crate) fn add_headers(&self, headers: &mut HeaderMap) {
        let Self {
            policy,
            rate,
            remaining,
            refilled_in,
            wait: _,
        } = self;
        let requests = rate.requests;
        let window = rate.window.as_secs();
        let seconds = refilled_in.as_secs() + u64::from(refilled_in.subsec_nanos() > 0);
        for (name, value) in [
            (
                RATE_LIMIT_POLICY,
                format!("\"{policy}\";q={requests};w={window}"),
            ),
            (
                RATE_LIMIT,
                format!("\"{policy}\";r={remaining};t={seconds}"),
            ),
        ] {
            // Digits and letters always are a header value.
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_unit() {
        let rate = |requests, seconds| Rate {
            requests: NonZeroU32::new(requests).unwrap(),
            window: Duration::from_secs(seconds),
        };
        assert_eq!("10/s".parse(), Ok(rate(10, 1)));
        assert_eq!("600/m".parse(), Ok(rate(600, 60)));
        assert_eq!("1/h".parse(), Ok(rate(1, 3600)));
        for text in ["", "10", "0/s", "-1/s", "10/d", "10/ s", "1000001/s"] {
            let error = text.parse::<Rate>().unwrap_err();
            assert!(error.contains("like 600/m"), "{text}: {error}");
        }
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_share_a_bucket() {
        let of = |address: &str| Partition::of_address(Some(address.parse().unwrap()));
        assert_eq!(of("2001:db8::1"), of("2001:db8:0:0:ffff::2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn an_empty_bucket_rejects_and_full_ones_are_forgotten() {
        let limiter = RateLimiter::new("2/h".parse().unwrap());
        let key = || Partition::Key("web".into());
        assert_eq!(limiter.count(key()).remaining, 1);
        assert_eq!(limiter.count(key()).remaining, 0);
        let status = limiter.count(key());
        let wait = status.wait.unwrap().as_secs();
        assert!((1..=1800).contains(&wait), "{wait}");
        assert_eq!(limiter.count(Partition::Unknown).wait, None);
        limiter.forget_full();
        assert_eq!(limiter.buckets.len(), 2);
        let mut headers = HeaderMap::new();
        status.add_headers(&mut headers);
        assert_eq!(headers["ratelimit-policy"], "\"key\";q=2;w=3600");
        let shown = headers["ratelimit"].to_str().unwrap();
        assert!(shown.starts_with("\"key\";r=0;t="), "{shown}");
    }
}
