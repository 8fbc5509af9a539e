//! The id and the caller of a request: for the ledger, reservations and idempotency keys.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use lockstock_http::normalized_authorization;
use sha2::{Digest, Sha256};

use crate::access::{API_KEY, Authenticated, Scope};
use crate::storage::RequestContext;

/// The header of a request and of its response that has the id of the request.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request, as in the log and in the response.
#[derive(Clone)]
pub(crate) struct RequestId(pub(crate) Arc<str>);

impl<S: Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let request = parts.extensions.get::<RequestId>();
        Ok(Self {
            request_id: request.map_or_else(|| "".into(), |id| id.0.clone()),
            caller: caller(parts),
            has_key: parts.extensions.get::<Authenticated>().is_some(),
            known_commits: parts.extensions.get().cloned().unwrap_or_default(),
        })
    }
}

/// Whether the key of a request permits writes. Without keys each request may write.
pub(crate) struct MayWrite(pub(crate) bool);

impl<S: Sync> FromRequestParts<S> for MayWrite {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let key = parts.extensions.get::<Authenticated>();
        Ok(Self(key.is_none_or(|key| key.0.scope >= Scope::Write)))
    }
}

/// Returns the identity of the caller: the name of its API key or, if the server has no keys, that
/// of its credentials.
pub(crate) fn caller(parts: &Parts) -> Arc<str> {
    match parts.extensions.get::<Authenticated>() {
        Some(key) => key.0.name.clone(),
        None => of_credentials(&parts.headers),
    }
}

/// Returns the identity of credentials that the server does not check, which is empty without
/// any. Requests with the same
/// `Authorization` and `X-API-Key` have the same caller; the case of the scheme makes no difference.
/// The identity is a digest, so that the
/// database contains no credentials.
fn of_credentials(headers: &HeaderMap) -> Arc<str> {
    let mut digest = Sha256::new();
    let mut has_credentials = false;
    for name in [AUTHORIZATION, API_KEY] {
        for value in headers.get_all(&name) {
            has_credentials = true;
            let value = match name {
                AUTHORIZATION => normalized_authorization(value),
                _ => value.as_bytes().into(),
            };
            digest.update(name.as_str());
            // No header value contains the separator.
            digest.update([b'\n']);
            digest.update(value);
            digest.update([b'\n']);
        }
    }
    if !has_credentials {
        return "".into();
    }
    let digest = digest.finalize();
    hex::encode(&digest[..16]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_identified_by_both_credential_headers() {
        let identity = |pairs: &[(HeaderName, &'static str)]| {
            let pairs = pairs.iter().cloned();
            of_credentials(
                &pairs
                    .map(|(name, value)| (name, value.parse().unwrap()))
                    .collect(),
            )
        };
        assert_eq!(&*identity(&[]), "");
        let ann = identity(&[(AUTHORIZATION, "Bearer ann")]);
        assert_eq!(ann.len(), 32);
        assert_eq!(ann, identity(&[(AUTHORIZATION, "Bearer ann")]));
        assert_eq!(ann, identity(&[(AUTHORIZATION, "bearer  ann")]));
        assert_ne!(ann, identity(&[(AUTHORIZATION, "Bearer Ann")]));
        assert_ne!(ann, identity(&[(AUTHORIZATION, "Bearer bob")]));
        assert_ne!(ann, identity(&[(API_KEY, "Bearer ann")]));
    }
}
