//! The commands of the `lockstock` binary.

mod api_client;
pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod key;
pub(crate) mod locks;
pub(crate) mod man;
mod progress;
pub(crate) mod race;
pub(crate) mod ready;
pub(crate) mod serve;
pub(crate) mod top;
