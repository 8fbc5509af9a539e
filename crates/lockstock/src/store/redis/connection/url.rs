//! Redis URLs.
//!
//! | URL | servers |
//! |---|---|
//! | `redis://[user:password@]host[:port][/db]`, `redis+unix:///path?db=1` | a single server |
//! | `redis+sentinel://[user:password@]host[:port],host[:port]/SERVICE[/db]` | the master of SERVICE that these sentinels name |
//! | `redis+cluster://[user:password@]host[:port],host[:port]` | a Cluster that contains these nodes |
//! | `rediss…` | the same, every connection over TLS |
//!
//! User and password are sent to the servers, `?sentinel_username=…&sentinel_password=…` to the
//! sentinels. With `rediss…`, `?ssl_ca_certs=FILE` names the authorities to trust instead of the
//! system's.

use std::net::IpAddr;

use redis::io::tcp::TcpSettings;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};
use url::form_urlencoded;

use super::tls::Certificates;
use crate::error::{Error, Result};
use crate::redact::redact_url;
use crate::store::builder::{Credentials, Options};

const SENTINEL_PORT: u16 = 26_379;

/// The servers of a URL, with the settings to connect to them.
pub(super) enum Endpoints {
    Single(ConnectionInfo),
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        service: String,
        /// The settings of the servers. Their host is a placeholder.
        servers: ConnectionInfo,
    },
    Cluster {
        seeds: Vec<ConnectionInfo>,
    },
}

/// The parts of a URL. Not the `url` crate's: it does not support lists of hosts.
struct Parts<'a> {
    tls: bool,
    /// User and password, with the `@`.
    credentials: &'a str,
    hosts: &'a str,
    path: &'a str,
    query: Vec<(String, String)>,
}

impl Endpoints {
    pub(super) fn parse(url: &str, options: &Options) -> Result<(Self, Certificates)> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let parts = Parts::split(scheme, rest);
        let certificates = Certificates::read(options, parts.option("ssl_ca_certs"))
            .map_err(|reason| invalid(url, &reason))?;
        let checked = |info| match certificates.check(&info) {
            Ok(()) => Ok(info),
            Err(reason) => Err(invalid(url, &reason)),
        };
        let server = |info| checked(with_credentials(info, options));
        let endpoints = match scheme {
            "redis+sentinel" | "rediss+sentinel" => {
                let (sentinels, service, servers) = sentinel(url, &parts)?;
                let sentinels = sentinels.into_iter().map(checked);
                Self::Sentinel {
                    sentinels: sentinels.collect::<Result<_>>()?,
                    service,
                    servers: server(servers)?,
                }
            }
            "redis+cluster" | "rediss+cluster" => {
                let seeds = cluster(url, &parts)?.into_iter().map(server);
                Self::Cluster {
                    seeds: seeds.collect::<Result<_>>()?,
                }
            }
            // The redis crate does not know the option.
            "rediss" if parts.option("ssl_ca_certs").is_some() => {
                let info = parts.server(url, parts.hosts, parts.path.trim_matches('/'))?;
                Self::Single(server(info)?)
            }
            _ => Self::Single(server(info(url, url)?)?),
        };
        Ok((endpoints, certificates))
    }
}

fn with_credentials(info: ConnectionInfo, options: &Options) -> ConnectionInfo {
    let Some(Credentials { username, password }) = &options.credentials else {
        return info;
    };
    let settings = info.redis_settings().clone();
    info.set_redis_settings(settings.set_username(username).set_password(password))
}

