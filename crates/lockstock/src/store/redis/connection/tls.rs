//! Certificates of a connection: the authorities to trust, and the client's own.

use redis::ConnectionInfo;

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

/// What the blocking connections of a process need for TLS. The asynchronous ones have the redis
/// crate's own.
pub(super) struct ClientTls {
    #[cfg(feature = "tls")]
    certificates: Certificates,
    #[cfg(feature = "tls")]
    config: std::sync::OnceLock<std::sync::Arc<rustls::ClientConfig>>,
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

    /// Returns the same connection with these certificates. An error is its reason.
    #[cfg(feature = "tls")]
    pub(super) fn apply(&self, info: ConnectionInfo) -> Result<ConnectionInfo, String> {
        if self.authorities.is_none() && self.client.is_none() {
            return Ok(info);
        }
        let client_tls = self.client.as_ref();
        let client_tls = client_tls.map(|certificate| redis::ClientTlsConfig {
            client_cert: certificate.chain.clone(),
            client_key: certificate.key.clone(),
        });
        let certificates = redis::TlsCertificates {
            client_tls,
            root_cert: self.authorities.clone(),
        };
        let client = redis::Client::build_with_tls(info, certificates)
            .map_err(|error| format!("cannot use the certificates: {error}"))?;
        Ok(client.get_connection_info().clone())
    }

    #[cfg(not(feature = "tls"))]
    pub(super) fn apply(&self, info: ConnectionInfo) -> Result<ConnectionInfo, String> {
        Ok(info)
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
            config: std::sync::OnceLock::new(),
        }
    }

    /// Returns the configuration, which the first call makes: to read the system's certificates
    /// takes milliseconds. An error is its reason.
    pub(super) fn config(&self) -> Result<std::sync::Arc<rustls::ClientConfig>, String> {
        if let Some(config) = self.config.get() {
            return Ok(config.clone());
        }
        let config = self.certificates.config()?;
        Ok(self.config.get_or_init(|| config.into()).clone())
    }
}

#[cfg(feature = "tls")]
impl Certificates {
    fn config(&self) -> Result<rustls::ClientConfig, String> {
        use rustls::crypto::CryptoProvider;
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};

        let failed =
            |error: &dyn std::fmt::Display| format!("cannot use the certificates: {error}");
        let parse = |pem: &[u8]| {
            CertificateDer::pem_slice_iter(pem)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| failed(&error))
        };
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
        let mut roots = rustls::RootCertStore::empty();
        for authority in authorities {
            roots.add(authority).map_err(|error| failed(&error))?;
        }
        // That of the application if it has installed one, as for the asynchronous connections.
        let provider = match CryptoProvider::get_default() {
            Some(provider) => provider.clone(),
            None => rustls::crypto::ring::default_provider().into(),
        };
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_root_certificates(roots);
        match &self.client {
            None => Ok(config.with_no_client_auth()),
            Some(ClientCertificate { chain, key }) => {
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| failed(&error))?;
                config
                    .with_client_auth_cert(parse(chain)?, key)
                    .map_err(|error| failed(&error))
            }
        }
    }
}
