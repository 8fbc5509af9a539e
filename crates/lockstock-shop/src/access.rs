//! Access to the API: keys, and the scope that each request needs.
//!
//! Guarantees:
//! - a request whose scope is not established is rejected; so is a path that no rule names;
//! - the server knows digests of secrets only, and neither is part of a log, an error or `Debug`;
//! - how long a wrong secret takes to reject does not depend on how wrong it is.

mod credentials;
mod key_file;
mod keys;
mod scope;
mod secret;

use std::sync::Arc;

use axum::http::HeaderMap;
use chrono::Utc;

pub(crate) use self::key_file::{ApiKey, append, parse_name};
pub(crate) use self::keys::Keys;
pub(crate) use self::scope::{Requirement, Scope};
pub(crate) use self::secret::Secret;

use crate::error::ApiError;

/// The rules for the requests of one listener.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    /// `None` if requests need no key.
    pub(crate) keys: Option<Arc<Keys>>,
}

/// The key of a request, in its extensions. Its name is the caller.
#[derive(Debug, Clone)]
pub(crate) struct Authenticated(pub(crate) Arc<ApiKey>);

/// What the rules decide about a request.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The key of the request, if it has a valid one.
    pub(crate) key: Option<Arc<ApiKey>>,
    /// Whether the request may go on.
    pub(crate) verdict: Result<(), ApiError>,
}

impl Access {
    /// Applies the rules to a request with these headers.
    pub(crate) fn admit(&self, requirement: Requirement, headers: &HeaderMap) -> Admission {
        let (Some(keys), Some(scope)) = (&self.keys, requirement.scope()) else {
            return Admission {
                key: None,
                verdict: Ok(()),
            };
        };
        match identify(keys, requirement, headers) {
            Ok(key) => Admission {
                verdict: match key.scope < scope {
                    true => Err(ApiError::permission_denied()),
                    false => Ok(()),
                },
                key: Some(key),
            },
            Err(error) => Admission {
                key: None,
                verdict: Err(error),
            },
        }
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
