//! The address of a client and the public URL of the server, behind proxies.
//!
//! `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host` and `Forwarded` (RFC 7239) are read
//! only from a trusted proxy: any client can send them. `Forwarded` is read only if none of the
//! other three is present, so that a client cannot add it to what a proxy sends.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use axum::http::header::{FORWARDED, HOST};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{Extensions, HeaderMap, HeaderName};
use ipnet::IpNet;
use url::Url;

use crate::header_list::members;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The other end of a connection, in the extensions of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Peer {
    Tcp(IpAddr),
    Unix,
}

/// In the extensions of a request that came over TLS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OverTls;

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        // A socket that accepts IPv6 shows IPv4 clients as ::ffff:192.0.2.1.
        Self::Tcp(address.ip().to_canonical())
    }
}

/// How the server is reached.
#[derive(Debug, Clone, Default)]
pub(crate) struct Forwarding {
    pub(crate) public_url: Option<PublicUrl>,
    pub(crate) trusted_proxies: Vec<TrustedProxy>,
}

/// The URL under which clients reach `/`, without the trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicUrl(String);

impl PublicUrl {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the path of the URL: `/shop` of `https://example.com/shop`, or nothing.
    pub(crate) fn path(&self) -> &str {
        let after_scheme = self.0.find("://").map_or(0, |at| at + 3);
        self.0[after_scheme..]
            .find('/')
            .map_or("", |at| &self.0[after_scheme + at..])
    }
}

impl FromStr for PublicUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).ok();
        let url = url.filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        });
        let url = url.ok_or("expected the URL of the API, like https://shop.example.com")?;
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

/// Peers whose forwarding headers are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TrustedProxy {
    Network(IpNet),
    /// Each peer of a Unix socket.
    Unix,
}

impl FromStr for TrustedProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let network = text.parse::<IpNet>().ok();
        let network = network.or_else(|| Some(text.parse::<IpAddr>().ok()?.into()));
        network.map(Self::Network).ok_or_else(|| {
            "expected an address, a network or unix, like 10.0.0.0/8,127.0.0.1".to_owned()
        })
    }
}

impl Forwarding {
    /// Returns the URL under which the client of a request reaches `/`, without the trailing
    /// slash.
    pub(crate) fn base_url(&self, parts: &Parts) -> Cow<'_, str> {
        if let Some(url) = &self.public_url {
            return url.as_str().into();
        }
        let forwarded = self.forwarded(&parts.extensions, &parts.headers);
        let is_https = match forwarded.proto.as_deref() {
            Some(proto) => proto.eq_ignore_ascii_case("https"),
            None => parts.extensions.get::<OverTls>().is_some(),
        };
        let scheme = if is_https { "https" } else { "http" };
        let host = forwarded.host.as_deref().filter(|host| is_host(host));
        let host = host.or_else(|| parts.headers.get(HOST)?.to_str().ok());
        // HTTP/2 has no such header.
        let host = host.or_else(|| Some(parts.uri.authority()?.as_str()));
        let host = host.filter(|host| is_host(host)).unwrap_or("localhost");
        format!("{scheme}://{host}").into()
    }

    /// Returns the address of the client of a request, if it has one.
    pub(crate) fn client(&self, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
        let mut client = match extensions.get::<Peer>()? {
            Peer::Tcp(address) => Some(*address),
            Peer::Unix => None,
        };
        // From the nearest proxy to the farthest, up to the first address that no trusted proxy
        // has: what is beyond it may be forged.
        for hop in self.forwarded(extensions, headers).addresses.iter().rev() {
            let Some(address) = parse_address(hop) else {
                break;
            };
            client = Some(address);
            if !self.trusts(Peer::Tcp(address)) {
                break;
            }
        }
        client
    }

    fn trusts(&self, peer: Peer) -> bool {
        self.trusted_proxies
            .iter()
            .any(|trusted| match (trusted, peer) {
                (TrustedProxy::Network(network), Peer::Tcp(address)) => network.contains(&address),
                (TrustedProxy::Unix, Peer::Unix) => true,
                _ => false,
            })
    }

    /// Returns what trusted proxies report about a request.
    fn forwarded(&self, extensions: &Extensions, headers: &HeaderMap) -> Forwarded {
        let peer = extensions.get::<Peer>();
        if !peer.is_some_and(|peer| self.trusts(*peer)) {
            return Forwarded::default();
        }
        let names = [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST];
        if names.iter().any(|name| headers.contains_key(name)) {
            let first = |name| members(headers, name).next().map(str::to_owned);
            return Forwarded {
                addresses: members(headers, &X_FORWARDED_FOR)
                    .map(str::to_owned)
                    .collect(),
                proto: first(&X_FORWARDED_PROTO),
                host: first(&X_FORWARDED_HOST),
            };
        }
        Forwarded::parse(members(headers, &FORWARDED))
    }
}

/// What proxies report about a request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Forwarded {
    /// The client, then each proxy but the last.
    addresses: Vec<String>,
    /// The scheme and host that the client used.
    proto: Option<String>,
    host: Option<String>,
}

impl Forwarded {
    /// Parses the elements of `Forwarded`: `for=192.0.2.1;proto=https;host=shop.example`.
    fn parse<'a>(elements: impl Iterator<Item = &'a str>) -> Self {
        let mut forwarded = Self::default();
        for element in elements {
            for pair in element.split(';') {
                let Some((name, value)) = pair.split_once('=') else {
                    continue;
                };
                let value = value.trim().trim_matches('"');
                match name.trim().to_ascii_lowercase().as_str() {
                    "for" => forwarded.addresses.push(value.to_owned()),
                    "proto" => _ = forwarded.proto.get_or_insert_with(|| value.to_owned()),
                    "host" => _ = forwarded.host.get_or_insert_with(|| value.to_owned()),
                    _ => {}
                }
            }
        }
        forwarded
    }
}

