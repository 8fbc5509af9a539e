//! Secrets of API keys, and their digests.
//!
//! A secret has 256 random bits, so a fast hash is enough: SHA-256 cannot be inverted by guessing,
//! as it could for a password.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// By this prefix scanners recognize a secret that was published by mistake.
const PREFIX: &str = "lockstock_";

/// The secret of a key. Not part of `Debug`.
pub(crate) struct Secret(String);

impl Secret {
    /// Returns a new secret.
    pub(crate) fn generate() -> Self {
        let bytes: [u8; 32] = rand::random();
        Self(format!("{PREFIX}{}", hex::encode(bytes)))
    }

    /// Returns the text that clients send.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// The SHA-256 of a secret. Compared in constant time only.
#[derive(Clone, Copy)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Parses 64 hexadecimal digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl ConstantTimeEq for Digest {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_random_and_is_shown_only_on_request() {
        let secret = Secret::generate();
        assert_eq!(secret.reveal().len(), PREFIX.len() + 64);
        assert_ne!(secret.reveal(), Secret::generate().reveal());
        let shown = format!("{secret:?} {:?}", secret.digest());
        assert_eq!(shown, "Secret(…) Digest(…)");
    }

    #[test]
    fn a_digest_is_that_of_sha256sum() {
        let digest = Secret::from("abc").digest().to_string();
        let known = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest, known);
        let parsed = Digest::parse(&known[7..]).unwrap();
        assert!(bool::from(parsed.ct_eq(&Secret::from("abc").digest())));
        assert!(Digest::parse("ba78").is_none());
    }
}
