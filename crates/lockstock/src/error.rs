//! The error type of this crate, to be matched by predicates.
//!
//! A lock that is busy is *not* an error: it is [`Acquired::Busy`](crate::Acquired::Busy). An
//! [`Error`] means that the store is unavailable, that a call was invalid, or that a lock was
//! lost.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// Match with [`is_unavailable`](Self::is_unavailable), [`is_lost`](Self::is_lost),
/// [`is_malformed`](Self::is_malformed) and [`is_invalid`](Self::is_invalid). The kind is private, so new causes are not breaking changes.
///
/// Error texts never contain a password: URLs are shown without credentials.
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = lockstock::Store::open("redis://127.0.0.1:1").expect("a valid URL");
/// let lock = store.lock("report").lease(Duration::from_secs(3)).expect("a valid lease");
/// let error = lock.try_acquire().await.unwrap_err();
/// assert!(error.is_unavailable()); // 503: the state of the lock is unknown
///
/// let error = store.lock("").lease(Duration::from_secs(3)).unwrap_err();
/// assert!(error.is_invalid()); // a mistake of the caller
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

#[derive(Debug, Clone)]
enum Kind {
    Invalid(String),
    Malformed(String),
    Lost,
    Unavailable(String),
    /// Unavailable: no reply in time.
    TimedOut(String),
    /// Unavailable: the server replied with an error.
    Rejected(String),
}