fn sentinel(url: &str, parts: &Parts<'_>) -> Result<(Vec<ConnectionInfo>, String, ConnectionInfo)> {
    let (service, db) = parts.path.split_once('/').unwrap_or((parts.path, ""));
    if service.is_empty() {
        return Err(invalid(
            url,
            "the service is missing: write redis+sentinel://host:port,host:port/SERVICE/DB",
        ));
    }
    let sentinel_parts = Parts {
        credentials: "",
        query: parts.query.clone(),
        ..*parts
    };
    let mut sentinels = Vec::new();
    for host in parts.hosts() {
        let has_port = host.rfind(':') > host.rfind(']');
        let info = sentinel_parts.server(url, host, "")?;
        let (name, port) = address(&info).unwrap_or_default();
        let port = if has_port { port } else { SENTINEL_PORT };
        let mut settings = info.redis_settings().clone();
        if let Some(user) = parts.option("sentinel_username") {
            settings = settings.set_username(user);
        }
        if let Some(password) = parts.option("sentinel_password") {
            settings = settings.set_password(password);
        }
        sentinels.push(with_address(&info, &name, port).set_redis_settings(settings));
    }
    let host = parts.hosts().next().unwrap_or_default();
    let servers = parts.server(url, host, db)?;
    Ok((sentinels, service.to_owned(), servers))
}

fn cluster(url: &str, parts: &Parts<'_>) -> Result<Vec<ConnectionInfo>> {
    if !matches!(parts.path, "" | "0") {
        return Err(invalid(
            url,
            "it names a database, but a Cluster has only database 0",
        ));
    }
    let seeds = parts.hosts().map(|host| parts.server(url, host, ""));
    seeds.collect()
}

