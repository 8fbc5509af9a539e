//! The options of TLS.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Clone, Args)]
pub(crate) struct TlsArgs {
    /// File with the certificate of the server in PEM, followed by those of its authorities up to
    /// one that clients trust. Serves HTTPS only, over HTTP/2 to clients that support it. Read again
    /// when it changes
    #[arg(
        long,
        env = "LOCKSTOCK_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,

    /// File with the key of the certificate in PEM
    #[arg(
        long,
        env = "LOCKSTOCK_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
}

/// The files of a certificate.
#[derive(Debug, Clone)]
pub(crate) struct CertificateFiles {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

impl TlsArgs {
    /// Returns the files of the certificate, if there is one.
    pub(crate) fn files(&self) -> Option<CertificateFiles> {
        Some(CertificateFiles {
            chain: self.tls_cert.clone()?,
            key: self.tls_key.clone()?,
        })
    }
}
