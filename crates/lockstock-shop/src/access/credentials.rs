//! The secret that a request carries, in the headers and with the errors of DRF's
//! `TokenAuthentication`.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::secret::Secret;
use crate::error::sentences::{self, Sentence};

/// The header of a secret without a scheme.
pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Why an `Authorization` header has no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Malformed {
    Empty,
    Spaces,
    Characters,
}

impl Malformed {
    pub(super) fn sentence(self) -> Sentence {
        match self {
            Self::Empty => sentences::TOKEN_MISSING,
            Self::Spaces => sentences::TOKEN_WITH_SPACES,
            Self::Characters => sentences::TOKEN_WITH_INVALID_CHARACTERS,
        }
    }
}

/// Returns the secret of `Authorization: Bearer …` or `Token …`, or else that of `X-API-Key`. With
/// `accepts_basic` also the password of Basic credentials, whose user name is ignored.
pub(super) fn find(headers: &HeaderMap, accepts_basic: bool) -> Result<Option<Secret>, Malformed> {
    if let Some(secret) = authorization(headers, accepts_basic)? {
        return Ok(Some(secret));
    }
    let mut values = headers.get_all(&API_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Malformed::Spaces);
    }
    let secret = str::from_utf8(value.as_bytes()).map_err(|_| Malformed::Characters)?;
    match secret.trim_ascii() {
        "" => Err(Malformed::Empty),
        secret => Ok(Some(Secret::from(secret))),
    }
}

fn authorization(headers: &HeaderMap, accepts_basic: bool) -> Result<Option<Secret>, Malformed> {
    // Two headers are one, with a comma in between (RFC 9110, section 5.3), as in WSGI.
    let values = headers.get_all(AUTHORIZATION).iter();
    let value = values.map(|value| value.as_bytes()).collect::<Vec<_>>();
    let value = value.join(&b","[..]);
    let words = value.split(u8::is_ascii_whitespace);
    let mut words = words.filter(|word| !word.is_empty());
    let scheme = words.next().unwrap_or_default();
    let is = |name: &str| scheme.eq_ignore_ascii_case(name.as_bytes());
    if accepts_basic && is("basic") {
        return Ok(words.next().and_then(password));
    }
    if !is("bearer") && !is("token") {
        return Ok(None);
    }
    let secret = words.next().ok_or(Malformed::Empty)?;
    if words.next().is_some() {
        return Err(Malformed::Spaces);
    }
    let secret = str::from_utf8(secret).map_err(|_| Malformed::Characters)?;
    Ok(Some(Secret::from(secret)))
}

/// Returns the password of Basic credentials (RFC 7617).
fn password(credentials: &[u8]) -> Option<Secret> {
    let decoded = String::from_utf8(BASE64_STANDARD.decode(credentials).ok()?).ok()?;
    let (_, password) = decoded.split_once(':')?;
    Some(Secret::from(password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pairs: &[(HeaderName, &'static str)]) -> Result<Option<String>, Malformed> {
        let pairs = pairs.iter().cloned();
        let headers = pairs.map(|(name, value)| (name, value.parse().unwrap()));
        let secret = find(&headers.collect(), true)?;
        Ok(secret.map(|secret| secret.reveal().to_owned()))
    }

    #[test]
    fn a_secret_is_found_in_every_form() {
        for (name, value) in [
            (AUTHORIZATION, "Bearer abc"),
            (AUTHORIZATION, "bearer  abc"),
            (AUTHORIZATION, "Token abc"),
            // user:abc
            (AUTHORIZATION, "Basic dXNlcjphYmM="),
            (API_KEY, "abc"),
        ] {
            assert_eq!(found(&[(name, value)]), Ok(Some("abc".to_owned())));
        }
        let both = [(AUTHORIZATION, "Basic dTp4"), (API_KEY, "abc")];
        let headers = both.map(|(name, value)| (name, value.parse().unwrap()));
        let secret = find(&headers.into_iter().collect(), false).unwrap();
        assert_eq!(secret.unwrap().reveal(), "abc", "a proxy may add its own");
    }

    #[test]
    fn what_is_no_secret_is_rejected() {
        assert_eq!(found(&[]), Ok(None));
        assert_eq!(found(&[(AUTHORIZATION, "Basic !")]), Ok(None));
        assert_eq!(found(&[(AUTHORIZATION, "Digest abc")]), Ok(None));
        for (value, error) in [
            ("Bearer", Malformed::Empty),
            ("Bearer a b", Malformed::Spaces),
        ] {
            assert_eq!(found(&[(AUTHORIZATION, value)]), Err(error));
        }
        let twice = [(AUTHORIZATION, "Bearer a"), (AUTHORIZATION, "Bearer a")];
        assert_eq!(found(&twice), Err(Malformed::Spaces));
        let twice = [(API_KEY, "a"), (API_KEY, "a")];
        let headers = twice.map(|(name, value)| (name, value.parse().unwrap()));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        assert_eq!(find(&map, false).unwrap_err(), Malformed::Spaces);
    }
}
