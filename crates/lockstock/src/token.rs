//! Who holds a lock: 128 random bits, written so that an operator who reads the key knows
//! what it is.

use std::fmt;

pub(crate) const HELD: &str = "lockstock:held:";
pub(crate) const KEPT: &str = "lockstock:kept:";

/// One attempt to hold a lock. Never used for a second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token(u128);

impl Token {
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }

    /// What the holder's key says while the lock is held.
    pub(crate) fn held(self) -> String {
        format!("{HELD}{self}")
    }

    /// What it says once the lock is kept for the rest of its lease.
    pub(crate) fn kept(self) -> String {
        format!("{KEPT}{self}")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
