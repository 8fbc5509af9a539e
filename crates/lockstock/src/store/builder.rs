//! How a store is opened, beyond its URL.

use std::fmt;
use std::time::Duration;

use super::{DEFAULT_TIMEOUT, Store};
use crate::error::Result;
use crate::redact::redact_url;

/// Settings of a store that is not open yet: see [`Store::builder`].
#[derive(Clone)]
#[must_use = "call connect or open"]
pub struct StoreBuilder {
    url: String,
    options: Options,
}

/// Settings of the connections.
#[derive(Clone)]
pub(crate) struct Options {
    pub(super) timeout: Duration,
    /// Instead of those of the URL.
    pub(super) credentials: Option<Credentials>,
    /// Certificate authorities in PEM, instead of those of the URL or of the system.
    pub(super) ca_certificates: Option<Vec<u8>>,
    pub(super) client_certificate: Option<ClientCertificate>,
}

#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) password: String,
}

/// Certificate chain and key, in PEM.
#[derive(Clone)]
#[cfg_attr(
    not(feature = "tls"),
    expect(dead_code, reason = "rejected without TLS")
)]
pub(super) struct ClientCertificate {
    pub(super) chain: Vec<u8>,
    pub(super) key: Vec<u8>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: DEFAULT_TIMEOUT,
            credentials: None,
            ca_certificates: None,
            client_certificate: None,
        }
    }
}

impl StoreBuilder {
    pub(super) fn new(url: String) -> Self {
        Self {
            url,
            options: Options::default(),
        }
    }

    /// Sets the time limit for each command, 1 s ([`DEFAULT_TIMEOUT`]) by default. A command that
    /// exceeds it fails as unavailable. It includes the time to connect, if the command has to.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = timeout;
        self
    }

    /// Sets user and password, without escapes, instead of those in the URL. A server that has
    /// only a password calls its user `default`. Sentinels have
    /// [credentials of their own](Store::connect) in the URL.
    pub fn credentials(mut self, username: impl Into<String>, password: impl Into<String>) -> Self {
        self.options.credentials = Some(Credentials {
            username: username.into(),
            password: password.into(),
        });
        self
    }

    /// Sets the certificate authorities to trust, in PEM, instead of those of the system. Requires
    /// a URL with TLS (`rediss…`).
    pub fn ca_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.options.ca_certificates = Some(pem.into());
        self
    }

    /// Sets the certificate by which this client authenticates itself (mutual TLS): the chain and
    /// its private key, both in PEM. Requires a URL with TLS (`rediss…`).
    pub fn client_certificate(
        mut self,
        chain_pem: impl Into<Vec<u8>>,
        key_pem: impl Into<Vec<u8>>,
    ) -> Self {
        self.options.client_certificate = Some(ClientCertificate {
            chain: chain_pem.into(),
            key: key_pem.into(),
        });
        self
    }

    /// Opens the store, and checks that it replies: as [`Store::connect`].
    ///
    /// # Errors
    ///
    /// As [`Store::connect`]; [`is_invalid`](crate::Error::is_invalid) also if a certificate is
    /// malformed or the URL is without TLS.
    pub async fn connect(self) -> Result<Store> {
        let store = self.open()?;
        store.check().await?;
        Ok(store)
    }

    /// Opens the store, which does not need to reply yet: as [`Store::open`].
    ///
    /// # Errors
    ///
    /// [`is_invalid`](crate::Error::is_invalid) if the URL is not that of a store, a certificate
    /// is malformed, or the URL is without TLS although there is a certificate.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn open(self) -> Result<Store> {
        Store::open_with(&self.url, &self.options)
    }

    pub(crate) fn into_parts(self) -> (String, Options) {
        (self.url, self.options)
    }
}

impl fmt::Debug for StoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not derived: password and key are secret.
        f.debug_struct("StoreBuilder")
            .field("url", &redact_url(&self.url))
            .field("timeout", &self.options.timeout)
            .finish_non_exhaustive()
    }
}
