//! The ledger of a product: `/api/products/{id}/ledger/`. Every write to a product adds an
//! entry, in the transaction of the write. EntryFilter are never changed.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::page::ledger_page;
use crate::drf::query::{ListQuery, Page};
use crate::error::ApiError;
use crate::http::paths::ProductId;
use crate::openapi::{ErrorDetail, PageParams, ProductPathParams};
use crate::state::AppState;
use crate::storage::{EntryFilter, LedgerEntry};
use crate::timestamp;

/// A ledger entry in a response: one write to one product.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "LedgerEntry")]
pub(crate) struct LedgerEntryResponse {
    /// Id of the entry, and of the purchase if it is one.
    id: Uuid,
    /// The version of the product after the write. Versions have no gaps.
    #[schema(minimum = 1, example = 2)]
    version: i64,
    /// `opening` (the product is older than the ledger), `created`, `changed`, `purchase`,
    /// `confirmed` (a reservation became a purchase) or `deleted`.
    #[schema(example = "purchase")]
    reason: &'static str,
    /// Change of the stock: negative for a purchase, 0 if only other fields changed.
    #[schema(example = -1)]
    delta: i64,
    #[schema(minimum = 0, example = 9)]
    stock_after: i64,
    /// Price of one sold item, in minor units.
    #[schema(minimum = 0, example = 49900)]
    unit_price: Option<i64>,
    /// The reservation that became this purchase.
    reservation: Option<Uuid>,
    /// The `X-Request-Id` of the request that wrote.
    request: String,
    /// The name of the API key of that request, if it had one.
    #[schema(example = "web-shop")]
    caller: Option<String>,
    /// Fence of the lock that the write was made under, if any.
    fence: Option<i64>,
    #[schema(format = DateTime)]
    at: String,
}

/// Returns the routes with their operations in the OpenAPI document.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list))
}

/// List the ledger entries of a product
///
/// The oldest first. The stock is the `stock_after` of the first entry plus the `delta` of each
/// later one. The ledger remains when the product is deleted.
#[utoipa::path(get, path = "/api/products/{id}/ledger/", operation_id = "list_ledger", tag = "ledger", params(
    ProductPathParams,
    PageParams,
), responses(
    (status = 200, description = "One page", body = Page<LedgerEntryResponse>),
    (status = 404, description = "The product or the page does not exist", body = ErrorDetail),
))]
async fn list(
    State(state): State<AppState>,
    ProductId(product): ProductId,
    query: ListQuery,
) -> Result<Response, ApiError> {
    ledger_page::<LedgerEntryResponse>(&state, &query, product, EntryFilter::All).await
}

impl From<LedgerEntry> for LedgerEntryResponse {
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
            caller: entry.caller,
            fence: entry.fence,
            at: timestamp::format(entry.at),
        }
    }
}
