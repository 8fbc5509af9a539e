//! Who holds a lock, written so that an operator who reads the key knows what it is. What
//! stands before and behind it there is the scripts' (`lock/exclusive.lua`).

use std::fmt;

/// One attempt to hold a lock. Never used for a second one.
///
/// 128 random bits: the first half is the process' and tells an operator whose it is, the
/// second the attempt's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token(u128);

impl Token {
    pub(crate) fn random(process: Process) -> Self {
        Self(u128::from(process.0) << 64 | u128::from(rand::random::<u64>()))
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

/// Which process: strictly, which connection to a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Process(u64);

impl Process {
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
