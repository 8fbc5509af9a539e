//! From a URL to the servers behind it.
//!
//! | URL | servers |
//! |---|---|
//! | `redis://[user:password@]host[:port][/db]`, `redis+unix:///path?db=1` | one |
//! | `redis+sentinel://[user:password@]host[:port],host[:port]/SERVICE[/db]` | the one that these sentinels call the master of SERVICE |
//! | `redis+cluster://[user:password@]host[:port],host[:port]` | a Cluster, of which these are some nodes |
//! | `rediss…` | the same, each connection through TLS |
//!
//! User and password are the servers'. `?ssl_ca_certs=FILE` names the authorities to trust
//! instead of the system's, for `rediss…`; `?sentinel_username=…&sentinel_password=…` are the
//! sentinels' own, where they ask for any.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};
use url::form_urlencoded;

use crate::error::{Error, Result};
use crate::redact::redact_url;

const SENTINEL_PORT: u16 = 26_379;

/// The servers behind a URL, and how to speak to them.
pub(super) enum Address {
    Single(ConnectionInfo),
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        service: String,
        /// The servers: how to speak to them, at whatever host.
        servers: ConnectionInfo,
    },
    Cluster {
        seeds: Vec<ConnectionInfo>,
    },
}

/// A URL in its parts. Not the `url` crate's: it knows no lists of hosts.
struct Parts<'a> {
    tls: bool,
    /// With the `@`.
    user: &'a str,
    hosts: &'a str,
    path: &'a str,
    query: Vec<(String, String)>,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        match scheme {
            "redis+sentinel" | "rediss+sentinel" => sentinel(url, &Parts::of(scheme, rest)),
            "redis+cluster" | "rediss+cluster" => cluster(url, &Parts::of(scheme, rest)),
            "rediss" if rest.contains("ssl_ca_certs=") => {
                let parts = Parts::of(scheme, rest);
                let info = parts.server(url, parts.hosts, parts.path.trim_matches('/'))?;
                Ok(Self::Single(info))
            }
            _ => Ok(Self::Single(info(url, url)?)),
        }
    }
}

fn sentinel(url: &str, parts: &Parts<'_>) -> Result<Address> {
    let (service, db) = parts.path.split_once('/').unwrap_or((parts.path, ""));
    if service.is_empty() {
        return Err(wrong(
            url,
            "which names no service: write redis+sentinel://host:port,host:port/SERVICE/DB",
        ));
    }
    let asked = Parts {
        user: "",
        query: parts.query.clone(),
        ..*parts
    };
    let mut sentinels = Vec::new();
    for host in parts.hosts() {
        let has_port = host.rfind(':') > host.rfind(']');
        let info = asked.server(url, host, "")?;
        let (name, port) = place(&info).unwrap_or_default();
        let port = if has_port { port } else { SENTINEL_PORT };
        let mut settings = info.redis_settings().clone();
        if let Some(user) = parts.option("sentinel_username") {
            settings = settings.set_username(user);
        }
        if let Some(password) = parts.option("sentinel_password") {
            settings = settings.set_password(password);
        }
        sentinels.push(at(&info, &name, port).set_redis_settings(settings));
    }
    let host = parts.hosts().next().unwrap_or_default();
    Ok(Address::Sentinel {
        sentinels,
        service: service.to_owned(),
        servers: parts.server(url, host, db)?,
    })
}

fn cluster(url: &str, parts: &Parts<'_>) -> Result<Address> {
    if !matches!(parts.path, "" | "0") {
        return Err(wrong(
            url,
            "which names a database: a Cluster has none but 0",
        ));
    }
    let seeds = parts.hosts().map(|host| parts.server(url, host, ""));
    Ok(Address::Cluster {
        seeds: seeds.collect::<Result<_>>()?,
    })
}

impl<'a> Parts<'a> {
    fn of(scheme: &str, rest: &'a str) -> Self {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // The last one: a password may hold an '@'.
        let host_begins = rest.rfind('@').map_or(0, |at| at + 1);
        let (user, rest) = rest.split_at(host_begins);
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        Self {
            tls: scheme.starts_with("rediss"),
            user,
            hosts,
            path: path.trim_end_matches('/'),
            query: form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
        }
    }

    fn hosts(&self) -> impl Iterator<Item = &'a str> {
        self.hosts.split(',')
    }

    fn option(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| &value[..])
    }

    /// One of the servers.
    fn server(&self, url: &str, host: &str, db: &str) -> Result<ConnectionInfo> {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let info = info(url, &format!("{scheme}://{}{host}/{db}", self.user))?;
        match self.option("ssl_ca_certs") {
            Some(file) => trusting(url, info, file),
            None => Ok(info),
        }
    }
}

