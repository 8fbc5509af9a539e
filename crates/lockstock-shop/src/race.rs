//! `lockstock race`: the article's test as a command. Identical updates are fired at the
//! same moment; exactly one may succeed.
use crate::cli::Race;
pub(crate) async fn race(_options: Race) -> anyhow::Result<()> {
    Ok(())
}
