//! Purchases: `/api/products/{id}/purchases/` and `/api/purchases/{id}/`.
//!
//! A purchase takes no lock: the database admits it or not, in order of arrival, and never
//! below zero. It goes on while the store of the locks is down.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use lockstock_http::Record;
use serde::Serialize;
use serde_json::Map;
use utoipa::ToSchema;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::page::PurchasePage;
use crate::api::products::{ensure_exists, not_found_or, timestamp};
use crate::drf::body::parse_body;
use crate::drf::fields::collect_error;
use crate::drf::query::ListQuery;
use crate::error::ApiError;
use crate::http::idempotency;
use crate::http::idempotency::created;
use crate::http::routes::{product_id, purchase_id};
use crate::openapi::{
    BodyErrors, ErrorDetail, IdempotencyErrors, KeyHeader, PageParameters, ProductPath,
    PurchasePath, PurchaseRequest, StockErrors,
};
use crate::state::AppState;
use crate::storage::{Entries, Entry, Order, Origin, Outcome, Wish};

/// A purchase, as it is shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Purchase")]
pub(crate) struct PurchaseResponse {
    id: Uuid,
    /// The product's id.
    #[schema(example = 1)]
    product: i64,
    #[schema(minimum = 1, example = 1)]
    quantity: i64,
    /// In minor units: cents, won.
    #[schema(minimum = 0, example = 49900)]
    unit_price: i64,
    /// All of them together.
    #[schema(minimum = 0, example = 49900)]
    total: i64,
    /// How many there were afterwards.
    #[schema(minimum = 0, example = 9)]
    stock_after: i64,
    /// Of the product, which it made.
    #[schema(minimum = 1, example = 2)]
    version: i64,
    /// The hold that became this purchase, if it was one.
    reservation: Option<Uuid>,
    #[schema(format = DateTime)]
    created_at: String,
}

/// The routes, and what the document says of them.
pub(crate) fn routes(state: &AppState) -> OpenApiRouter<AppState> {
    let buys = routes!(buy)
        .layer(state.idempotency.orders.clone())
        .layer(from_fn_with_state(state.clone(), idempotency::buffer_body));
    OpenApiRouter::new()
        .routes(buys)
        .routes(routes!(list))
        .routes(routes!(retrieve))
}

/// Buy
///
/// Takes no lock: purchases of one product are admitted in order of arrival, as long as there
/// is something left that is not held for others. What the caller holds of it is used first.
#[utoipa::path(post, path = "/api/products/{id}/purchases/", tag = "purchases", params(
    ProductPath,
    KeyHeader,
), request_body(
    content((PurchaseRequest = "application/json"), (PurchaseRequest = "application/x-www-form-urlencoded"), (PurchaseRequest = "multipart/form-data")),
), responses(
    (status = 201, description = "Bought", body = PurchaseResponse,
        headers(("Location" = String, description = "Where the purchase is"))),
    IdempotencyErrors,
    BodyErrors,
    StockErrors,
))]
async fn buy(
    State(state): State<AppState>,
    origin: Origin,
    key: idempotency::MaybeKey,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Result<Response, ApiError> {
    let product = product_id(uri.path())?;
    let quantity = match quantity(&state, &headers, body).await {
        Ok(quantity) => quantity,
        Err(error) => return Err(not_found_or(&state, product, error).await),
    };
    let order = Order {
        product,
        wish: Wish::Purchase { quantity },
        origin,
        once: idempotency::idempotent_write(&key, purchase_record),
    };
    idempotency::order_response(&key, state.storage.sell(order).await?, purchase_response)
}

async fn quantity(state: &AppState, headers: &HeaderMap, body: Body) -> Result<i64, ApiError> {
    let fields = parse_body(state.settings.body, headers, body).await?;
    let mut errors = Map::new();
    let quantity = state.settings.quantity_field();
    let quantity = quantity.validate(fields.get("quantity"), false);
    let quantity = collect_error("quantity", quantity, &mut errors);
    quantity.ok_or_else(|| ApiError::invalid(errors))
}

/// What is answered to a purchase, whether it was one at once or a hold before.
pub(crate) fn purchase_response(outcome: &Outcome) -> Option<Record> {
    let Outcome::Purchased(entry) = outcome else {
        return None;
    };
    let place = format!("/api/purchases/{}/", entry.id);
    Some(created(place, &PurchaseResponse::from(entry.clone())))
}

/// What is recorded of it.
pub(crate) fn purchase_record(outcome: &Outcome) -> Option<Vec<u8>> {
    purchase_response(outcome)
        .as_ref()
        .map(idempotency::to_bytes)
}

/// List the purchases of a product
///
/// The oldest first.
#[utoipa::path(get, path = "/api/products/{id}/purchases/", operation_id = "list_purchases", tag = "purchases", params(
    ProductPath,
    PageParameters,
), responses(
    (status = 200, description = "One page", body = PurchasePage),
    (status = 404, description = "There is no such product, or no such page", body = ErrorDetail),
))]
async fn list(
    State(state): State<AppState>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    ledger_page(&state, &headers, &uri, Entries::Purchases, |entry| {
        serde_json::json!(PurchaseResponse::from(entry))
    })
    .await
}

/// One page of a product's ledger.
pub(crate) async fn ledger_page(
    state: &AppState,
    headers: &HeaderMap,
    uri: &Uri,
    which: Entries,
    show: impl Fn(Entry) -> serde_json::Value,
) -> Result<Response, ApiError> {
    let product = product_id(uri.path())?;
    let count = state.storage.count_entries(product, which).await?;
    if count == 0 {
        ensure_exists(state, product).await?;
    }
    let parameters = ListQuery::of(uri);
    let page = parameters.page(count)?;
    let entries = state
        .storage
        .entries(product, which, page.limit(), page.offset());
    let results = entries.await?.into_iter().map(show).collect();
    let answer = parameters.answer(page, count, results, headers, uri.path());
    Ok(axum::Json(answer).into_response())
}

/// Look at a purchase
#[utoipa::path(get, path = "/api/purchases/{id}/", operation_id = "retrieve_purchase", tag = "purchases", params(
    PurchasePath,
), responses(
    (status = 200, description = "The purchase", body = PurchaseResponse),
    (status = 404, description = "There is no such purchase", body = ErrorDetail),
))]
async fn retrieve(State(state): State<AppState>, uri: Uri) -> Result<Response, ApiError> {
    let found = state.storage.purchase(purchase_id(uri.path())?).await?;
    let entry = found.ok_or_else(|| ApiError::not_found_of("Purchase"))?;
    Ok(axum::Json(PurchaseResponse::from(entry)).into_response())
}

impl From<Entry> for PurchaseResponse {
    fn from(entry: Entry) -> Self {
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
            created_at: timestamp(entry.at),
        }
    }
}
