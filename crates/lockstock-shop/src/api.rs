//! The resources: their types, what the OpenAPI document says of them, and their handlers.

pub(crate) mod health;
pub(crate) mod ledger;
pub(crate) mod page;
pub(crate) mod products;
pub(crate) mod purchases;
pub(crate) mod reservations;
