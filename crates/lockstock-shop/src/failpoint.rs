//! Fail points, at which a test can pause or kill the server between two steps.
//!
//! They compile to nothing unless the feature `failpoints` is on, which no release has. With it,
//! `FAILPOINTS="update.locked=return(4000)"` makes the server sleep 4 s at that point each
//! time, `1*return(4000)` only the first time, and `1%return(kill)` kills it there in one of a
//! hundred cases (see the `fail` crate).

/// Sleeps or aborts if a test has configured the point so.
pub(crate) async fn pause(name: &'static str) {
    let Some(action) = injected(name) else {
        return;
    };
    if action == "kill" {
        std::process::abort();
    }
    let milliseconds = action.parse().unwrap_or_default();
    tracing::warn!(name, milliseconds, "paused at a fail point");
    tokio::time::sleep(std::time::Duration::from_millis(milliseconds)).await;
}

/// Returns whether a test has switched the point on.
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

/// Configures the fail points from `FAILPOINTS` until the result is dropped.
pub(crate) fn setup() -> impl Sized {
    #[cfg(feature = "failpoints")]
    fail::FailScenario::setup()
}
