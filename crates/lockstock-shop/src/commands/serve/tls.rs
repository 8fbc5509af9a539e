//! The certificate of the server, which is read again when its files change.

use std::fs;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use crate::cli::tls::CertificateFiles;

/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// HTTP/2, for a client that supports it.
pub(super) const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// The TLS of a listener.
pub(super) struct Tls {
    pub(super) acceptor: TlsAcceptor,
    pub(super) certificate: Arc<Certificate>,
}

impl Tls {
    pub(super) fn open(files: CertificateFiles) -> anyhow::Result<Self> {
        let certificate = Arc::new(Certificate::open(files)?);
        let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(certificate.clone());
        config.alpn_protocols = vec![HTTP_2.to_vec(), HTTP_1.to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificate,
        })
    }
}

/// A certificate and its key, as they are in their files.
#[derive(Debug)]
pub(super) struct Certificate {
    files: CertificateFiles,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    fn open(files: CertificateFiles) -> anyhow::Result<Self> {
        let current = RwLock::new(parse(&files, &read(&files)?)?);
        Ok(Self { files, current })
    }

    /// Reads the files whenever they change. A new certificate serves the connections that are
    /// accepted from then on. If the files are not valid, or only one of them is new, the old
    /// certificate stays.
    pub(super) async fn watch(&self) {
        let mut seen = read(&self.files).ok();
        loop {
            sleep(RELOAD_INTERVAL).await;
            let now = read(&self.files);
            if now.as_ref().ok() == seen.as_ref() {
                continue;
            }
            seen = now.as_ref().ok().cloned();
            match now.and_then(|contents| parse(&self.files, &contents)) {
                Ok(certificate) => {
                    if let Ok(mut current) = self.current.write() {
                        *current = certificate;
                    }
                    info!("the TLS certificate was read again");
                }
                Err(error) => warn!("the old TLS certificate stays in use: {error:#}"),
            }
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.read().ok().map(|current| current.clone())
    }
}

/// The contents of the files of a certificate and its key.
type Contents = (Vec<u8>, Vec<u8>);

fn read(files: &CertificateFiles) -> anyhow::Result<Contents> {
    let read = |option, path: &std::path::Path| {
        fs::read(path).with_context(|| format!("cannot read {} of {option}", path.display()))
    };
    Ok((
        read("--tls-cert", &files.chain)?,
        read("--tls-key", &files.key)?,
    ))
}

fn parse(files: &CertificateFiles, (chain, key): &Contents) -> anyhow::Result<Arc<CertifiedKey>> {
    let (chain_file, key_file) = (files.chain.display(), files.key.display());
    let chain = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("{chain_file} of --tls-cert is not in PEM"))?;
    ensure!(
        !chain.is_empty(),
        "{chain_file} of --tls-cert contains no certificate: it must be in PEM"
    );
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(|| format!("{key_file} of --tls-key contains no key in PEM"))?;
    let provider: &CryptoProvider = &ring::default_provider();
    let certificate = CertifiedKey::from_der(chain, key, provider).with_context(|| {
        format!("the key in {key_file} does not belong to the certificate in {chain_file}")
    })?;
    Ok(Arc::new(certificate))
}
