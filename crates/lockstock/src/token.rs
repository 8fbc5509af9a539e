//! Who holds a lock: 128 random bits, written so that an operator who reads the key knows
//! what it is. The marks in front of it, `lockstock:held:` and `lockstock:kept:`, are the
//! scripts' (`lock/queue.lua`).

use std::fmt;

/// One attempt to hold a lock. Never used for a second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token(u128);

impl Token {
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }

    /// Reads what [`Display`](fmt::Display) has written.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        u128::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
