//! Django REST framework (DRF): how it reads requests and writes responses.
//!
//! Clients of a Django API keep working because the behaviour is the same in detail: field
//! rules, messages, pagination, filters, and the parsing of numbers. `tests/differential.rs`
//! compares it with a server that runs DRF.

pub(crate) mod body;
pub(crate) mod decimal;
pub(crate) mod fields;
pub(crate) mod metadata;
pub(crate) mod python;
pub(crate) mod query;
pub(crate) mod search;
