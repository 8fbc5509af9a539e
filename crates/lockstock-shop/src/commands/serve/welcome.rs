//! The introduction that the server prints when it listens.

use std::io::{IsTerminal, Write};

use lockstock::redact_url;
use serde_json::json;

use super::ServeArgs;
use crate::cli::listen_address::ListenAddress;
use crate::storage::redact_database_url;

/// Prints where the server can be reached: an introduction on a terminal, one line of JSON
/// otherwise, because a collector of logs may receive it among the lines of the log.
pub(super) fn print_welcome(
    args: &ServeArgs,
    address: &ListenAddress,
    operate: Option<&ListenAddress>,
) -> std::io::Result<()> {
    let is_tls = args.tls.files().is_some();
    let url = address.url(is_tls);
    let for_operators = match operate {
        Some(address) => address.url(is_tls && !address.is_local()),
        None => url.clone(),
    };
    let mut curl = match address {
        ListenAddress::Tcp(_) => "curl".to_owned(),
        ListenAddress::Unix(path) => format!("curl --unix-socket {}", path.display()),
    };
    let mut race = "lockstock race";
    if args.access.api_key_file.is_some() {
        curl.push_str(" -H 'Authorization: Bearer SECRET'");
        race = "LOCKSTOCK_API_KEY=SECRET lockstock race";
    }
    // `println!` panics if standard output is closed.
    let mut out = std::io::stdout();
    if !out.is_terminal() {
        let line = json!({
            "message": "listening",
            "address": address.to_string(),
            "api": format!("{url}/api/products/"),
            "board": format!("{for_operators}/"),
            "docs": format!("{for_operators}/docs/"),
        });
        writeln!(out, "{line}")?;
        return out.flush();
    }
    writeln!(
        out,
        "Lockstock {version} is serving {database} with locks in {store}

  the API      {url}/api/products/
  its docs     {for_operators}/docs/
  the board    {for_operators}/
  operation    {url}/readyz   {for_operators}/metrics

  try          {curl} {url}/api/products/
               {curl} -X PATCH {url}/api/products/1/ -d stock=9",
        version = env!("CARGO_PKG_VERSION"),
        database = redact_database_url(&args.database),
        store = redact_url(&args.store),
    )?;
    match address {
        ListenAddress::Tcp(_) => writeln!(out, "               {race} --url {url}\n")?,
        ListenAddress::Unix(_) => writeln!(out)?,
    }
    out.flush()
}
