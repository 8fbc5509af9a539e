//! Places where a test can stop the server between two steps, or end it.
//!
//! Compiled to nothing unless the feature `failpoints` is on, which no release has. Then
//! `FAILPOINTS="update.locked=return(4000)"` makes the server sleep 4 s at that place, every
//! time; `1*return(4000)` only the first time; `1%return(kill)` ends it there as SIGKILL would,
//! one time in a hundred (see the `fail` crate).

/// Sleeps here, or ends here, if a test has asked for it.
pub(crate) async fn pause(name: &'static str) {
    let Some(what) = injected(name) else {
        return;
    };
    if what == "kill" {
        std::process::abort();
    }
    let milliseconds = what.parse().unwrap_or_default();
    tracing::warn!(name, milliseconds, "a fail point holds this request up");
    tokio::time::sleep(std::time::Duration::from_millis(milliseconds)).await;
}

/// Whether a test has switched this on.
pub(crate) fn is_on(name: &'static str) -> bool {
    injected(name).is_some()
}

#[cfg(feature = "failpoints")]
fn injected(name: &'static str) -> Option<String> {
    fail::fail_point!(name, |what| Some(what.unwrap_or_default()));
    None
}

#[cfg(not(feature = "failpoints"))]
fn injected(_: &'static str) -> Option<String> {
    None
}

/// Reads `FAILPOINTS`. The fail points work until the returned value is dropped.
pub(crate) fn setup() -> impl Sized {
    #[cfg(feature = "failpoints")]
    fail::FailScenario::setup()
}
