//! Keys of requests: requests with the same key compete for the same lock.
//!
//! Guarantees: two paths, or two header values, with different meanings have different keys; two
//! spellings of one path (`/a%62/` and `/ab/`, with or without the trailing slash) have the same
//! key. A key of any length becomes a valid lock name.
//!
//! Not guaranteed: that a client cannot choose the name of a lock. If a closure returns what a
//! client sent, put a fixed prefix before it.

use std::fmt::Write;
use std::sync::{Arc, Once};

#[cfg(feature = "axum")]
use axum::extract::{MatchedPath, OriginalUri};
use http::request::Parts;
use http::{HeaderName, Method};
use lockstock::MAX_NAME_BYTES;
use tracing::warn;

use crate::hash::hex_hash;
use crate::opaque::Opaque;

type Extract = dyn Fn(&Parts) -> Option<String> + Send + Sync;

/// Extracts the key of a request. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Key(Opaque<Extract>);

impl Key {
    /// Uses the path of a request that a route of axum matched: every request that reaches a handler
    /// of the route has a key. Requests with different values of the route's parameters have
    /// different keys. Percent-encoding and a trailing slash make no difference. In a nested router
    /// the key is the whole path.
    ///
    /// ```
    /// use axum::{Router, routing::patch};
    /// use lockstock_http::{Key, LockLayer};
    /// # fn app(store: &lockstock::Store) -> Router {
    /// let once = LockLayer::exclusive(store, Key::matched_path(), std::time::Duration::from_secs(3));
    /// // The lock of PATCH /products/7/ is /products/7.
    /// Router::new().route("/products/{id}/", patch(async || "changed").layer(once))
    /// # }
    /// ```
    ///
    /// A request without a route, such as a request to a fallback, needs no lock; the first one is
    /// logged as a warning.
    #[cfg(feature = "axum")]
    pub fn matched_path() -> Self {
        let unmatched = Unmatched(Once::new());
        Self::from_fn(move |parts| {
            if parts.extensions.get::<MatchedPath>().is_none() {
                unmatched.warn("no route of axum matched it", parts);
                return None;
            }
            Some(normalize(original_path(parts).unwrap_or(parts.uri.path())))
        })
    }

    /// Extracts the key with a closure, which returns `None` for a request that needs no lock. The
    /// key is the lock name that other clients of the store see.
    ///
    /// ```
    /// use lockstock_http::Key;
    ///
    /// let by_query = Key::from_fn(|parts| Some(format!("search:{}", parts.uri.query()?)));
    /// # let _ = by_query;
    /// ```
    pub fn from_fn(extract: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Opaque(Arc::new(extract)))
    }

    /// Uses the path of a request that matches `template`, such as `/reports/{name}/`. Each `{…}`
    /// matches one segment that is not empty. Percent-encoding and a trailing slash make no
    /// difference. The key is the template with the values of the request: `/reports/weekly/`.
    ///
    /// Requests with any method match, see [`methods`](Self::methods). In a nested router of axum the
    /// template describes the rest of the path or the whole path.
    ///
    /// A request that the template does not describe needs no lock. The first one is logged as a
    /// warning: a misspelt template guards nothing. With axum, `Key::matched_path` needs no template.
    ///
    /// # Panics
    ///
    /// If the template does not begin with a slash, has a query, a wildcard or a parameter in
    /// another syntax (`:name`), or a brace does not enclose a whole segment.
    #[track_caller]
    pub fn path(template: &str) -> Self {
        let parsed = Template::parse(template);
        let cause = format!("its path does not match {template}");
        let unmatched = Unmatched(Once::new());
        Self::from_fn(move |parts| {
            let key = parsed.key(parts.uri.path());
            let key = key.or_else(|| parsed.key(original_path(parts)?));
            if key.is_none() {
                unmatched.warn(&cause, parts);
            }
            key
        })
    }

    /// Uses the value of the header `name`. A request without the header needs no lock. The key is
    /// `NAME=VALUE`, with every value if there are several.
    ///
    /// ```
    /// use http::HeaderName;
    /// use lockstock_http::Key;
    ///
    /// let by_tenant = Key::header(HeaderName::from_static("x-tenant"));
    /// # let _ = by_tenant;
    /// ```
    pub fn header(name: HeaderName) -> Self {
        Self::from_fn(move |parts| {
            let mut values = parts.headers.get_all(&name).iter().peekable();
            values.peek()?;
            let mut key = name.as_str().to_owned();
            for value in values {
                key.push('=');
                push_readable(&mut key, value.as_bytes(), &['=']);
            }
            Some(key)
        })
    }

    /// Applies only to requests with one of these methods. Other requests need no lock.
    ///
    /// ```
    /// use http::Method;
    /// use lockstock_http::Key;
    ///
    /// // Reading a report needs no lock.
    /// let writers = Key::path("/reports/{name}/").methods([Method::PUT, Method::DELETE]);
    /// # let _ = writers;
    /// ```
    #[must_use]
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        let methods: Vec<_> = methods.into_iter().collect();
        Self::from_fn(move |parts| match methods.contains(&parts.method) {
            true => (self.0)(parts),
            false => None,
        })
    }

    /// Adds a prefix to each key, for services that share a store.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        Self::from_fn(move |parts| Some(format!("{prefix}{}", (self.0)(parts)?)))
    }

    /// Returns the name of the lock that the request needs.
    pub(crate) fn name(&self, parts: &Parts) -> Option<String> {
        (self.0)(parts).map(|key| {
            if key.is_empty() || key.len() > MAX_NAME_BYTES {
                return format!("key:sha256:{}", hex_hash([key.as_bytes()]));
            }
            key
        })
    }
}

