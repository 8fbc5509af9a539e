//! Certificates of a connection: the authorities to trust, and the client's own.

#[cfg(feature = "tls")]
use std::{
    io,
    sync::{Arc, OnceLock},
};

#[cfg(feature = "tls")]
use redis::ConnectionAddr;
use redis::ConnectionInfo;
#[cfg(feature = "tls")]
use rustls::{
    ClientConfig, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use crate::store::builder::{ClientCertificate, Options};

/// The certificates of the options, or the authorities of `ssl_ca_certs`, the option of the URL.
#[derive(Clone)]
#[cfg_attr(
    not(feature = "tls"),
    expect(dead_code, reason = "rejected without TLS")
)]
pub(in crate::store) struct Certificates {
    /// In PEM. `None`: those of the system.
    authorities: Option<Vec<u8>>,
    client: Option<ClientCertificate>,
}

/// What the connections of a process need for TLS.
pub(super) struct ClientTls {
    #[cfg(feature = "tls")]
    certificates: Certificates,
    #[cfg(feature = "tls")]
    config: OnceLock<Arc<ClientConfig>>,
}

impl Certificates {
    /// An error is its reason.
    pub(super) fn read(options: &Options, ssl_ca_certs: Option<&str>) -> Result<Self, String> {
        let has_own = options.ca_certificates.is_some() || options.client_certificate.is_some();
        if !cfg!(feature = "tls") && (has_own || ssl_ca_certs.is_some()) {
            return Err("this build has no TLS: enable the feature tls".to_owned());
        }
        let read = |file| {
            std::fs::read(file).map_err(|error| format!("cannot read ssl_ca_certs {file}: {error}"))
        };
        Ok(Self {
            authorities: match (&options.ca_certificates, ssl_ca_certs) {
                (Some(pem), _) => Some(pem.clone()),
                (None, file) => file.map(read).transpose()?,
            },
            client: options.client_certificate.clone(),
        })
    }

    /// Fails if the certificates cannot be used for a connection. An error is its reason.
    #[cfg(feature = "tls")]
    pub(super) fn check(&self, info: &ConnectionInfo) -> Result<(), String> {
        if self.authorities.is_none() && self.client.is_none() {
            return Ok(());
        }
        if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return Err("certificates need TLS: write rediss://".to_owned());
        }
        if let Some(pem) = &self.authorities {
            roots(parse(pem)?)?;
        }
        if let Some(certificate) = &self.client {
            certificate.parse()?;
        }
        Ok(())
    }

    #[cfg(not(feature = "tls"))]
    pub(super) fn check(&self, _: &ConnectionInfo) -> Result<(), String> {
        Ok(())
    }
}

#[cfg(not(feature = "tls"))]
impl ClientTls {
    pub(super) fn new(_: Certificates) -> Self {
        Self {}
    }
}

#[cfg(feature = "tls")]
impl ClientTls {
    pub(super) fn new(certificates: Certificates) -> Self {
        Self {
            certificates,
            config: OnceLock::new(),
        }
    }

    /// Returns what a session with the server at an address begins with, `None` if the address is one
    /// without TLS.
    pub(super) fn session(
        &self,
        address: &ConnectionAddr,
    ) -> io::Result<Option<(Arc<ClientConfig>, ServerName<'static>)>> {
        let ConnectionAddr::TcpTls { host, insecure, .. } = address else {
            return Ok(None);
        };
        if *insecure {
            return Err(io::Error::other("#insecure is not supported"));
        }
        let name = ServerName::try_from(host.clone());
        let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let config = self.config().map_err(io::Error::other)?;
        Ok(Some((config, name)))
    }

    /// Returns the configuration, which the first call makes: to read the system's certificates
    /// takes milliseconds. An error is its reason.
    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = self.config.get() {
            return Ok(config.clone());
        }
        let config = self.certificates.config()?;
        Ok(self.config.get_or_init(|| config.into()).clone())
    }
}

#[cfg(feature = "tls")]
impl Certificates {
    fn config(&self) -> Result<ClientConfig, String> {
        let authorities = match &self.authorities {
            Some(pem) => parse(pem)?,
            None => {
                let mut system = rustls_native_certs::load_native_certs();
                match system.errors.pop() {
                    Some(error) => return Err(failed(&error)),
                    None => system.certs,
                }
            }
        };
        // That of the application if it has installed one.
        let provider = match CryptoProvider::get_default() {
            Some(provider) => provider.clone(),
            None => rustls::crypto::ring::default_provider().into(),
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_root_certificates(roots(authorities)?);
        match &self.client {
            None => Ok(config.with_no_client_auth()),
            Some(certificate) => {
                let (chain, key) = certificate.parse()?;
                let config = config.with_client_auth_cert(chain, key);
                config.map_err(|error| failed(&error))
            }
        }
    }
}

#[cfg(feature = "tls")]
impl ClientCertificate {
    fn parse(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| failed(&error))?;
        Ok((parse(&self.chain)?, key))
    }
}

#[cfg(feature = "tls")]
fn parse(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem);
    let certificates: Result<_, _> = certificates.collect();
    certificates.map_err(|error| failed(&error))
}

#[cfg(feature = "tls")]
fn roots(authorities: Vec<CertificateDer<'static>>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| failed(&error))?;
    }
    Ok(roots)
}

#[cfg(feature = "tls")]
fn failed(error: &dyn std::fmt::Display) -> String {
    format!("cannot use the certificates: {error}")
}
