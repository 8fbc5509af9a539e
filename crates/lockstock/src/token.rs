//! Who holds a lock, written so that an operator who reads the key knows what it is. What
//! stands before and behind it there is the scripts' (`scripts/exclusive.lua`).

use std::fmt;

/// One attempt to hold a lock. Never used for a second one.
///
/// 128 random bits: the first half is the process' and tells an operator whose it is, the
/// second the attempt's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token(u128);

impl Token {
    pub(crate) fn random(process: ClientId) -> Self {
        Self(u128::from(process.0) << 64 | u128::from(rand::random::<u64>()))
    }

    /// Reads what [`Display`](fmt::Display) has written.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        u128::from_str_radix(text, 16).ok().map(Self)
    }

    pub(crate) fn client_id(self) -> ClientId {
        // The cast takes what the shift has left, which is all there is.
        ClientId((self.0 >> 64) as u64)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Which process holds or waits: strictly, which opened [`Store`](crate::Store). Written as
/// 16 hex digits, with which its [tokens](crate::HolderId) begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientId(u64);

impl ClientId {
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }

    /// Reads what [`Display`](fmt::Display) has written.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
