//! Pages of lists.

#![expect(dead_code, reason = "read by derives only")]

use utoipa::ToSchema;

use crate::api::ledger::LedgerEntryResponse;
use crate::api::products::ProductResponse;
use crate::api::purchases::PurchaseResponse;

/// One page of products.
#[derive(ToSchema)]
pub(crate) struct ProductPage {
    /// How many there are on all pages.
    #[schema(minimum = 0)]
    count: i64,
    /// The next page, if there is one.
    #[schema(format = "uri")]
    next: Option<String>,
    /// The page before, if there is one.
    #[schema(format = "uri")]
    previous: Option<String>,
    results: Vec<ProductResponse>,
}

/// One page of purchases.
#[derive(ToSchema)]
pub(crate) struct PurchasePage {
    /// How many there are on all pages.
    #[schema(minimum = 0)]
    count: i64,
    /// The next page, if there is one.
    #[schema(format = "uri")]
    next: Option<String>,
    /// The page before, if there is one.
    #[schema(format = "uri")]
    previous: Option<String>,
    results: Vec<PurchaseResponse>,
}

/// One page of a ledger.
#[derive(ToSchema)]
pub(crate) struct LedgerPage {
    /// How many there are on all pages.
    #[schema(minimum = 0)]
    count: i64,
    /// The next page, if there is one.
    #[schema(format = "uri")]
    next: Option<String>,
    /// The page before, if there is one.
    #[schema(format = "uri")]
    previous: Option<String>,
    results: Vec<LedgerEntryResponse>,
}
