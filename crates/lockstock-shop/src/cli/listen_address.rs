//! The address that the server listens on: TCP, or a Unix socket.

use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListenAddress {
    Tcp(SocketAddr),
    /// The path of a socket file.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Returns whether only processes of this machine can connect.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Returns the URL of `/` at the address, without the trailing slash.
    pub(crate) fn url(&self, is_tls: bool) -> String {
        let scheme = if is_tls { "https" } else { "http" };
        match self {
            Self::Tcp(address) => format!("{scheme}://{address}"),
            Self::Unix(_) => format!("{scheme}://localhost"),
        }
    }
}

impl Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Parses `HOST:PORT` or `unix:PATH`. A host that has several addresses stands for its first IPv4
/// address.
pub(crate) fn parse(text: &str) -> Result<ListenAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.strip_prefix("//").unwrap_or(path) {
            "" => Err("expected the path of a socket, like unix:/run/lockstock.sock".to_owned()),
            path => Ok(ListenAddress::Unix(path.into())),
        };
    }
    let expected = || {
        "expected a host and a port, like 127.0.0.1:8000, or unix: and the path of a socket"
            .to_owned()
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let port = port.parse::<u16>().map_err(|_| expected())?;
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    let host = if is_bracketed {
        &host[1..host.len() - 1]
    } else {
        host
    };
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(ListenAddress::Tcp(SocketAddr::new(ip, port)));
    }
    if host.is_empty() {
        return Err(expected());
    }
    let addresses = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("cannot resolve the host '{host}': {error}"))?
        .collect::<Vec<_>>();
    let first = addresses.iter().find(|address| address.is_ipv4());
    let first = first.or(addresses.first());
    first
        .map(|address| ListenAddress::Tcp(*address))
        .ok_or_else(|| format!("the host '{host}' has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_sockets_are_addresses() {
        for (text, shown) in [
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            ("[::1]:8044", "[::1]:8044"),
            ("::1:8044", "[::1]:8044"),
            ("localhost:8000", "127.0.0.1:8000"),
            ("unix:/run/lockstock.sock", "unix:/run/lockstock.sock"),
            ("unix:///run/lockstock.sock", "unix:/run/lockstock.sock"),
            ("unix:shop.sock", "unix:shop.sock"),
        ] {
            let address = parse(text).unwrap();
            assert_eq!(address.to_string(), shown, "{text}");
            assert!(address.is_local(), "{text}");
        }
        assert!(!parse("0.0.0.0:8000").unwrap().is_local());
        assert!(!parse("[::]:8000").unwrap().is_local());
    }

    #[test]
    fn an_invalid_address_is_rejected_with_an_example() {
        for text in [
            "",
            "8000",
            ":8000",
            "localhost",
            "localhost:http",
            "localhost:70000",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("like 127.0.0.1:8000"), "{text}: {error}");
        }
        assert!(
            parse("unix:")
                .unwrap_err()
                .contains("unix:/run/lockstock.sock")
        );
        assert!(parse("no host:80").unwrap_err().contains("'no host'"));
    }
}
