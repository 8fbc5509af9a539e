//! `lockstock doctor`: checks the store, the database, the files and the machine of a server for settings
//! under which a guarantee does not hold.

mod api_keys;
mod certificate;
mod finding;
mod machine;
mod permissions;
mod postgres;
mod remote_clock;
mod sqlite;
mod store;

use std::io::Write;
use std::process::ExitCode;

use chrono::TimeDelta;
use clap::Args;

use self::store::Target;
use super::serve::ServeArgs;
use crate::cli::access::AccessArgs;
use crate::cli::listen_address::ListenAddress;

/// What expires earlier than this needs attention now.
const SOON: TimeDelta = TimeDelta::days(14);

const HELP: &str = "\
The command connects as a server with the same options does. It writes nothing except a key of Redis
that expires after a second. Each finding has the reason why it matters and the command that changes
it. Run it where the server runs, as its user.

The exit code is 0 if everything is as it should be, 1 if there is a warning, and 2 if there is an
error: a backend that cannot be used, or a setting under which a guarantee does not hold.

With --json: {\"version\": …, \"severity\": \"ok\"|\"warning\"|\"error\", \"findings\": [{\"check\": …,
\"severity\": …, \"what\": …, \"why\": …, \"change\": …}]}. The names of checks do not change.

Examples:
  lockstock doctor --config /etc/lockstock/lockstock.toml
  lockstock doctor --store redis://127.0.0.1:6379/1 --database postgres://shop@127.0.0.1/shop
  lockstock doctor --json | jq '.findings[] | select(.severity != \"ok\")'";

#[derive(Debug, Args)]
#[command(args_override_self = true, after_help = HELP)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    serve: ServeArgs,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Prints the findings. Returns the exit code.
pub(crate) async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let serve = &args.serve;
    let target = Target {
        url: &serve.store,
        timeout: serve.store_timeout,
        lock_name: serve.update_lock.parts(),
    };
    let mut findings = store::examine(&target).await;
    if serve.database.starts_with("sqlite:") {
        findings.extend(sqlite::examine(&serve.database));
    } else {
        let (timeout, connections) = (serve.database_timeout, serve.database_connections);
        findings.extend(postgres::examine(&serve.database, timeout, connections).await);
    }
    if let Some(files) = serve.tls.files() {
        findings.extend(certificate::examine(&files, serve.public_url.as_ref()));
    }
    let AccessArgs {
        api_key_file,
        operate_listen,
        ..
    } = &serve.access;
    if let Some(file) = api_key_file {
        let has_local_metrics = operate_listen.as_ref().is_some_and(ListenAddress::is_local);
        findings.extend(api_keys::examine(file, has_local_metrics));
    }
    findings.push(machine::open_files(serve));
    findings.extend(machine::options(serve));
    let text = if args.json {
        format!("{}\n", finding::to_json(&findings))
    } else {
        finding::to_text(&findings)
    };
    let mut out = anstream::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::from(finding::worst(&findings).exit_code()))
}
