//! Points at which a test can pause or kill the server between two steps.
//!
//! Compiled to nothing unless the feature `failpoints` is enabled, which no release does.
//! `FAILPOINTS="update.locked=return(4000)"` pauses the server for 4 s each time it reaches that
//! point, `1*return(4000)` only the first time. `1%return(kill)` kills it there as SIGKILL would,
//! one time in a hundred. See the `fail` crate for the syntax.

/// Pauses or kills the server, if a test has enabled the point `name`.
pub(crate) async fn pause(name: &'static str) {
    let Some(action) = injected(name) else {
        return;
    };
    if action == "kill" {
        std::process::abort();
    }
    let milliseconds = action.parse().unwrap_or_default();
    tracing::warn!(name, milliseconds, "paused at a failpoint");
    tokio::time::sleep(std::time::Duration::from_millis(milliseconds)).await;
}

/// Returns whether a test has enabled the point `name`.
pub(crate) fn is_on(name: &'static str) -> bool {
    injected(name).is_some()
}

fn injected(name: &'static str) -> Option<String> {
    // Used only if failpoints are compiled in.
    let _ = name;
    fail::fail_point!(name, |action| Some(action.unwrap_or_default()));
    None
}

/// Reads `FAILPOINTS`. The points are disabled when the returned value is dropped.
pub(crate) fn setup() -> fail::FailScenario<'static> {
    fail::FailScenario::setup()
}
