//! The options themselves, and the limits of this machine.

use rustix::process::{Resource, getrlimit};

use super::finding::Finding;
use crate::commands::serve::file_limit;
use crate::commands::serve::{ServeArgs, pitfalls};

/// Returns what is found of the options.
pub(super) fn options(args: &ServeArgs) -> Vec<Finding> {
    const CHECK: &str = "options";
    let pitfalls = pitfalls::of(args);
    if pitfalls.is_empty() {
        return vec![Finding::ok(CHECK, "no option works against another one")];
    }
    let warning = |(what, why, change)| Finding::warning(CHECK, what, why, change);
    pitfalls.into_iter().map(warning).collect()
}

/// Returns whether this process may open as many files as the server needs.
pub(super) fn open_files(args: &ServeArgs) -> Finding {
    const CHECK: &str = "machine.open_files";
    let reserved = file_limit::reserved(args.database_connections);
    let wanted = reserved.saturating_add(args.max_connections as u64);
    // A server raises its soft limit up to the hard one.
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let change =
        format!("LimitNOFILE={wanted} in the unit of systemd, or ulimit -Hn {wanted} as root");
    let what = format!("at most {limit} files may be open, and a server needs up to {wanted}");
    if limit >= wanted {
        Finding::ok(CHECK, what)
    } else if limit > reserved {
        let possible = limit - reserved;
        Finding::warning(
            CHECK,
            what,
            format!("a server admits only {possible} connections. The limit is that of this shell"),
            change,
        )
    } else {
        let why = "a server does not start. The limit is that of this shell";
        Finding::error(CHECK, what, why, change)
    }
}
