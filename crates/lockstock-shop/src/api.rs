//! The resources of the API: for each its JSON, its OpenAPI operations and its handlers.

pub(crate) mod health;
pub(crate) mod index;
pub(crate) mod ledger;
pub(crate) mod locks;
pub(crate) mod page;
pub(crate) mod products;
pub(crate) mod purchases;
pub(crate) mod reservations;
