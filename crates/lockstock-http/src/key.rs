//! Keys of requests: requests with the same key compete for the same lock.
//!
//! Guarantees: two paths, or two header values, with different meanings have different keys; two
//! spellings of one path (`/a%62/` and `/ab/`, with or without the trailing slash) have the same
//! key. A key of any length becomes a valid lock name.
//!
//! Not guaranteed: that a client cannot choose the name of a lock. If a closure returns what a
//! client sent, put a fixed prefix before it.

use std::fmt::Write;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, Method};
use lockstock::MAX_NAME_BYTES;

use crate::hash::hex_hash;
use crate::opaque::Opaque;

type Extract = dyn Fn(&Parts) -> Option<String> + Send + Sync;

/// Extracts the key of a request. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Key(Opaque<Extract>);

impl Key {
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
    /// Requests with any method match, see [`methods`](Self::methods). A nested router may pass
    /// only the rest of the path; the template applies to the path that the layer receives.
    ///
    /// # Panics
    ///
    /// If the template does not begin with a slash, or a brace does not enclose a whole segment.
    pub fn path(template: &str) -> Self {
        let template = Template::parse(template);
        Self::from_fn(move |parts| template.key(parts.uri.path()))
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
        Self::from_fn(move |parts| (self.0)(parts).filter(|_| methods.contains(&parts.method)))
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
    fn parse(template: &str) -> Self {
        let path = template.strip_prefix('/');
        let path = path.unwrap_or_else(|| panic!("{template}: a path begins with a slash"));
        let (path, trailing_slash) = match path.strip_suffix('/') {
            Some(path) => (path, "/"),
            None => (path, ""),
        };
        let segment = |segment: &str| {
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