fn info(url: &str, server: &str) -> Result<ConnectionInfo> {
    let info = server.into_connection_info().map_err(|error| {
        // Not the source: redis quotes the URL in some of its messages.
        let why = error.category();
        wrong(
            url,
            &format!("({why}): write redis://[user:password@]host[:port][/db]"),
        )
    })?;
    // RESP3 carries what is pushed beside what is asked, in one connection.
    let settings = info.redis_settings().clone();
    Ok(info.set_redis_settings(settings.set_protocol(ProtocolVersion::RESP3)))
}

#[cfg(feature = "tls")]
fn trusting(url: &str, info: ConnectionInfo, file: &str) -> Result<ConnectionInfo> {
    let root = std::fs::read(file).map_err(|error| {
        wrong(
            url,
            &format!("whose ssl_ca_certs cannot be read: {file}: {error}"),
        )
    })?;
    let certificates = redis::TlsCertificates {
        client_tls: None,
        root_cert: Some(root),
    };
    let client = redis::Client::build_with_tls(info, certificates).map_err(|error| {
        wrong(
            url,
            &format!("whose ssl_ca_certs are of no use: {file}: {error}"),
        )
    })?;
    Ok(client.get_connection_info().clone())
}

#[cfg(not(feature = "tls"))]
fn trusting(url: &str, _: ConnectionInfo, _: &str) -> Result<ConnectionInfo> {
    Err(wrong(url, "and this build has no TLS"))
}

fn wrong(url: &str, why: &str) -> Error {
    Error::invalid(format!("'{}' is not a Redis URL, {why}", redact_url(url)))
}

/// The same server's settings, at another place.
pub(super) fn at(info: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let address = match info.addr() {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host: host.to_owned(),
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host.to_owned(), port),
    };
    info.clone().set_addr(address)
}

/// Where a server is; nothing for one behind a Unix socket.
pub(super) fn place(info: &ConnectionInfo) -> Option<(String, u16)> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Some((host.clone(), *port))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(infos: &[ConnectionInfo]) -> Vec<(String, u16)> {
        infos.iter().filter_map(place).collect()
    }

    #[test]
    fn sentinels_have_a_service_a_database_and_secrets_of_their_own() {
        let url = "redis+sentinel://shop:p%40ss@one:1,two,[::1]:3/main/5\
                   ?sentinel_username=watch&sentinel_password=s3";
        let Address::Sentinel {
            sentinels,
            service,
            servers,
        } = Address::parse(url).unwrap()
        else {
            panic!()
        };
        let expected = [("one", 1), ("two", 26_379), ("::1", 3)];
        assert_eq!(
            places(&sentinels),
            expected.map(|(host, port)| (host.to_owned(), port))
        );
        assert_eq!(service, "main");
        let settings = sentinels[1].redis_settings();
        assert_eq!(settings.username(), Some("watch"));
        assert_eq!(settings.password(), Some("s3"));
        let settings = servers.redis_settings();
        assert_eq!(settings.username(), Some("shop"));
        assert_eq!(settings.password(), Some("p@ss"));
        assert_eq!(settings.db(), 5);
    }

    #[test]
    fn a_cluster_is_found_by_any_of_its_nodes() {
        let Address::Cluster { seeds } =
            Address::parse("redis+cluster://:pw@one,two:7001").unwrap()
        else {
            panic!()
        };
        let expected = [("one", 6379), ("two", 7001)];
        assert_eq!(
            places(&seeds),
            expected.map(|(host, port)| (host.to_owned(), port))
        );
        assert_eq!(seeds[1].redis_settings().password(), Some("pw"));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_is_for_every_connection() {
        let tls = |info: &ConnectionInfo| {
            matches!(
                info.addr(),
                ConnectionAddr::TcpTls {
                    insecure: false,
                    ..
                }
            )
        };
        let Address::Sentinel {
            sentinels, servers, ..
        } = Address::parse("rediss+sentinel://a,b/main").unwrap()
        else {
            panic!()
        };
        assert!(sentinels.iter().all(tls) && tls(&at(&servers, "c", 1)));
        let Address::Cluster { seeds } = Address::parse("rediss+cluster://a,b").unwrap() else {
            panic!()
        };
        assert!(seeds.iter().all(tls));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (url, word) in [
            ("redis+sentinel://u:hunter2@host", "SERVICE"),
            ("redis+sentinel://u:hunter2@host/main/x", "redis://"),
            ("redis+cluster://u:hunter2@host/3", "database"),
            ("redis+cluster://u:hunter2@", "redis://"),
            ("redis+cluster://u:hunter2@a,,b", "redis://"),
            ("rediss://u:hunter2@host?ssl_ca_certs=/nowhere", "/nowhere"),
            ("redis://u:hunter2@host/x", "redis://"),
        ] {
            let Err(error) = Address::parse(url) else {
                panic!("{url}")
            };
            let text = error.to_string();
            assert!(error.is_invalid(), "{text}");
            assert!(text.contains(word) && !text.contains("hunter2"), "{text}");
        }
    }
}
