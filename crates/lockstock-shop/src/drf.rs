//! How Django REST framework reads requests and writes responses.

pub(crate) mod body;
pub(crate) mod decimal;
pub(crate) mod fields;
pub(crate) mod metadata;
pub(crate) mod python;
pub(crate) mod query;
pub(crate) mod search;
