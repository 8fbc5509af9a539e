//! A script, and the commands that call it.

use redis::{Cmd, Script};

/// A script and its SHA-1, by which a server knows it.
#[derive(Debug)]
pub(in crate::store::redis) struct LuaScript {
    source: &'static str,
    sha: String,
}

impl LuaScript {
    pub(in crate::store::redis) fn new(source: &'static str) -> Self {
        let sha = Script::new(source).get_hash().to_owned();
        Self { source, sha }
    }

    #[cfg(all(test, not(shuttle)))]
    pub(in crate::store::redis) fn source(&self) -> &'static str {
        self.source
    }

    #[cfg(all(test, not(shuttle)))]
    pub(in crate::store::redis) fn sha(&self) -> &str {
        &self.sha
    }
}

/// How a command refers to its script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store::redis) enum Eval {
    /// `EVALSHA`, for a server that has the script loaded.
    Sha,
    /// `EVAL`, which loads it.
    Source,
}

impl Eval {
    /// Returns a command without the keys and arguments of the script.
    pub(in crate::store::redis) fn command(self, script: &LuaScript) -> Cmd {
        // Enough for one operation by its hash.
        let mut cmd = Cmd::with_capacity(24, 512);
        cmd.arg(match self {
            Self::Sha => "EVALSHA",
            Self::Source => "EVAL",
        });
        cmd.arg(match self {
            Self::Sha => &*script.sha,
            Self::Source => script.source,
        });
        cmd
    }
}
