//! Purchases: `/api/products/{id}/purchases/` and `/api/purchases/{id}/`.
//!
//! A purchase acquires no lock. The database admits purchases in order of arrival and never
//! lets the stock go below zero. Purchases continue while the store of the locks is down.

use axum::extract::State;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use lockstock_http::RecordedResponse;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::page::ledger_page;
use crate::api::products::existence::not_found_or;
use crate::drf::body::Fields;
use crate::drf::fields::{Completeness, Validator};
use crate::drf::query::{ListQuery, Page};
use crate::error::ApiError;
use crate::http::idempotency::{self, MaybeKey, buffer_body};
use crate::http::paths::{ProductId, PurchaseId};
use crate::openapi::{
    BodyErrors, ErrorDetail, IdempotencyErrors, IdempotencyKeyParam, PageParams, ProductPathParams,
    PurchasePathParams, PurchaseRequest, StockErrors,
};
use crate::state::AppState;
use crate::storage::{EntryFilter, LedgerEntry, Order, OrderKind, OrderOutcome, RequestContext};
use crate::timestamp;

/// A purchase in a response.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Purchase")]
pub(crate) struct PurchaseResponse {
    id: Uuid,
    /// Id of the product.
    #[schema(example = 1)]
    product: i64,
    #[schema(minimum = 1, example = 1)]
    quantity: i64,
    /// In minor units: cents, won.
    #[schema(minimum = 0, example = 49900)]
    unit_price: i64,
    /// Price of all items together, in minor units.
    #[schema(minimum = 0, example = 49900)]
    total: i64,
    /// Stock after the purchase.
    #[schema(minimum = 0, example = 9)]
    stock_after: i64,
    /// Version of the product after the purchase.
    #[schema(minimum = 1, example = 2)]
    version: i64,
    /// The reservation that became this purchase, if any.
    reservation: Option<Uuid>,
    #[schema(format = DateTime)]
    created_at: String,
}

/// Returns the routes with their operations in the OpenAPI document.
pub(crate) fn routes(state: &AppState) -> OpenApiRouter<AppState> {
    let buy = routes!(buy)
        .layer(state.idempotency.clone())
        .layer(from_fn_with_state(state.clone(), buffer_body::<ProductId>));
    OpenApiRouter::new()
        .routes(buy)
        .routes(routes!(list))
        .routes(routes!(retrieve))
}

/// Buy
///
/// Acquires no lock: purchases of one product are admitted in order of arrival, while there is
/// stock that is not reserved for other callers. The reservations of the caller are used first.
#[utoipa::path(post, path = "/api/products/{id}/purchases/", tag = "purchases", params(
    ProductPathParams,
    IdempotencyKeyParam,
), request_body(
    content((PurchaseRequest = "application/json"), (PurchaseRequest = "application/x-www-form-urlencoded"), (PurchaseRequest = "multipart/form-data")),
), responses(
    (status = 201, description = "Bought", body = PurchaseResponse,
        headers(("Location" = String, description = "URL of the purchase"))),
    IdempotencyErrors,
    BodyErrors,
    StockErrors,
))]
async fn buy(
    State(state): State<AppState>,
    ProductId(product): ProductId,
    request: RequestContext,
    key: MaybeKey,
    fields: Result<Fields, ApiError>,
) -> Result<Response, ApiError> {
    let quantity = match fields.and_then(|fields| validate(&state, &fields)) {
        Ok(quantity) => quantity,
        Err(error) => return Err(not_found_or(&state, product, error).await),
    };
    let order = Order {
        product,
        kind: OrderKind::Purchase { quantity },
        request,
        idempotency: idempotency::idempotent_write(&key, purchase_record),
    };
    let outcome = state.submit_order(order).await?;
    idempotency::order_response(&key, outcome, purchase_response)
}

fn validate(state: &AppState, fields: &Fields) -> Result<i64, ApiError> {
    let mut validator = Validator::new(fields, Completeness::Full);
    let quantity = validator.integer(&state.settings.quantity_field());
    validator.finish(quantity.unwrap_or_default())
}

/// Builds the response to an order that became a purchase: directly or from a reservation.
pub(crate) fn purchase_response(outcome: &OrderOutcome) -> Option<RecordedResponse> {
    let OrderOutcome::Purchased(entry) = outcome else {
        return None;
    };
    let location = format!("/api/purchases/{}/", entry.id);
    let purchase = PurchaseResponse::from(entry.clone());
    Some(idempotency::created(location, &purchase))
}

/// Builds the record of that response.
pub(crate) fn purchase_record(outcome: &OrderOutcome) -> Option<Vec<u8>> {
    purchase_response(outcome).map(|response| response.to_bytes().into())
}

/// List the purchases of a product
///
/// The oldest first.
#[utoipa::path(get, path = "/api/products/{id}/purchases/", operation_id = "list_purchases", tag = "purchases", params(
    ProductPathParams,
    PageParams,
), responses(
    (status = 200, description = "One page", body = Page<PurchaseResponse>),
    (status = 404, description = "The product or the page does not exist", body = ErrorDetail),
))]
async fn list(
    State(state): State<AppState>,
    ProductId(product): ProductId,
    query: ListQuery,
) -> Result<Response, ApiError> {
    ledger_page::<PurchaseResponse>(&state, &query, product, EntryFilter::Purchases).await
}

/// Retrieve a purchase
#[utoipa::path(get, path = "/api/purchases/{id}/", operation_id = "retrieve_purchase", tag = "purchases", params(
    PurchasePathParams,
), responses(
    (status = 200, description = "The purchase", body = PurchaseResponse),
    (status = 404, description = "The purchase does not exist", body = ErrorDetail),
))]
async fn retrieve(
    State(state): State<AppState>,
    PurchaseId(id): PurchaseId,
) -> Result<Response, ApiError> {
    let entry = state.storage.purchase(id).await?;
    let entry = entry.ok_or_else(|| ApiError::not_found_of("Purchase"))?;
    Ok(axum::Json(PurchaseResponse::from(entry)).into_response())
}

impl From<LedgerEntry> for PurchaseResponse {
    fn from(entry: LedgerEntry) -> Self {
        let (quantity, unit_price) = (-entry.delta, entry.unit_price.unwrap_or_default());
        Self {
            id: entry.id,
            product: entry.product,
            quantity,
            unit_price,
            total: quantity * unit_price,
            stock_after: entry.stock_after,
            version: entry.version,
            reservation: entry.reservation,
            created_at: timestamp::format(entry.at),
        }
    }
}
