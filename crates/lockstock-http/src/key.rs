//! Which requests take turns with each other: those that have the same key.
//!
//! Guarantees: two paths, or two header values, that mean something else never have the same
//! key; two spellings of one path (`/a%62/` and `/ab/`, with or without the slash at the end)
//! always have. A key of any length becomes a name that a store takes.
//!
//! Not here: who may choose a key. A closure that hands on what a client sent lets the client
//! choose the name of a lock, so put a word of your own before it.

use std::fmt::Write;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, Method};
use lockstock::MAX_NAME_BYTES;

use crate::hash::hex_hash;
use crate::opaque::Opaque;

type Find = dyn Fn(&Parts) -> Option<String> + Send + Sync;

/// How the key of a request is found. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Key(Opaque<Find>);

impl Key {
    /// What `find` says; `None` for a request that needs no lock. The key is the name of the
    /// lock as other clients of the store see it.
    ///
    /// ```
    /// use lockstock_http::Key;
    ///
    /// let by_query = Key::from_fn(|parts| Some(format!("search:{}", parts.uri.query()?)));
    /// # let _ = by_query;
    /// ```
    pub fn from_fn(find: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Opaque(Arc::new(find)))
    }

    /// The path of the request, if it is one that `template` describes, such as
    /// `/reports/{name}/`: each `{…}` stands for one segment that is not empty. A slash at the
    /// end makes no difference, nor does percent-encoding. The key is the template with the
    /// values in their places, `/reports/weekly/`.
    ///
    /// The method does not matter, see [`methods`](Self::methods). A router that nests another
    /// may hand it the rest of the path only; the template is about the path as this layer sees
    /// it.
    ///
    /// # Panics
    ///
    /// If the template does not begin with a slash, or has a brace that is not around a whole
    /// segment.
    pub fn path(template: &str) -> Self {
        let template = Template::parse(template);
        Self::from_fn(move |parts| template.key(parts.uri.path()))
    }

    /// The value of the header called `name`; a request without it needs no lock. The key is
    /// `NAME=VALUE`, with all values if there are several.
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

    /// The same for requests with one of these methods; others need no lock.
    ///
    /// ```
    /// use http::Method;
    /// use lockstock_http::Key;
    ///
    /// // Who only reads a report waits for nobody.
    /// let writers = Key::path("/reports/{name}/").methods([Method::PUT, Method::DELETE]);
    /// # let _ = writers;
    /// ```
    #[must_use]
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        let methods: Vec<_> = methods.into_iter().collect();
        Self::from_fn(move |parts| (self.0)(parts).filter(|_| methods.contains(&parts.method)))
    }

    /// The same with `front` before each key: for services that share a store.
    #[must_use]
    pub fn prefix(self, front: impl Into<String>) -> Self {
        let front = front.into();
        Self::from_fn(move |parts| Some(format!("{front}{}", (self.0)(parts)?)))
    }

    /// The name of the lock that a request needs.
    pub(crate) fn name(&self, parts: &Parts) -> Option<String> {
        (self.0)(parts).map(|key| {
            if key.is_empty() || key.len() > MAX_NAME_BYTES {
                return format!("key:sha256:{}", hex_hash([key.as_bytes()]));
            }
            key
        })
    }
}

/// A path with places in it.
struct Template(Vec<Segment>, &'static str);

enum Segment {
    Literal(Vec<u8>),
    Place,
}

impl Template {
    fn parse(template: &str) -> Self {
        let path = template.strip_prefix('/');
        let path = path.unwrap_or_else(|| panic!("{template}: a path begins with a slash"));
        let (path, end) = match path.strip_suffix('/') {
            Some(path) => (path, "/"),
            None => (path, ""),
        };
        let segment = |segment: &str| {
            let inside = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
            let word = inside.unwrap_or(segment);
            assert!(
                !word.contains(['{', '}']) && inside.is_none_or(|name| !name.is_empty()),
                "{template}: a place is a whole segment, as in /reports/{{name}}/"
            );
            match inside {
                Some(_) => Segment::Place,
                None => Segment::Literal(decoded(segment)),
            }
        };
        Self(path.split('/').map(segment).collect(), end)
    }

    fn key(&self, path: &str) -> Option<String> {
        let path = path.strip_prefix('/')?;
        let mut given = path.strip_suffix('/').unwrap_or(path).split('/');
        let mut key = String::with_capacity(path.len() + 2);
        for segment in &self.0 {
            let given = decoded(given.next()?);
            match segment {
                Segment::Literal(literal) if *literal != given => return None,
                Segment::Place if given.is_empty() => return None,
                _ => {}
            }
            key.push('/');
            push_readable(&mut key, &given, &['/']);
        }
        key.push_str(self.1);
        given.next().is_none().then_some(key)
    }
}

/// What percent-encoded text means. What is no such encoding stays as it is.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let digit = |at: usize| char::from(*behind.get(at)?).to_digit(16);
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((16 * high + low) as u8);
                rest = &behind[2..];
            }
            _ => {
                bytes.push(byte);
                rest = behind;
            }
        }
    }
    bytes
}

/// Appends bytes as text, so that no two texts are alike: what is no UTF-8, no visible
/// character, or one of `special` is percent-encoded.
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
    fn a_path_that_the_template_describes_is_a_key() {
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
    fn paths_that_differ_have_keys_that_differ() {
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
        // `%` alone and `%25` mean the same; there is no such pair above.
        assert_eq!(keys.len(), paths.len(), "{keys:?}");
        assert!(keys.contains("/a/é/z"));
    }

    #[test]
    #[should_panic(expected = "begins with a slash")]
    fn a_template_without_a_slash_is_refused() {
        let _ = Key::path("reports");
    }

    #[test]
    #[should_panic(expected = "whole segment")]
    fn a_template_with_half_a_place_is_refused() {
        let _ = Key::path("/reports/x-{name}");
    }

    #[test]
    fn a_header_is_a_key() {
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
        let ours = tenant.prefix("shop:");
        assert_eq!(
            key(&ours, "/", &[("x-tenant", b"a")]).unwrap(),
            "shop:x-tenant=a"
        );
    }

    #[test]
    fn a_key_of_any_length_is_a_name() {
        for length in [0, 1, MAX_NAME_BYTES, MAX_NAME_BYTES + 1, 100_000] {
            let long = Key::from_fn(move |_| Some("x".repeat(length)));
            let name = key(&long, "/", &[]).unwrap();
            assert!((1..=MAX_NAME_BYTES).contains(&name.len()), "{length}");
        }
        let other = |end| Key::from_fn(move |_| Some("x".repeat(MAX_NAME_BYTES) + end));
        assert_ne!(key(&other("a"), "/", &[]), key(&other("b"), "/", &[]));
    }
}
