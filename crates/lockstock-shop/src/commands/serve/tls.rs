//! The certificate of the server, which is read again when its files change.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::signal::unix::Signal;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use crate::cli::tls::CertificateFiles;
use crate::private_file::ensure_private;

/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// HTTP/2, for a client that supports it.
pub(super) const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// The TLS of a listener.
pub(super) struct Tls {
    pub(super) acceptor: TlsAcceptor,
    certificate: Arc<Certificate>,
    /// The files, as they were read.
    contents: Contents,
}

impl Tls {
    pub(super) fn open(files: CertificateFiles) -> anyhow::Result<Self> {
        let contents = read(&files)?;
        let current = RwLock::new(parse(&files, &contents)?);
        let certificate = Arc::new(Certificate { files, current });
        let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(certificate.clone());
        config.alpn_protocols = vec![HTTP_2.to_vec(), HTTP_1.to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificate,
            contents,
        })
    }

    /// Reads the files whenever they change, and after each SIGHUP. A new certificate serves the
    /// connections that are accepted from then on. If the files are not valid, or only one of them is
    /// new, the old certificate stays.
    pub(super) async fn watch(self, mut hangup: Signal) {
        let Self {
            certificate,
            contents,
            ..
        } = self;
        let mut seen = Some(contents);
        loop {
            let is_requested = tokio::select! {
                () = sleep(RELOAD_INTERVAL) => false,
                _ = hangup.recv() => true,
            };
            let files = certificate.files.clone();
            // The disk may be slow, or not reply at all.
            let Ok(now) = spawn_blocking(move || read(&files)).await else {
                continue;
            };
            if now.as_ref().ok() == seen.as_ref() && !is_requested {
                continue;
            }
            seen = now.as_ref().ok().cloned();
            match now.and_then(|contents| parse(&certificate.files, &contents)) {
                Ok(parsed) => {
                    if let Ok(mut current) = certificate.current.write() {
                        *current = parsed;
                    }
                    info!("the TLS certificate was read again");
                }
                Err(error) => warn!("the old TLS certificate stays in use: {error:#}"),
            }
        }
    }
}

/// A certificate and its key, as they are in their files.
#[derive(Debug)]
struct Certificate {
    files: CertificateFiles,
    current: RwLock<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.read().ok().map(|current| current.clone())
    }
}

/// The contents of the files of a certificate and its key.
type Contents = (Vec<u8>, Vec<u8>);

/// Returns the certificate and its key, which belong together.
pub(in crate::commands) fn load(files: &CertificateFiles) -> anyhow::Result<Arc<CertifiedKey>> {
    parse(files, &read(files)?)
}

fn read(files: &CertificateFiles) -> anyhow::Result<Contents> {
    let CertificateFiles { chain, key } = files;
    let failed = |option, path: &Path| format!("cannot read {} of {option}", path.display());
    let chain_text = fs::read(chain).with_context(|| failed("--tls-cert", chain))?;
    let mut file = File::open(key).with_context(|| failed("--tls-key", key))?;
    ensure_private(&file, key, "the key of --tls-key")?;
    let mut key_text = Vec::new();
    file.read_to_end(&mut key_text)
        .with_context(|| failed("--tls-key", key))?;
    Ok((chain_text, key_text))
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
