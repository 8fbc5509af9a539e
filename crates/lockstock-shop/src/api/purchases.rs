//! Purchases: `/api/products/{id}/purchases/` and `/api/purchases/{id}/`.
//!
//! A purchase takes no lock: the database admits it or not, in order of arrival, and never
//! below zero. It goes on while the store of the locks is down.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use lockstock_http::RecordedResponse;
use serde::Serialize;
use serde_json::Map;
use utoipa::ToSchema;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::page::PurchasePage;
use crate::api::products::{exists, missing_first, timestamp};
use crate::drf::body::received;
use crate::drf::fields::noted;
use crate::drf::query::Parameters;
use crate::error::Refusal;
use crate::http::idempotency;
use crate::http::idempotency::created;
use crate::http::routes::{product_id, purchase_id};
use crate::openapi::{
    BadBody, Detail, InStock, KeyHeader, Keyed, PageParameters, ProductPath, PurchaseGiven,
    PurchasePath,
};
use crate::state::Shop;
use crate::storage::{EntryFilter, LedgerEntry, Order, OrderKind, OrderOutcome, RequestContext};

/// A purchase, as it is shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Purchase")]
pub(crate) struct PurchaseShown {
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
pub(crate) fn routes(shop: &Shop) -> OpenApiRouter<Shop> {
    let buys = routes!(buy)
        .layer(shop.keys.of_orders.clone())
        .layer(from_fn_with_state(shop.clone(), idempotency::collected));
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
    content((PurchaseGiven = "application/json"), (PurchaseGiven = "application/x-www-form-urlencoded"), (PurchaseGiven = "multipart/form-data")),
), responses(
    (status = 201, description = "Bought", body = PurchaseShown,
        headers(("Location" = String, description = "Where the purchase is"))),
    Keyed,
    BadBody,
    InStock,
))]
async fn buy(
    State(shop): State<Shop>,
    request: RequestContext,
    key: idempotency::Given,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Result<Response, Refusal> {
    let product = product_id(uri.path())?;
    let quantity = match quantity(&shop, &headers, body).await {
        Ok(quantity) => quantity,
        Err(refusal) => return Err(missing_first(&shop, product, refusal).await),
    };
    let order = Order {
        product,
        kind: OrderKind::Purchase { quantity },
        request,
        idempotency: idempotency::once(&key, recorded),
    };
    idempotency::answered(&key, shop.storage.submit_order(order).await?, answer)
}

async fn quantity(shop: &Shop, headers: &HeaderMap, body: Body) -> Result<i64, Refusal> {
    let fields = received(shop.settings.body, headers, body).await?;
    let mut errors = Map::new();
    let quantity = shop.settings.quantity();
    let quantity = quantity.validate(fields.get("quantity"), false);
    let quantity = noted("quantity", quantity, &mut errors);
    quantity.ok_or_else(|| Refusal::invalid(errors))
}

/// What is answered to a purchase, whether it was one at once or a hold before.
pub(crate) fn answer(outcome: &OrderOutcome) -> Option<RecordedResponse> {
    let OrderOutcome::Purchased(entry) = outcome else {
        return None;
    };
    let place = format!("/api/purchases/{}/", entry.id);
    Some(created(place, &PurchaseShown::from(entry.clone())))
}

/// What is recorded of it.
pub(crate) fn recorded(outcome: &OrderOutcome) -> Option<Vec<u8>> {
    answer(outcome).as_ref().map(idempotency::bytes)
}

/// List the purchases of a product
///
/// The oldest first.
#[utoipa::path(get, path = "/api/products/{id}/purchases/", operation_id = "list_purchases", tag = "purchases", params(
    ProductPath,
    PageParameters,
), responses(
    (status = 200, description = "One page", body = PurchasePage),
    (status = 404, description = "There is no such product, or no such page", body = Detail),
))]
async fn list(State(shop): State<Shop>, headers: HeaderMap, uri: Uri) -> Result<Response, Refusal> {
    page(&shop, &headers, &uri, EntryFilter::Purchases, |entry| {
        serde_json::json!(PurchaseShown::from(entry))
    })
    .await
}

/// One page of a product's ledger.
pub(crate) async fn page(
    shop: &Shop,
    headers: &HeaderMap,
    uri: &Uri,
    which: EntryFilter,
    show: impl Fn(LedgerEntry) -> serde_json::Value,
) -> Result<Response, Refusal> {
    let product = product_id(uri.path())?;
    let count = shop.storage.count_entries(product, which).await?;
    if count == 0 {
        exists(shop, product).await?;
    }
    let parameters = Parameters::of(uri);
    let page = parameters.page(count)?;
    let entries = shop
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
    (status = 200, description = "The purchase", body = PurchaseShown),
    (status = 404, description = "There is no such purchase", body = Detail),
))]
async fn retrieve(State(shop): State<Shop>, uri: Uri) -> Result<Response, Refusal> {
    let found = shop.storage.purchase(purchase_id(uri.path())?).await?;
    let entry = found.ok_or_else(|| Refusal::none_of("Purchase"))?;
    Ok(axum::Json(PurchaseShown::from(entry)).into_response())
}

impl From<LedgerEntry> for PurchaseShown {
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
            created_at: timestamp(entry.at),
        }
    }
}
