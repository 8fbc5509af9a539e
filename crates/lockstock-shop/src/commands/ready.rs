//! `lockstock ready`: reports whether a server is ready, for health checks where there is no curl.

use std::slice;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use lockstock::redact_url;
use reqwest::StatusCode;
use serde_json::Value;

use super::api_client::{base_url, client_builder, root_cause};
use crate::cli::values::{TIME_HELP, TIMEOUT, duration_in};

#[derive(Debug, Args)]
#[command(after_help = TIME_HELP)]
pub(crate) struct ReadyArgs {
    /// URL of the server, or of its --operate-listen
    #[arg(
        long,
        env = "LOCKSTOCK_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8000"
    )]
    url: String,

    /// Maximum time to the response
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration_in(TIMEOUT, "5s"))]
    timeout: Duration,
}

/// Fails, and so exits with 1, unless `/readyz` of the server returns 200.
pub(crate) async fn run(args: ReadyArgs) -> anyhow::Result<()> {
    let url = base_url(&args.url)?.join("readyz")?;
    let shown = redact_url(url.as_str());
    // Without the proxies of the environment: they are for other machines.
    let client = client_builder(slice::from_ref(&url))
        .no_proxy()
        .timeout(args.timeout)
        .build()?;
    let response = match client.get(url).send().await {
        Ok(response) => response,
        Err(error) if error.is_timeout() => {
            bail!("no response from {shown} within {:?}", args.timeout)
        }
        Err(error) => bail!("no response from {shown} ({})", root_cause(&error)),
    };
    let status = response.status();
    let body = response.bytes().await.unwrap_or_default();
    let readiness = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    let state = readiness["status"]
        .as_str()
        .with_context(|| format!("{shown} responded with {status}: is this a Lockstock server?"))?;
    if status != StatusCode::OK {
        bail!("{shown} is {state}: {readiness}");
    }
    println!("{state}");
    Ok(())
}
