//! Access to the API: keys, the scope that each request needs, and limits on the rate of requests.
//!
//! Guarantees:
//! - a request without a valid key of a sufficient scope is rejected, and a route that no rule names
//!   needs the highest scope;
//! - the server stores digests of secrets only, and neither is part of a log, an error or `Debug`;
//! - how long it takes to reject a wrong secret does not depend on how much of it is right.

mod credentials;
mod key_file;
mod keys;
pub(crate) mod rate_limit;
mod scope;
mod secret;

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, Method};
use chrono::Utc;

pub(crate) use self::credentials::API_KEY;
pub(crate) use self::key_file::{ApiKey, append, parse_name, read as read_keys};
pub(crate) use self::keys::Keys;
use self::rate_limit::{Partition, RateLimiter, RateStatus};
pub(crate) use self::scope::{Requirement, Scope};
pub(crate) use self::secret::Secret;
use crate::error::ApiError;

/// The rules for the requests of one listener.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    /// `None` if requests need no key.
    pub(crate) keys: Option<Arc<Keys>>,
    /// Whether reads need no key, metrics included.
    pub(crate) has_open_reads: bool,
    /// `None` if the rate is not limited.
    pub(crate) rate_limiter: Option<Arc<RateLimiter>>,
}

/// The key of a request, in its extensions. Its name is the caller.
#[derive(Debug, Clone)]
pub(crate) struct Authenticated(pub(crate) Arc<ApiKey>);

/// Part of the extensions of a request if writes of the listener need a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WritesNeedKey;

/// What the rules decide about a request.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The key of the request, if it has a valid one.
    pub(crate) key: Option<Arc<ApiKey>>,
    /// The state of the rate limit that the request counts towards.
    pub(crate) rate: Option<RateStatus>,
    /// Whether the request may go on.
    pub(crate) verdict: Result<(), ApiError>,
}

impl Access {
    /// Applies the rules to a request with this method and these headers, from this address.
    pub(crate) fn admit(
        &self,
        requirement: Requirement,
        method: &Method,
        headers: &HeaderMap,
        client: Option<IpAddr>,
    ) -> Admission {
        let Some(scope) = requirement.scope() else {
            return Admission {
                key: None,
                rate: None,
                verdict: Ok(()),
            };
        };
        let needs_key = !(self.has_open_reads && method.is_safe());
        let keys = self.keys.as_ref().filter(|_| needs_key);
        let identified = match keys {
            Some(keys) => identify(keys, requirement, headers).map(Some),
            None => Ok(None),
        };
        let key = identified.as_ref().ok().cloned().flatten();
        let limiter = self.rate_limiter.as_ref();
        let limiter = limiter.filter(|_| requirement.has_rate() || identified.is_err());
        let rate = limiter.map(|limiter| {
            // Without a valid key a request counts towards its address, so that secrets cannot be
            // guessed at any speed.
            limiter.count(match &key {
                Some(key) => Partition::Key(key.name.clone()),
                None => Partition::of_address(client),
            })
        });
        let verdict = match (rate.and_then(RateStatus::rejection), identified) {
            (Some(rejection), _) => Err(rejection),
            (None, Err(error)) => Err(error),
            (None, Ok(Some(key))) if key.scope < scope => Err(ApiError::permission_denied()),
            (None, Ok(_)) => Ok(()),
        };
        Admission { key, rate, verdict }
    }
}

/// Returns the key whose secret the request carries.
fn identify(
    keys: &Keys,
    requirement: Requirement,
    headers: &HeaderMap,
) -> Result<Arc<ApiKey>, ApiError> {
    let challenge = requirement.challenge();
    let secret = credentials::find(headers, requirement.accepts_basic())
        .map_err(|malformed| ApiError::authentication_failed(malformed.sentence(), challenge))?
        .ok_or_else(|| ApiError::not_authenticated(challenge))?;
    let key = keys
        .find(&secret)
        .ok_or_else(|| ApiError::invalid_token(challenge))?;
    if key.expires_at.is_some_and(|at| at <= Utc::now()) {
        return Err(ApiError::key_expired(challenge));
    }
    Ok(key)
}
