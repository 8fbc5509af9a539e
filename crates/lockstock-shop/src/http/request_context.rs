//! Who asks, and by which request: for the ledger, for holds, and for idempotency keys.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

use crate::storage::RequestContext;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The id of a request, as the log and the answer have it.
#[derive(Clone)]
pub(crate) struct RequestId(pub(crate) Arc<str>);

impl<S: Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let request = parts.extensions.get::<RequestId>();
        Ok(Self {
            request_id: request.map_or_else(|| "".into(), |id| id.0.clone()),
            caller: caller(&parts.headers),
        })
    }
}

/// A caller is whoever sends the same `Authorization` and `X-API-Key`; nobody known without
/// either. The digest, because what is stored must not let anybody in.
pub(crate) fn caller(headers: &HeaderMap) -> Arc<str> {
    let mut digest = Sha256::new();
    let mut known = false;
    for name in [AUTHORIZATION, API_KEY] {
        for value in headers.get_all(&name) {
            known = true;
            digest.update(name.as_str());
            // Told apart by what no value contains.
            digest.update([b'\n']);
            digest.update(value);
            digest.update([b'\n']);
        }
    }
    if !known {
        return "".into();
    }
    let digest = digest.finalize();
    let hex = digest[..16].iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    hex.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_known_by_what_they_send_and_by_nothing_else() {
        let of = |pairs: &[(HeaderName, &'static str)]| {
            let pairs = pairs.iter().cloned();
            caller(
                &pairs
                    .map(|(name, value)| (name, value.parse().unwrap()))
                    .collect(),
            )
        };
        assert_eq!(&*of(&[]), "");
        let ann = of(&[(AUTHORIZATION, "Bearer ann")]);
        assert_eq!(ann.len(), 32);
        assert_eq!(ann, of(&[(AUTHORIZATION, "Bearer ann")]));
        assert_ne!(ann, of(&[(AUTHORIZATION, "Bearer bob")]));
        assert_ne!(ann, of(&[(API_KEY, "Bearer ann")]));
    }
}
