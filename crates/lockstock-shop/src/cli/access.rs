//! The options of the server that decide which requests have access.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use clap::builder::BoolishValueParser;

use crate::access::rate_limit::{Rate, RateLimiter};
use crate::access::{Access, Keys};
use crate::cli::listen_address::ListenAddress;

#[derive(Debug, Args)]
pub(crate) struct AccessArgs {
    /// File of API keys, one a line, as `lockstock key new` prints them. Each request then needs a
    /// key, except for /healthz and /readyz. SIGHUP reads the file again
    #[arg(
        long,
        env = "LOCKSTOCK_API_KEY_FILE",
        value_name = "FILE",
        help_heading = "Access"
    )]
    pub(crate) api_key_file: Option<PathBuf>,

    /// Maximum rate of the API requests of one key or, without keys, of one address, per s, m or h,
    /// like 600/m. Further requests get 429. Each server counts for itself [default: no limit]
    #[arg(
        long,
        env = "LOCKSTOCK_RATE_LIMIT",
        value_name = "RATE",
        help_heading = "Access"
    )]
    rate_limit: Option<Rate>,

    /// Listen without API keys on an address that other machines can reach: each client that can
    /// connect can change products
    #[arg(long, env = "LOCKSTOCK_INSECURE", value_parser = BoolishValueParser::new(), help_heading = "Access")]
    insecure: bool,
}

impl AccessArgs {
    /// Checks that a listener on `address` needs keys if other machines can reach it.
    ///
    /// # Errors
    ///
    /// One line with the remedy.
    pub(crate) fn check_listener(&self, address: &ListenAddress) -> anyhow::Result<()> {
        anyhow::ensure!(
            address.is_local() || self.api_key_file.is_some() || self.insecure,
            "other machines can reach {address}, and requests need no key: listen on 127.0.0.1, \
             require keys with --api-key-file (`lockstock key --help`), or allow it with --insecure"
        );
        Ok(())
    }

    /// Reads the key file, if there is one.
    ///
    /// # Errors
    ///
    /// One line with the file, the line and the remedy.
    pub(crate) fn access(&self) -> anyhow::Result<Access> {
        let keys = self.api_key_file.clone().map(Keys::load).transpose()?;
        let rate_limiter = self.rate_limit.map(RateLimiter::new);
        Ok(Access {
            keys: keys.map(Arc::new),
            rate_limiter: rate_limiter.map(Arc::new),
        })
    }
}