impl<'a> Parts<'a> {
    fn split(scheme: &str, rest: &'a str) -> Self {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // The last '@': a password may contain one.
        let host_start = rest.rfind('@').map_or(0, |at| at + 1);
        let (credentials, rest) = rest.split_at(host_start);
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        Self {
            tls: scheme.starts_with("rediss"),
            credentials,
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
        let pair = self.query.iter().find(|(key, _)| key == name);
        pair.map(|(_, value)| &value[..])
    }

    /// Returns the settings of the server at `host`.
    fn server(&self, url: &str, host: &str, db: &str) -> Result<ConnectionInfo> {
        let scheme = if self.tls { "rediss" } else { "redis" };
        info(url, &format!("{scheme}://{}{host}/{db}", self.credentials))
    }
}

fn info(url: &str, server: &str) -> Result<ConnectionInfo> {
    let info = server.into_connection_info().map_err(|error| {
        // Without the error itself: some messages of redis contain the URL.
        let mut reason = error.category().to_owned();
        if url.contains('#') {
            reason += ": in a password, write # as %23";
        }
        invalid(
            url,
            &format!("{reason}: write redis://[user:password@]host[:port][/db]"),
        )
    })?;
    // RESP3 allows push messages and replies on the same connection.
    let settings = info.redis_settings().clone();
    let info = info.set_redis_settings(settings.set_protocol(ProtocolVersion::RESP3));
    Ok(with_tcp_settings(info))
}

/// Sends each small command at once, instead of when the server has acknowledged the one before it.
/// Not on loopback: an acknowledgement takes no time there, and each packet costs both sides.
fn with_tcp_settings(info: ConnectionInfo) -> ConnectionInfo {
    let is_loopback = address(&info).is_some_and(|(host, _)| {
        let ip = host.parse::<IpAddr>();
        ip.map_or(host == "localhost", |ip| ip.is_loopback())
    });
    info.set_tcp_settings(TcpSettings::default().set_nodelay(!is_loopback))
}

fn invalid(url: &str, reason: &str) -> Error {
    Error::invalid(format!("invalid Redis URL '{}': {reason}", redact_url(url)))
}

/// Returns the same settings for the server at another address.
pub(super) fn with_address(info: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let addr = match info.addr() {
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
    with_tcp_settings(info.clone().set_addr(addr))
}

/// Returns host and port of a server, `None` for a Unix socket.
pub(super) fn address(info: &ConnectionInfo) -> Option<(String, u16)> {
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

    fn parse(url: &str) -> Result<Endpoints> {
        Ok(Endpoints::parse(url, &Options::default())?.0)
    }

    fn addresses(infos: &[ConnectionInfo]) -> Vec<(String, u16)> {
        infos.iter().filter_map(address).collect()
    }

    #[test]
    fn a_sentinel_url_has_a_service_a_database_and_separate_credentials() {
        let url = "redis+sentinel://shop:p%40ss@one:1,two,[::1]:3/main/5\
                   ?sentinel_username=watch&sentinel_password=s3";
        let Endpoints::Sentinel {
            sentinels,
            service,
            servers,
        } = parse(url).unwrap()
        else {
            panic!()
        };
        let expected = [("one", 1), ("two", 26_379), ("::1", 3)];
        assert_eq!(
            addresses(&sentinels),
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
    fn a_cluster_url_lists_some_nodes() {
        let Endpoints::Cluster { seeds } = parse("redis+cluster://:pw@one,two:7001").unwrap()
        else {
            panic!()
        };
        let expected = [("one", 6379), ("two", 7001)];
        assert_eq!(
            addresses(&seeds),
            expected.map(|(host, port)| (host.to_owned(), port))
        );
        assert_eq!(seeds[1].redis_settings().password(), Some("pw"));
    }

    #[test]
    fn no_connection_to_another_host_delays_small_commands() {
        let nodelay = |info: &ConnectionInfo| info.tcp_settings().nodelay();
        let Endpoints::Single(single) = parse("redis://a").unwrap() else {
            panic!()
        };
        assert!(nodelay(&single));
        let Endpoints::Sentinel {
            sentinels, servers, ..
        } = parse("redis+sentinel://a,b/main").unwrap()
        else {
            panic!()
        };
        assert!(sentinels.iter().all(nodelay) && nodelay(&with_address(&servers, "c", 1)));
        let Endpoints::Cluster { seeds } = parse("redis+cluster://:pw@a").unwrap() else {
            panic!()
        };
        assert!(seeds.iter().all(nodelay));
        for host in ["127.0.0.1", "[::1]", "localhost"] {
            let url = format!("redis://{host}:6379");
            let Endpoints::Single(here) = parse(&url).unwrap() else {
                panic!()
            };
            assert!(!nodelay(&here), "{host}");
            assert!(nodelay(&with_address(&here, "10.0.0.1", 6379)));
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_applies_to_every_connection() {
        let tls = |info: &ConnectionInfo| {
            matches!(
                info.addr(),
                ConnectionAddr::TcpTls {
                    insecure: false,
                    ..
                }
            )
        };
        let Endpoints::Sentinel {
            sentinels, servers, ..
        } = parse("rediss+sentinel://a,b/main").unwrap()
        else {
            panic!()
        };
        assert!(sentinels.iter().all(tls) && tls(&with_address(&servers, "c", 1)));
        let Endpoints::Cluster { seeds } = parse("rediss+cluster://a,b").unwrap() else {
            panic!()
        };
        assert!(seeds.iter().all(tls));
    }

    #[test]
    fn errors_name_the_mistake_without_the_password() {
        for (url, word) in [
            ("redis+sentinel://u:hunter2@host", "SERVICE"),
            ("redis+sentinel://u:hunter2@host/main/x", "redis://"),
            ("redis+cluster://u:hunter2@host/3", "database"),
            ("redis+cluster://u:hunter2@", "redis://"),
            ("redis+cluster://u:hunter2@a,,b", "redis://"),
            ("rediss://u:hunter2@host?ssl_ca_certs=/nowhere", "/nowhere"),
            ("redis://u:hunter2@host/x", "redis://"),
            ("redis://u:hunter2#@host", "%23"),
        ] {
            let Err(error) = parse(url) else {
                panic!("{url}")
            };
            let text = error.to_string();
            assert!(error.is_invalid(), "{text}");
            assert!(text.contains(word) && !text.contains("hunter2"), "{text}");
        }
    }
}
