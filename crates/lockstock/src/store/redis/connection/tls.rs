//! Certificates of a connection: the authorities to trust, and the client's own.

use redis::ConnectionInfo;

use super::url::invalid;
use crate::error::Result;
use crate::store::builder::Options;

/// Returns the same connection with the certificates of the options, or with the authorities of
/// `ssl_ca_certs`, the option of the URL.
#[cfg(feature = "tls")]
pub(super) fn with_certificates(
    url: &str,
    info: ConnectionInfo,
    options: &Options,
    ssl_ca_certs: Option<&str>,
) -> Result<ConnectionInfo> {
    let root_cert =
        match (&options.ca_certificates, ssl_ca_certs) {
            (Some(pem), _) => Some(pem.clone()),
            (None, Some(file)) => Some(std::fs::read(file).map_err(|error| {
                invalid(url, &format!("cannot read ssl_ca_certs {file}: {error}"))
            })?),
            (None, None) => None,
        };
    let client_tls = options.client_certificate.as_ref();
    let client_tls = client_tls.map(|certificate| redis::ClientTlsConfig {
        client_cert: certificate.chain.clone(),
        client_key: certificate.key.clone(),
    });
    if root_cert.is_none() && client_tls.is_none() {
        return Ok(info);
    }
    let certificates = redis::TlsCertificates {
        client_tls,
        root_cert,
    };
    let client = redis::Client::build_with_tls(info, certificates)
        .map_err(|error| invalid(url, &format!("cannot use the certificates: {error}")))?;
    Ok(client.get_connection_info().clone())
}

#[cfg(not(feature = "tls"))]
pub(super) fn with_certificates(
    url: &str,
    info: ConnectionInfo,
    options: &Options,
    ssl_ca_certs: Option<&str>,
) -> Result<ConnectionInfo> {
    let has_own = options.ca_certificates.is_some() || options.client_certificate.is_some();
    if has_own || ssl_ca_certs.is_some() {
        return Err(invalid(
            url,
            "this build has no TLS: enable the feature tls",
        ));
    }
    Ok(info)
}