impl Error {
    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self {
            kind: Kind::Invalid(reason.into()),
            source: None,
        }
    }

    pub(crate) fn malformed(reason: impl Into<String>) -> Self {
        Self {
            kind: Kind::Malformed(reason.into()),
            source: None,
        }
    }

    pub(crate) fn lost() -> Self {
        Self {
            kind: Kind::Lost,
            source: None,
        }
    }

    pub(crate) fn unavailable(reason: impl Into<String>) -> Self {
        Self {
            kind: Kind::Unavailable(reason.into()),
            source: None,
        }
    }

    /// `reason` begins with the error code of the server (NOAUTH, READONLY, OOM, LOADING …), which
    /// tells operators what to do.
    pub(crate) fn store_failed(reason: impl fmt::Display) -> Self {
        Self {
            kind: Kind::Rejected(format!("the store failed: {reason}")),
            source: None,
        }
    }

    /// Not `From`, which would be public: the redis crate is not part of the API.
    pub(crate) fn redis(error: redis::RedisError) -> Self {
        // Every error of Redis means unavailable, never "busy" or "granted".
        let reason = format!("the store failed: {}", explain(&error));
        Self {
            kind: match error.code() {
                Some(_) => Kind::Rejected(reason),
                None => Kind::Unavailable(reason),
            },
            source: Some(Arc::new(error)),
        }
    }

    /// Returns the error of Redis that caused this one.
    pub(crate) fn redis_source(&self) -> Option<&redis::RedisError> {
        self.source.as_ref()?.downcast_ref()
    }

    /// A signal arrived, and the application does not want to wait any longer.
    pub(crate) fn interrupted(source: Arc<dyn std::error::Error + Send + Sync>) -> Self {
        Self {
            kind: Kind::Unavailable(format!("the call was interrupted: {source}")),
            source: Some(source),
        }
    }

    pub(crate) fn timed_out(timeout: Duration) -> Self {
        Self {
            kind: Kind::TimedOut(format!("the store did not reply within {timeout:?}")),
            source: None,
        }
    }

    /// Returns whether the store is unavailable: it is down, it did not reply in time, or it
    /// rejected the command. The state of the lock is unknown. Never means "busy".
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self.kind,
            Kind::Unavailable(_) | Kind::TimedOut(_) | Kind::Rejected(_)
        )
    }

    /// Returns whether the store is [unavailable](Self::is_unavailable) because it did not reply in
    /// time. The command may have been executed.
    pub fn is_timed_out(&self) -> bool {
        matches!(self.kind, Kind::TimedOut(_))
    }

    /// Returns whether the store is [unavailable](Self::is_unavailable) because it replied with an
    /// error: it is read-only, out of memory, or does not allow or know the command.
    pub fn is_rejected(&self) -> bool {
        matches!(self.kind, Kind::Rejected(_))
    }

    /// Returns whether the lock was lost: its lease has ended, or the store no longer has it.
    /// Another holder may have worked at the same time.
    pub fn is_lost(&self) -> bool {
        matches!(self.kind, Kind::Lost)
    }

    /// Returns whether the call can never succeed: the name is too long, the lease is out of
    /// range, the URL is malformed.
    pub fn is_invalid(&self) -> bool {
        matches!(self.kind, Kind::Invalid(_))
    }

    /// Returns whether a cached value is not what the call expects: the codec cannot decode it, or
    /// it is no integer that can be incremented. Another program or an earlier version of this one
    /// may have written it.
    pub fn is_malformed(&self) -> bool {
        matches!(self.kind, Kind::Malformed(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Invalid(reason)
            | Kind::Malformed(reason)
            | Kind::Unavailable(reason)
            | Kind::TimedOut(reason)
            | Kind::Rejected(reason) => f.write_str(reason),
            Kind::Lost => {
                f.write_str("the lock was lost: its lease has ended, or the store no longer has it")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

/// Returns the message of Redis, beginning with its error code (`NOAUTH`, `READONLY`, …), with
/// advice for the operator.
pub(crate) fn explain(error: &redis::RedisError) -> String {
    match error.code() {
        Some(code) => advise(code, error.detail().unwrap_or_default()),
        None => advise_on_connection(without_arguments(&error.to_string())),
    }
}

/// Adds advice to what a connection failed for.
fn advise_on_connection(reason: String) -> String {
    let advice = match &reason {
        // Also of a certificate of another authority of the same name.
        reason if reason.contains("UnknownIssuer") || reason.contains("BadSignature") => {
            "its authority is not trusted: name that authority's certificate with ssl_ca_certs in \
             the URL, or ca_certificates"
        }
        reason if reason.contains("certificate not valid for name") => {
            "the name in the URL has to be one of those in the certificate of the server"
        }
        reason if reason.contains("certificate expired") => {
            "the certificate of the server has expired, or the clock of this machine is wrong"
        }
        reason if reason.contains("CertificateRequired") => {
            "the server requires a certificate of its clients: set client_certificate"
        }
        _ => return reason,
    };
    format!("{reason} ({advice})")
}

/// Like [`explain`], for the error of an operation in a script.
pub(crate) fn explain_operation(line: &str) -> String {
    // Without the position in the script.
    let message = line.split(" script: ").next().unwrap_or_default();
    let (code, detail) = message.split_once(' ').unwrap_or((message, ""));
    advise(code, detail)
}

fn advise(code: &str, detail: &str) -> String {
    const ACL: &str = "the ACL of the user has to allow it";
    let detail = without_arguments(detail);
    let advice = match code {
        "NOAUTH" => "add user and password to the URL, redis://user:password@host",
        "WRONGPASS" => "check user and password in the URL",
        "NOPERM" => ACL,
        "READONLY" => {
            "the server is a replica: connect to the master, or use redis+sentinel:// or \
             redis+cluster://, which find it"
        }
        "LOADING" => "the server has just started and is still loading its data",
        "OOM" => "the memory of the server is full: raise its maxmemory",
        "MISCONF" | "NOREPLICAS" => "the configuration of the server forbids writes at the moment",
        "NOSCRIPT" => "another client keeps flushing the scripts",
        "BUSY" => "another script has been running on the server for too long",
        "MOVED" | "ASK" | "CROSSSLOT" => "the server is part of a Cluster: use redis+cluster://",
        "TRYAGAIN" => "the slot of this name is moving to another server",
        "CLUSTERDOWN" | "MASTERDOWN" => "wait until each slot has a master",
        // Of a command in a script.
        "ERR" if detail.contains("can't run this command") => ACL,
        "ERR" if detail.starts_with("unknown command") => {
            "Redis 6.2 or later, or Valkey, is required"
        }
        "ERR" if detail.starts_with("DB index") => {
            "the number after the last / of the URL is the database, from 0 to 15 by default"
        }
        "ERR" if detail.starts_with("AUTH <password> called without") => {
            "the server has no password: remove it from the URL"
        }
        "ERR" if detail.contains("cluster support disabled") => {
            "the server is not part of a Cluster: use redis://"
        }
        _ => return format!("{code} {detail}").trim_end().to_owned(),
    };
    format!("{code} {detail} ({advice})")
}

/// Removes the arguments that Redis quotes from an unknown command: those of the first command of
/// a connection include the password.
fn without_arguments(message: &str) -> String {
    let end = message
        .find(", with args beginning with")
        .unwrap_or(message.len());
    message[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(line: &str) -> String {
        let reply = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        let error = reply.extract_error().unwrap_err();
        let error = Error::redis(error);
        assert!(error.is_unavailable());
        error.to_string()
    }

    #[test]
    fn the_error_code_is_kept_and_advice_is_added() {
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
            ("NOSCRIPT No matching script.", "flushing"),
            ("MOVED 3999 127.0.0.1:6381", "redis+cluster://"),
            ("CLUSTERDOWN The cluster is down", "has a master"),
            ("SOMETHING else altogether", ""),
        ] {
            let text = text_of(line);
            assert!(text.contains(line) && text.contains(advice), "{text}");
        }
    }

    #[test]
    fn the_arguments_of_an_unknown_command_are_removed() {
        let text = text_of(
            "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'shop' 'hunter2' ",
        );
        assert!(text.contains("ERR unknown command 'HELLO'"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
