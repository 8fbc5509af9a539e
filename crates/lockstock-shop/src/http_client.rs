//! Clients of other servers.

use reqwest::{Client, ClientBuilder};

/// Returns the builder of a client. Without HTTPS it needs no certificate authorities: a machine without
/// the package ca-certificates has none.
pub(crate) fn builder(uses_https: bool) -> ClientBuilder {
    if uses_https {
        Client::builder()
    } else {
        Client::builder().tls_certs_only([])
    }
}
