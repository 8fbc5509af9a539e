//! One error for the whole crate: ask what it means, not which variant it is.
//!
//! A lock that somebody else holds is *not* an error: it is
//! [`Acquired::Busy`](crate::Acquired::Busy). An [`Error`] means that the question
//! could not be answered, that it made no sense, or that a lock was lost.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. Match with [`is_unavailable`](Self::is_unavailable),
/// [`is_lost`](Self::is_lost) and [`is_invalid`](Self::is_invalid); the kind itself is
/// private so that new causes are not breaking changes.
///
/// No error text ever holds a password: URLs are shown without their credentials.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

#[derive(Debug, Clone)]
enum Kind {
    Invalid(String),
    Lost,
    Unavailable(String),
}

impl Error {
    pub(crate) fn invalid(why: impl Into<String>) -> Self {
        Self {
            kind: Kind::Invalid(why.into()),
            source: None,
        }
    }

    pub(crate) fn lost() -> Self {
        Self {
            kind: Kind::Lost,
            source: None,
        }
    }

    pub(crate) fn unavailable(why: impl Into<String>) -> Self {
        Self {
            kind: Kind::Unavailable(why.into()),
            source: None,
        }
    }

    /// The server's own word (NOAUTH, READONLY, OOM, LOADING …) is kept: it tells the operator
    /// what to do, and it is never mistaken for "busy" or "granted".
    pub(crate) fn refused(why: impl fmt::Display) -> Self {
        Self::unavailable(format!("the store failed: {why}"))
    }

    pub(crate) fn no_answer(within: Duration) -> Self {
        Self::unavailable(format!("the store did not answer within {within:?}"))
    }

    /// The store could not be asked, or could not answer: it is down, it timed out, it
    /// refused the command. Nothing is known about the lock. Never means "busy".
    pub fn is_unavailable(&self) -> bool {
        matches!(self.kind, Kind::Unavailable(_))
    }

    /// The lock is no longer held by this guard: its lease ended, or the store forgot it.
    /// Whatever was done under it may have been done by somebody else as well.
    pub fn is_lost(&self) -> bool {
        matches!(self.kind, Kind::Lost)
    }

    /// The call could never work: a name too long, a lease out of range, a malformed URL.
    pub fn is_invalid(&self) -> bool {
        matches!(self.kind, Kind::Invalid(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Invalid(why) | Kind::Unavailable(why) => f.write_str(why),
            Kind::Lost => f.write_str("the lock is lost: its lease ended, or the store forgot it"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

impl From<redis::RedisError> for Error {
    fn from(error: redis::RedisError) -> Self {
        // Never mistaken for "busy" or "granted".
        Self {
            source: Some(Arc::new(error.clone())),
            ..Self::refused(explained(&error))
        }
    }
}

/// What Redis said, beginning with its own word (`NOAUTH`, `READONLY`, …), and what can be
/// done about it.
pub(crate) fn explained(error: &redis::RedisError) -> String {
    match error.code() {
        Some(code) => advised(code, error.detail().unwrap_or_default()),
        None => without_arguments(&error.to_string()),
    }
}

/// The same, of one step of a script.
pub(crate) fn explained_step(line: &str) -> String {
    // Where in the script it happened is no help.
    let said = line.split(" script: ").next().unwrap_or_default();
    let (code, said) = said.split_once(' ').unwrap_or((said, ""));
    advised(code, said)
}

fn advised(code: &str, said: &str) -> String {
    const ACL: &str = "the user's ACL has to allow it";
    let said = without_arguments(said);
    let advice = match code {
        "NOAUTH" => "write user and password into the URL, redis://user:password@host",
        "WRONGPASS" => "look at user and password in the URL",
        "NOPERM" => ACL,
        "READONLY" => {
            "the server is a replica: connect to the master, or to redis+sentinel:// or \
             redis+cluster://, which find it"
        }
        "LOADING" => "the server has just started, and answers when it has read its data",
        "OOM" => "the server's memory is full: raise its maxmemory",
        "MISCONF" | "NOREPLICAS" => "the server refuses to write as it is set up",
        "NOSCRIPT" => "somebody flushes the scripts again and again",
        "BUSY" => "another script has run there for too long",
        "MOVED" | "ASK" | "CROSSSLOT" => "the server is part of a Cluster: write redis+cluster://",
        "TRYAGAIN" => "the slot of this name is being moved to another server",
        "CLUSTERDOWN" | "MASTERDOWN" => "it serves again when each slot has a master",
        // Of a command in a script.
        "ERR" if said.contains("can't run this command") => ACL,
        "ERR" if said.starts_with("unknown command") => "Redis 6.2 or later, or Valkey, is needed",
        _ => return format!("{code} {said}").trim_end().to_owned(),
    };
    format!("{code} {said} ({advice})")
}

/// Redis repeats the beginning of a command that it does not know; of the first that we
/// send, this is the password.
fn without_arguments(said: &str) -> String {
    let end = said
        .find(", with args beginning with")
        .unwrap_or(said.len());
    said[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> String {
        let answer = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        let error = answer.extract_error().unwrap_err();
        let error = Error::from(error);
        assert!(error.is_unavailable());
        error.to_string()
    }

    #[test]
    fn the_servers_own_word_is_kept_and_what_to_do_is_added() {
        for (line, advice) in [
            ("NOAUTH Authentication required.", "user:password"),
            ("WRONGPASS invalid username-password pair", "URL"),
            ("NOPERM this user has no permissions", "ACL"),
            (
                "READONLY You can't write against a read only replica.",
                "replica",
            ),
            ("LOADING Redis is loading the dataset in memory", "started"),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                "maxmemory",
            ),
            ("NOSCRIPT No matching script.", "flushes"),
            ("MOVED 3999 127.0.0.1:6381", "redis+cluster://"),
            ("CLUSTERDOWN The cluster is down", "serves again"),
            ("SOMETHING else altogether", ""),
        ] {
            let text = said(line);
            assert!(text.contains(line) && text.contains(advice), "{text}");
        }
    }

    #[test]
    fn a_command_that_is_not_known_is_not_repeated() {
        let text = said(
            "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'shop' 'hunter2' ",
        );
        assert!(text.contains("ERR unknown command 'HELLO'"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
