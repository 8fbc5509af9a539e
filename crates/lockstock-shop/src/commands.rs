//! The commands of the `lockstock` binary.

pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod key;
pub(crate) mod locks;
pub(crate) mod race;
pub(crate) mod serve;
