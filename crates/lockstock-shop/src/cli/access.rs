//! The options of the server that decide which requests have access.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use clap::builder::BoolishValueParser;

use crate::access::rate_limit::{Rate, RateLimiter};
use crate::access::{Access, Keys};
use crate::cli::listen_address::{self, ListenAddress};

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

    /// Address for operators, with /metrics, /docs and the board, which --listen then has no more, and
    /// the API. Where only this machine can reach it, reads need no key [default: they are on --listen]
    #[arg(
        long,
        env = "LOCKSTOCK_OPERATE_LISTEN",
        value_name = "HOST:PORT",
        value_parser = listen_address::parse,
        help_heading = "Access"
    )]
    pub(crate) operate_listen: Option<ListenAddress>,

    /// Listen without API keys on an address that other machines can reach: each client that can
    /// connect can change products
    #[arg(long, env = "LOCKSTOCK_INSECURE", value_parser = BoolishValueParser::new(), help_heading = "Access")]
    insecure: bool,
}

impl AccessArgs {
    /// Checks that requests to `listen`, and to the address for operators, need keys if other
    /// machines can reach it.
    ///
    /// # Errors
    ///
    /// One line with the remedy.
    pub(crate) fn check_listeners(&self, listen: &ListenAddress) -> anyhow::Result<()> {
        for address in [Some(listen), self.operate_listen.as_ref()] {
            let Some(address) = address else { continue };
            anyhow::ensure!(
                address.is_local() || self.api_key_file.is_some() || self.insecure,
                "other machines can reach {address}, and requests need no key: listen on \
                 127.0.0.1, require keys with --api-key-file (`lockstock key --help`), or allow it \
                 with --insecure"
            );
        }
        Ok(())
    }

    /// Returns the rules for the address for operators, given those for the API. Any user of this
    /// machine may read, and needs a key for the rest.
    pub(crate) fn for_operators(&self, api: &Access) -> Option<Access> {
        let address = self.operate_listen.as_ref()?;
        Some(match address.is_local() {
            true => Access {
                keys: api.keys.clone(),
                has_open_reads: true,
                rate_limiter: None,
            },
            false => api.clone(),
        })
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
            has_open_reads: false,
            rate_limiter: rate_limiter.map(Arc::new),
        })
    }
}
