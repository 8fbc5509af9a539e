//! Certificates of a connection: the authorities to trust, and the client's own.

use redis::ConnectionInfo;

use crate::store::builder::Options;

/// Returns the same connection with the certificates of the options, or with the authorities of
/// `ssl_ca_certs`, the option of the URL. An error is its reason.
#[cfg(feature = "tls")]
pub(super) fn with_certificates(
    info: ConnectionInfo,
    options: &Options,
    ssl_ca_certs: Option<&str>,
) -> Result<ConnectionInfo, String> {
    let read = |file| {
        std::fs::read(file).map_err(|error| format!("cannot read ssl_ca_certs {file}: {error}"))
    };
    let root_cert = match (&options.ca_certificates, ssl_ca_certs) {
        (Some(pem), _) => Some(pem.clone()),
        (None, file) => file.map(read).transpose()?,
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
        .map_err(|error| format!("cannot use the certificates: {error}"))?;
    Ok(client.get_connection_info().clone())
}

#[cfg(not(feature = "tls"))]
pub(super) fn with_certificates(
    info: ConnectionInfo,
    options: &Options,
    ssl_ca_certs: Option<&str>,
) -> Result<ConnectionInfo, String> {
    let has_own = options.ca_certificates.is_some() || options.client_certificate.is_some();
    if has_own || ssl_ca_certs.is_some() {
        return Err("this build has no TLS: enable the feature tls".to_owned());
    }
    Ok(info)
}
