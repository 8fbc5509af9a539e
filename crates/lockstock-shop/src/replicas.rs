//! The other servers of the shop that the operator lists, and the client that calls them.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use reqwest::{Client, Method, RequestBuilder, redirect, retry};
use url::{Host, Url};

use crate::http_client;

/// A server that does not accept a connection for this time is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Shorter than the usual `--header-timeout`, after which a server closes an idle connection: a
/// request on such a connection would be lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Beginning of the paths of updates that this server relays to others.
pub(crate) const RELAY_PATH: &str = "/board/replicas/";

/// The other servers of a shop.
#[derive(Debug)]
pub(crate) struct Replicas {
    client: Client,
    urls: Vec<ReplicaUrl>,
}

/// The URL under which this server reaches another one, with a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReplicaUrl(Url);

impl Replicas {
    /// Opens a client of the servers with these URLs, `None` without any. A request may take up to
    /// `timeout`, its response included.
    ///
    /// # Errors
    ///
    /// If a URL has HTTPS and this machine has no certificate authorities.
    pub(crate) fn open(urls: &[ReplicaUrl], timeout: Duration) -> anyhow::Result<Option<Self>> {
        if urls.is_empty() {
            return Ok(None);
        }
        let uses_https = urls.iter().any(|url| url.0.scheme() == "https");
        let client = http_client::builder(uses_https)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .timeout(timeout)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .build()
            .context("cannot call the servers of --replicas")?;
        let urls = urls.to_vec();
        Ok(Some(Self { client, urls }))
    }

    /// Returns the names of the servers, in the order of their indexes.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.urls.iter().map(ReplicaUrl::name)
    }

    /// Begins an update of a product at the server with this index. Returns `None` if there is no
    /// such server.
    pub(crate) fn patch(&self, index: usize, product: i64) -> Option<RequestBuilder> {
        let url = self.urls.get(index)?;
        let url = url.0.join(&format!("api/products/{product}/")).ok()?;
        Some(self.client.request(Method::PATCH, url))
    }
}

impl ReplicaUrl {
    /// Returns the host, and the port and the path if the URL has them.
    fn name(&self) -> &str {
        let url = self.0.as_str().trim_end_matches('/');
        url.split_once("://").map_or(url, |(_, name)| name)
    }

    /// Returns whether requests to the server are in plain text on a network.
    pub(crate) fn is_plain(&self) -> bool {
        let is_loopback = match self.0.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        self.0.scheme() == "http" && !is_loopback
    }
}

impl FromStr for ReplicaUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.query().is_none()
                && url.fragment().is_none()
        });
        let mut url = url.ok_or("expected the URL of a server, like http://10.0.0.2:8000")?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "credentials do not belong into this URL: requests carry the API key of \
                 their client"
                    .to_owned(),
            );
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(Self(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_replica_is_one_of_http_without_credentials_and_query() {
        for (text, name, is_plain) in [
            ("http://10.0.0.2:8000", "10.0.0.2:8000", true),
            ("http://[2001:db8::2]:8000/", "[2001:db8::2]:8000", true),
            ("http://two.example", "two.example", true),
            ("http://localhost:8001", "localhost:8001", false),
            ("http://127.0.0.2:8001", "127.0.0.2:8001", false),
            ("http://[::1]:8001", "[::1]:8001", false),
            ("https://Two.example", "two.example", false),
            ("https://example.com/shop", "example.com/shop", false),
        ] {
            let url = text.parse::<ReplicaUrl>().unwrap();
            assert_eq!((url.name(), url.is_plain()), (name, is_plain));
            assert!(url.0.path().ends_with('/'), "{text}");
        }
        for (text, part) in [
            ("10.0.0.2:8000", "like http://"),
            ("ftp://10.0.0.2", "like http://"),
            ("http://10.0.0.2/?key=secret", "like http://"),
            ("http://10.0.0.2/#secret", "like http://"),
            ("http://user:secret@10.0.0.2", "credentials"),
            ("http://secret@10.0.0.2", "credentials"),
        ] {
            let error = text.parse::<ReplicaUrl>().unwrap_err();
            assert!(error.contains(part) && !error.contains("secret"), "{error}");
        }
    }
}
