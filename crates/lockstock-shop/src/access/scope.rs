//! Scopes, and the scope that each path requires.

use axum::http::Method;
use clap::ValueEnum;

use crate::replicas::RELAY_PATH;

/// What a key permits. Each scope includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Scope {
    /// Reads: GET, HEAD and OPTIONS, and the documentation
    Read,
    /// Also changes, purchases and reservations
    Write,
    /// Also metrics, and forced releases of locks
    Admin,
}

impl Scope {
    pub(crate) const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    /// Returns the name, as in a key file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requirement {
    /// Nothing: health, the entry point, paths without a route.
    Nothing,
    Scope(Scope),
    /// [`Scope::Read`]. A browser, which sends no other credentials for a page, may use Basic ones.
    Page,
}

impl Requirement {
    /// Returns what a request for `path` needs. `is_routed` is false for a path without a route.
    pub(crate) fn of(method: &Method, path: &str, is_routed: bool) -> Self {
        match path {
            _ if !is_routed => Self::Nothing,
            "/" | "/healthz" | "/readyz" => Self::Nothing,
            "/openapi.json" => Self::Page,
            _ if path == "/docs" || path.starts_with("/docs/") => Self::Page,
            // Browsers, whose `EventSource` sends no header of a page.
            "/api/locks/events" if method.is_safe() => Self::Page,
            "/api/locks/" if !method.is_safe() => Self::Scope(Scope::Admin),
            // Updates at other servers.
            _ if path.starts_with(RELAY_PATH) => Self::of_method(method),
            // Part of every copy of the program.
            _ if path.starts_with("/board/") => Self::Nothing,
            _ if path.starts_with("/products/") => Self::Page,
            _ if path.starts_with("/api/") => Self::of_method(method),
            // `/metrics`, and any route that is added without a rule.
            _ => Self::Scope(Scope::Admin),
        }
    }

    /// Returns what a method of the API needs.
    pub(crate) fn of_method(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD | Method::OPTIONS => Self::Scope(Scope::Read),
            _ => Self::Scope(Scope::Write),
        }
    }

    pub(crate) fn scope(self) -> Option<Scope> {
        match self {
            Self::Nothing => None,
            Self::Scope(scope) => Some(scope),
            Self::Page => Some(Scope::Read),
        }
    }

    /// Returns whether the request counts towards the rate of its caller: all of the API do. Metrics
    /// are read above all while there are too many requests.
    pub(super) fn has_rate(self) -> bool {
        matches!(self, Self::Scope(Scope::Read | Scope::Write))
    }

    pub(super) fn accepts_basic(self) -> bool {
        self == Self::Page
    }

    /// Returns the value of `WWW-Authenticate`. `Bearer` is all that Django REST framework sends
    /// too.
    pub(super) fn challenge(self) -> &'static str {
        match self {
            Self::Page => "Basic realm=\"lockstock\", charset=\"UTF-8\"",
            _ => "Bearer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_without_a_rule_needs_the_highest_scope() {
        let of = |method: Method, path| Requirement::of(&method, path, true).scope();
        assert_eq!(of(Method::GET, "/api/products/"), Some(Scope::Read));
        assert_eq!(of(Method::OPTIONS, "/api/products/1/"), Some(Scope::Read));
        assert_eq!(of(Method::PATCH, "/api/products/1/"), Some(Scope::Write));
        assert_eq!(of(Method::TRACE, "/api/products/1/"), Some(Scope::Write));
        assert_eq!(of(Method::GET, "/api/locks/"), Some(Scope::Read));
        assert_eq!(of(Method::GET, "/api/locks/events"), Some(Scope::Read));
        assert_eq!(of(Method::DELETE, "/api/locks/"), Some(Scope::Admin));
        assert_eq!(of(Method::GET, "/docs/page.css"), Some(Scope::Read));
        assert_eq!(of(Method::GET, "/products/1/"), Some(Scope::Read));
        assert_eq!(of(Method::GET, "/board/0123/board.js"), None);
        let relayed = "/board/replicas/0/products/1/";
        assert_eq!(of(Method::PATCH, relayed), Some(Scope::Write));
        assert_eq!(of(Method::GET, "/metrics"), Some(Scope::Admin));
        assert_eq!(of(Method::GET, "/docsecret"), Some(Scope::Admin));
        assert_eq!(of(Method::GET, "/new"), Some(Scope::Admin));
        assert_eq!(of(Method::GET, "/healthz"), None);
        assert_eq!(of(Method::GET, "/readyz"), None);
        let unrouted = Requirement::of(&Method::GET, "/new", false);
        assert_eq!(unrouted, Requirement::Nothing);
    }
}