/// Parses an address with or without a port: `192.0.2.1:80`, `[2001:db8::1]:80`, `2001:db8::1`.
fn parse_address(text: &str) -> Option<IpAddr> {
    let address = text.parse::<SocketAddr>().map(|address| address.ip());
    let address = address.or_else(|_| {
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        bare.unwrap_or(text).parse()
    });
    address.ok().map(|address| address.to_canonical())
}

/// Returns whether `text` is a host, with or without a port. Anything else would change the
/// meaning of a URL.
fn is_host(text: &str) -> bool {
    text.parse::<Authority>().is_ok() && !text.contains('@')
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn parts(peer: Option<Peer>, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::get("/api/products/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        if let Some(peer) = peer {
            parts.extensions.insert(peer);
        }
        parts
    }

    fn behind(proxies: &str) -> Forwarding {
        Forwarding {
            public_url: None,
            trusted_proxies: proxies.split(',').map(|it| it.parse().unwrap()).collect(),
        }
    }

    fn tcp(address: &str) -> Option<Peer> {
        Some(Peer::Tcp(address.parse().unwrap()))
    }

    #[test]
    fn forwarding_headers_of_untrusted_peers_are_ignored() {
        let headers = [
            ("host", "shop.example:8000"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("forwarded", "for=192.0.2.1;proto=https;host=evil.example"),
        ];
        for forwarding in [Forwarding::default(), behind("10.0.0.0/8,unix")] {
            let request = parts(tcp("198.51.100.7"), &headers);
            assert_eq!(forwarding.base_url(&request), "http://shop.example:8000");
            let client = forwarding.client(&request.extensions, &request.headers);
            assert_eq!(client, Some("198.51.100.7".parse().unwrap()));
        }
    }

    #[test]
    fn a_trusted_proxy_reports_client_scheme_and_host() {
        let forwarding = behind("10.0.0.0/8,::1,unix");
        for (peer, header) in [
            (tcp("10.1.2.3"), "x-forwarded"),
            (tcp("::1"), "forwarded"),
            (Some(Peer::Unix), "x-forwarded"),
        ] {
            let headers = match header {
                "forwarded" => vec![(
                    "forwarded",
                    "for=203.0.113.9, For=\"[2001:db8::1]:4711\";proto=https;host=shop.example, \
                     for=10.0.0.2",
                )],
                _ => vec![
                    ("x-forwarded-for", "203.0.113.9, 2001:db8::1, 10.0.0.2"),
                    ("x-forwarded-proto", "https"),
                    ("x-forwarded-host", "shop.example"),
                    ("forwarded", "for=192.0.2.66;proto=http;host=evil.example"),
                ],
            };
            let request = parts(peer, &headers);
            assert_eq!(forwarding.base_url(&request), "https://shop.example");
            // Not 203.0.113.9, which the client has made up.
            let client = forwarding.client(&request.extensions, &request.headers);
            assert_eq!(client, Some("2001:db8::1".parse().unwrap()), "{header}");
        }
    }

    #[test]
    fn a_malformed_report_is_ignored() {
        let forwarding = behind("10.0.0.1");
        let headers = [
            ("host", "shop.example"),
            ("x-forwarded-for", "unknown, 10.0.0.1"),
            ("x-forwarded-proto", "javascript"),
            ("x-forwarded-host", "user@evil.example"),
        ];
        let request = parts(tcp("10.0.0.1"), &headers);
        assert_eq!(forwarding.base_url(&request), "http://shop.example");
        let client = forwarding.client(&request.extensions, &request.headers);
        assert_eq!(client, Some("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_link_points_to_a_host() {
        for (host, expected) in [
            ("shop.example:8080", "shop.example:8080"),
            ("[::1]:80", "[::1]:80"),
            ("shop/path", "localhost"),
            ("user@shop", "localhost"),
            ("a b", "localhost"),
            ("", "localhost"),
        ] {
            let request = parts(None, &[("host", host)]);
            let url = Forwarding::default().base_url(&request).into_owned();
            assert_eq!(url, format!("http://{expected}"));
        }
    }

    #[test]
    fn a_public_url_replaces_what_the_request_contains() {
        let forwarding = Forwarding {
            public_url: Some("https://example.com/shop/".parse().unwrap()),
            trusted_proxies: Vec::new(),
        };
        let request = parts(None, &[("host", "one:8000")]);
        assert_eq!(forwarding.base_url(&request), "https://example.com/shop");
        assert_eq!(forwarding.public_url.unwrap().path(), "/shop");
        assert_eq!("http://a".parse::<PublicUrl>().unwrap().path(), "");
        for text in [
            "example.com",
            "ftp://a",
            "https://a/?b",
            "https://u:p@a",
            "https://",
        ] {
            assert!(text.parse::<PublicUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_trusted_proxy_is_an_address_a_network_or_unix() {
        for text in ["127.0.0.1", "10.0.0.0/8", "fd00::/8", "unix"] {
            assert!(text.parse::<TrustedProxy>().is_ok(), "{text}");
        }
        for text in ["", "*", "10.0.0.0/33", "proxy"] {
            assert!(text.parse::<TrustedProxy>().is_err(), "{text}");
        }
    }
}