/// Warning about requests without a key, once for each [`Key`].
struct Unmatched(Once);

impl Unmatched {
    fn warn(&self, cause: &str, parts: &Parts) {
        self.0.call_once(|| {
            let (method, path) = (&parts.method, parts.uri.path());
            warn!(
                %method,
                path,
                "a request is processed without a lock: {cause}. Later ones are not logged"
            );
        });
    }
}

/// Returns the path before nested routers have removed their prefixes.
fn original_path(parts: &Parts) -> Option<&str> {
    #[cfg(feature = "axum")]
    return Some(parts.extensions.get::<OriginalUri>()?.path());
    #[cfg(not(feature = "axum"))]
    {
        let _ = parts;
        None
    }
}

/// Returns the same text for all spellings of a path.
#[cfg(feature = "axum")]
fn normalize(path: &str) -> String {
    let path = path.strip_prefix('/').unwrap_or(path);
    let mut key = String::with_capacity(path.len() + 1);
    for segment in path.strip_suffix('/').unwrap_or(path).split('/') {
        key.push('/');
        push_readable(&mut key, &percent_decode(segment), &['/']);
    }
    key
}

/// Path with parameters.
struct Template {
    segments: Vec<Segment>,
    trailing_slash: &'static str,
}

enum Segment {
    Literal(Vec<u8>),
    Parameter,
}

impl Template {
    #[track_caller]
    fn parse(template: &str) -> Self {
        assert!(
            !template.contains(['?', '#']),
            "{template}: a template is a path without a query"
        );
        let path = template.strip_prefix('/');
        let path = path.unwrap_or_else(|| panic!("{template}: a path begins with a slash"));
        let (path, trailing_slash) = match path.strip_suffix('/') {
            Some(path) => (path, "/"),
            None => (path, ""),
        };
        let segment = |segment: &str| {
            assert!(
                !segment.starts_with([':', '*']),
                "{template}: a parameter is written in braces, as in /reports/{{name}}/"
            );
            assert!(
                !segment.starts_with("{*"),
                "{template}: a template has no wildcard; use Key::matched_path or Key::from_fn"
            );
            let parameter = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
            let word = parameter.unwrap_or(segment);
            assert!(
                !word.contains(['{', '}']) && parameter.is_none_or(|name| !name.is_empty()),
                "{template}: a parameter is a whole segment, as in /reports/{{name}}/"
            );
            match parameter {
                Some(_) => Segment::Parameter,
                None => Segment::Literal(percent_decode(segment)),
            }
        };
        Self {
            segments: path.split('/').map(segment).collect(),
            trailing_slash,
        }
    }

    /// Returns the key of a path, if the path matches.
    fn key(&self, path: &str) -> Option<String> {
        let path = path.strip_prefix('/')?;
        let mut values = path.strip_suffix('/').unwrap_or(path).split('/');
        let mut key = String::with_capacity(path.len() + 2);
        for segment in &self.segments {
            let value = percent_decode(values.next()?);
            match segment {
                Segment::Literal(literal) if *literal != value => return None,
                Segment::Parameter if value.is_empty() => return None,
                _ => {}
            }
            key.push('/');
            push_readable(&mut key, &value, &['/']);
        }
        key.push_str(self.trailing_slash);
        values.next().is_none().then_some(key)
    }
}

/// Decodes percent-encoded bytes. An invalid encoding stays as it is.
fn percent_decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digit = |at: usize| char::from(*tail.get(at)?).to_digit(16);
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((16 * high + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    bytes
}

/// Appends bytes as readable text. Different bytes give different texts: invalid UTF-8, invisible
/// characters and `special` are percent-encoded.
fn push_readable(text: &mut String, bytes: &[u8], special: &[char]) {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '%' || c.is_control() || c.is_whitespace() || special.contains(&c) {
                push_encoded(text, c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(c);
            }
        }
        push_encoded(text, chunk.invalid());
    }
}

