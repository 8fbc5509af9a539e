//! The ledger of a product: `/api/products/{id}/ledger/`. Every write to it, append only, in
//! the same transaction as the write.

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::page::LedgerPage;
use crate::api::products::timestamp;
use crate::api::purchases;
use crate::error::Refusal;
use crate::openapi::{Detail, PageParameters, ProductPath};
use crate::state::Shop;
use crate::storage::{EntryFilter, LedgerEntry};

/// A line of the ledger: one write to one product.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "LedgerEntry")]
pub(crate) struct EntryShown {
    /// Of this write, and of the purchase if it is one.
    id: Uuid,
    /// The version of the product that it made. There are no gaps.
    #[schema(minimum = 1, example = 2)]
    version: i64,
    /// `opening` (it was there before the ledger was), `created`, `changed`, `purchase`,
    /// `confirmed` (a hold became a purchase) or `deleted`.
    #[schema(example = "purchase")]
    reason: &'static str,
    /// How many more there are; negative for a purchase, 0 if something else was changed.
    #[schema(example = -1)]
    delta: i64,
    #[schema(minimum = 0, example = 9)]
    stock_after: i64,
    /// Of what was sold, in minor units.
    #[schema(minimum = 0, example = 49900)]
    unit_price: Option<i64>,
    /// The hold that became this purchase.
    reservation: Option<Uuid>,
    /// The `X-Request-Id` of the request that did it.
    request: String,
    /// Of the lock that it was made under, if it was.
    fence: Option<i64>,
    #[schema(format = DateTime)]
    at: String,
}

/// The routes, and what the document says of them.
pub(crate) fn routes() -> OpenApiRouter<Shop> {
    OpenApiRouter::new().routes(routes!(list))
}

/// List the changes of a product
///
/// The oldest first. The first one's `stock_after`, then plus `delta` at each, is the stock.
/// Remains when the product is deleted.
#[utoipa::path(get, path = "/api/products/{id}/ledger/", operation_id = "list_ledger", tag = "ledger", params(
    ProductPath,
    PageParameters,
), responses(
    (status = 200, description = "One page", body = LedgerPage),
    (status = 404, description = "There is no such product, or no such page", body = Detail),
))]
async fn list(State(shop): State<Shop>, headers: HeaderMap, uri: Uri) -> Result<Response, Refusal> {
    purchases::page(&shop, &headers, &uri, EntryFilter::All, |entry| {
        serde_json::json!(EntryShown::from(entry))
    })
    .await
}

impl From<LedgerEntry> for EntryShown {
    fn from(entry: LedgerEntry) -> Self {
        Self {
            id: entry.id,
            version: entry.version,
            reason: entry.reason.name(),
            delta: entry.delta,
            stock_after: entry.stock_after,
            unit_price: entry.unit_price,
            reservation: entry.reservation,
            request: entry.request,
            fence: entry.fence,
            at: timestamp(entry.at),
        }
    }
}
