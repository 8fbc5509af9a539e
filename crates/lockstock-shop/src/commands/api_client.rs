//! What commands that call a server have in common: its URL, the secret of an API key, errors.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use lockstock::redact_url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{ClientBuilder, Url};

use crate::http_client;

/// The secret of an API key. It is no option itself, because other users of the machine can read the
/// arguments of a process.
#[derive(Debug, Args)]
pub(super) struct SecretArgs {
    /// File with the secret of an API key, if the server requires one [default: the secret is in the
    /// variable LOCKSTOCK_API_KEY]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

/// Parses the URL of a server. The paths of the API are relative to it.
pub(super) fn base_url(text: &str) -> anyhow::Result<Url> {
    let url = Url::parse(text).ok();
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let mut url = url.with_context(|| {
        let shown = match text.contains("://") || text.contains('@') {
            true => redact_url(text),
            false => text.to_owned(),
        };
        format!("'{shown}' is not the URL of a server: expected one like http://127.0.0.1:8000")
    })?;
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

/// Returns the host and port of a URL.
pub(super) fn server_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Returns the builder of a client for these servers.
pub(super) fn client_builder(urls: &[Url]) -> ClientBuilder {
    http_client::builder(urls.iter().any(|url| url.scheme() == "https"))
}

impl SecretArgs {
    /// Returns the headers that carry the secret, if there is one.
    pub(super) fn headers(&self) -> anyhow::Result<HeaderMap> {
        let secret = match &self.secret_file {
            Some(file) => {
                let secret = std::fs::read_to_string(file)
                    .with_context(|| format!("cannot read the secret in {}", file.display()))?;
                Some(secret)
            }
            None => std::env::var("LOCKSTOCK_API_KEY").ok(),
        };
        let secret = secret.as_deref().map(str::trim);
        let mut headers = HeaderMap::new();
        if let Some(secret) = secret.filter(|secret| !secret.is_empty()) {
            let mut bearer = HeaderValue::try_from(format!("Bearer {secret}"))
                .context("the secret of the API key is not one line of text")?;
            // Not part of `Debug`.
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        Ok(headers)
    }
}

/// Returns the innermost source, because reqwest's own message is only "error sending request".
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