fn push_encoded(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "%{byte:02X}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &Key, path: &str, headers: &[(&str, &[u8])]) -> Option<String> {
        let mut request = http::Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        key.name(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_path_that_matches_the_template_has_a_key() {
        let reports = Key::path("/reports/{name}/");
        for path in [
            "/reports/weekly/",
            "/reports/weekly",
            "/reports/week%6Cy/",
            "/report%73/weekly?x=1",
        ] {
            assert_eq!(
                key(&reports, path, &[]).unwrap(),
                "/reports/weekly/",
                "{path}"
            );
        }
        for path in [
            "/",
            "/reports/",
            "/reports//",
            "/reports/a/b/",
            "/other/a/",
            "/reports/a//",
        ] {
            assert_eq!(key(&reports, path, &[]), None, "{path}");
        }
        let two = Key::path("/a/{b}/{c}");
        assert_eq!(key(&two, "/a/x/y/", &[]).unwrap(), "/a/x/y");
        assert_eq!(key(&Key::path("/"), "/", &[]).unwrap(), "/");
    }

    #[test]
    fn different_paths_have_different_keys() {
        let two = Key::path("/a/{b}/{c}");
        let paths = [
            "/a/x%2Fy/z",
            "/a/x/y%2Fz",
            "/a/x%252Fy/z",
            "/a/%FF/z",
            "/a/%25FF/z",
            "/a/%/z",
            "/a/%C3%A9/z",
            "/a/%E9/z",
            "/a/%20/z",
            "/a/+/z",
            "/a/%00/z",
        ];
        let keys: std::collections::HashSet<_> = paths
            .iter()
            .map(|path| key(&two, path, &[]).unwrap())
            .collect();
        // A bare `%` and `%25` mean the same, and no pair above differs only in that.
        assert_eq!(keys.len(), paths.len(), "{keys:?}");
        assert!(keys.contains("/a/é/z"));
    }

    #[test]
    #[should_panic(expected = "begins with a slash")]
    fn a_template_without_a_leading_slash_panics() {
        let _ = Key::path("reports");
    }

    #[test]
    #[should_panic(expected = "whole segment")]
    fn a_parameter_in_part_of_a_segment_panics() {
        let _ = Key::path("/reports/x-{name}");
    }

    #[test]
    fn a_template_that_could_match_nothing_panics() {
        for template in [
            "/reports/:name/",
            "/reports/*rest",
            "/reports/{*rest}",
            "/reports/{}/",
            "/reports/{name/",
            "/reports/name}/",
            "/reports/{{name}}/",
            "/reports/?page={page}",
            "/reports/#top",
            "reports/{name}",
        ] {
            let panic = std::panic::catch_unwind(|| Key::path(template)).unwrap_err();
            let message = panic.downcast_ref::<String>().unwrap();
            assert!(message.starts_with(template), "{message}");
        }
    }

    #[test]
    fn the_values_of_a_header_are_the_key() {
        let tenant = Key::header(HeaderName::from_static("x-tenant"));
        assert_eq!(key(&tenant, "/", &[]), None);
        assert_eq!(
            key(&tenant, "/", &[("x-tenant", b"a")]).unwrap(),
            "x-tenant=a"
        );
        let one = key(&tenant, "/", &[("x-tenant", b"a=b")]);
        let two = key(&tenant, "/", &[("x-tenant", b"a"), ("x-tenant", b"b")]);
        assert_ne!(one, two);
        assert_eq!(
            key(&tenant, "/", &[("x-tenant", b"\xff")]).unwrap(),
            "x-tenant=%FF"
        );
        let posts = tenant.clone().methods([Method::POST]);
        assert_eq!(key(&posts, "/", &[("x-tenant", b"a")]), None);
        let gets = tenant.clone().methods([Method::POST, Method::GET]);
        assert!(key(&gets, "/", &[("x-tenant", b"a")]).is_some());
        let prefixed = tenant.prefix("shop:");
        assert_eq!(
            key(&prefixed, "/", &[("x-tenant", b"a")]).unwrap(),
            "shop:x-tenant=a"
        );
    }

    #[test]
    fn a_key_of_any_length_is_a_lock_name() {
        for length in [0, 1, MAX_NAME_BYTES, MAX_NAME_BYTES + 1, 100_000] {
            let long = Key::from_fn(move |_| Some("x".repeat(length)));
            let name = key(&long, "/", &[]).unwrap();
            assert!((1..=MAX_NAME_BYTES).contains(&name.len()), "{length}");
        }
        let other = |end| Key::from_fn(move |_| Some("x".repeat(MAX_NAME_BYTES) + end));
        assert_ne!(key(&other("a"), "/", &[]), key(&other("b"), "/", &[]));
    }
}
