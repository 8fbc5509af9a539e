//! The identities of holders, in a form that operators can read in the holder key. The rest of
//! its value belongs to the scripts (`scripts/exclusive.lua`).

use std::fmt;

use crate::random::random;

/// Identifies one attempt to acquire a lock. Never reused.
///
/// 128 random bits: the first half identifies the client, the second half the attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token(u128);

impl Token {
    pub(crate) fn random(client_id: ClientId) -> Self {
        Self(u128::from(client_id.0) << 64 | u128::from(random::<u64>()))
    }

    /// Parses the output of [`Display`](fmt::Display).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        u128::from_str_radix(text, 16).ok().map(Self)
    }

    pub(crate) fn client_id(self) -> ClientId {
        // The shift leaves 64 bits, so the cast loses nothing.
        ClientId((self.0 >> 64) as u64)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the attempt: the token is all that a release needs.
        write!(f, "Token({}…)", self.client_id())
    }
}

/// Identifies a client, that is one open [`Store`](crate::Store).
///
/// Displayed as 16 hex digits, the prefix of the [ids](crate::HolderId) of its holders.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientId(u64);

impl ClientId {
    pub(crate) fn random() -> Self {
        Self(random())
    }

    /// Parses the output of [`Display`](fmt::Display).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientId({self})")
    }
}
