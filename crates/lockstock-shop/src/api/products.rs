//! Products: `/api/products/` and `/api/products/{id}/`, with the verbs and the wire shapes
//! of a Django REST framework `ModelViewSet`.
//!
//! PUT, PATCH and DELETE go through the product's lock: see `products/update.rs`.

mod update;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::ETAG;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, Timelike, Utc};
use lockstock_http::RecordedResponse;
use serde::Serialize;
use serde_json::{Map, json};
use tower::ServiceBuilder;
use utoipa::ToSchema;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use self::update::settled;
pub(crate) use self::update::{exists, missing_first};
use crate::api::page::ProductPage;
use crate::drf::body::{Fields, received};
use crate::drf::fields::{Text, Whole, noted};
use crate::drf::metadata::metadata;
use crate::drf::query::Parameters;
use crate::error::Refusal;
use crate::etag;
use crate::http::idempotency;
use crate::http::idempotency::shown;
use crate::http::preconditions;
use crate::http::routes::{self, product_id};
use crate::openapi::{
    AnyPath, BadBody, BadQuery, Detail, IfNoneMatchHeader, KeyHeader, Keyed, ListParameters,
    ProductGiven, ProductPath,
};
use crate::state::Shop;
use crate::storage::{Changes, NewProduct, Product, RequestContext, WriteContext, WriteOutcome};

/// Where the products are.
pub(crate) const PATH: &str = "/api/products/";

/// A product, as it is shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Product")]
pub(crate) struct ProductShown {
    #[schema(read_only, example = 1)]
    id: i64,
    #[schema(min_length = 1, max_length = 200, example = "Canvas sneakers")]
    name: String,
    description: String,
    /// In minor units: cents, won.
    #[schema(minimum = 0, maximum = 2147483647, example = 49900)]
    price: i64,
    #[schema(minimum = 0, maximum = 2147483647, example = 10)]
    stock: i64,
    /// Counts the changes; the ETag.
    #[schema(read_only, example = 1)]
    version: i64,
    #[schema(read_only, format = DateTime)]
    created_at: String,
    #[schema(read_only, format = DateTime)]
    updated_at: String,
    /// How many of the stock are set aside at the moment. Only while some are: what is not in
    /// Django's answer is not in ours either.
    #[schema(read_only, minimum = 1, nullable = false, example = 3)]
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<i64>,
    /// How many anybody can buy at the moment. Only while some are held: else it is the stock.
    #[schema(read_only, minimum = 0, nullable = false, example = 7)]
    #[serde(skip_serializing_if = "Option::is_none")]
    available: Option<i64>,
}

/// The routes, and what the document says of them.
pub(crate) fn routes(shop: &Shop) -> OpenApiRouter<Shop> {
    let collected = || from_fn_with_state(shop.clone(), idempotency::collected);
    let creates = routes!(create)
        .layer(shop.keys.of_orders.clone())
        .layer(collected());
    let changes = routes!(update::replace, update::change, update::remove).layer(
        // From the outside in.
        ServiceBuilder::new()
            .layer(collected())
            .layer(shop.keys.of_changes.clone())
            .layer(from_fn_with_state(shop.clone(), update::checked))
            .layer(match shop.settings.require_if_match {
                true => preconditions::layer().require(),
                false => preconditions::layer(),
            })
            .layer(shop.turns.clone()),
    );
    // Whoever only reads does not pass through what is there for changes.
    let retrieves = routes!(retrieve).layer(preconditions::layer());
    OpenApiRouter::new()
        .routes(routes!(list, list_options))
        .routes(creates)
        .routes(routes!(product_options))
        .routes(retrieves)
        .routes(changes)
}

/// List products
#[utoipa::path(get, path = PATH, operation_id = "list_products", tag = "products", params(ListParameters), responses(
    (status = 200, description = "One page", body = ProductPage),
    (status = 400, description = "A filter or the search cannot be read", body = BadQuery),
    (status = 404, description = "There is no such page", body = Detail),
))]
async fn list(State(shop): State<Shop>, headers: HeaderMap, uri: Uri) -> Result<Response, Refusal> {
    let parameters = Parameters::of(&uri);
    let selection = parameters.selection()?;
    let count = shop.storage.count(&selection).await?;
    let page = parameters.page(count)?;
    let products = shop
        .storage
        .list(&selection, page.limit(), page.offset())
        .await?;
    let results = products
        .into_iter()
        .map(|product| json!(ProductShown::from(product)))
        .collect();
    let answer = parameters.answer(page, count, results, &headers, uri.path());
    Ok(axum::Json(answer).into_response())
}

/// Create a product
#[utoipa::path(post, path = PATH, operation_id = "create_product", tag = "products", params(KeyHeader), request_body(
    content((ProductGiven = "application/json"), (ProductGiven = "application/x-www-form-urlencoded"), (ProductGiven = "multipart/form-data")),
), responses(
    (status = 201, description = "Created", body = ProductShown,
        headers(("ETag" = String, description = "The version, quoted")),
        links(
            ("reserve" = (operation_id = "reserve", parameters(("id" = "$response.body#/id")))),
            ("change" = (operation_id = "change_product", parameters(
                ("id" = "$response.body#/id"), ("If-Match" = "$response.header.ETag")))),
            ("replace" = (operation_id = "replace_product", parameters(
                ("id" = "$response.body#/id"), ("If-Match" = "$response.header.ETag")))),
            ("delete" = (operation_id = "delete_product", parameters(
                ("id" = "$response.body#/id"), ("If-Match" = "$response.header.ETag")))),
        )),
    Keyed,
    BadBody,
))]
async fn create(
    State(shop): State<Shop>,
    request: RequestContext,
    key: idempotency::Given,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let fields = received(shop.settings.body, &headers, body).await?;
    let changes = validated(&fields, Completeness::Whole)?;
    let new = NewProduct {
        // Required fields, and validated: they are there.
        name: changes.name.unwrap_or_default(),
        description: changes.description.unwrap_or_default(),
        price: changes.price.unwrap_or_default(),
        stock: changes.stock.unwrap_or_default(),
    };
    let idempotency = idempotency::once(&key, |product| {
        Some(idempotency::bytes(&answer(StatusCode::CREATED, product)))
    });
    match shop
        .storage
        .create(
            new,
            WriteContext {
                request,
                idempotency,
            },
        )
        .await?
    {
        WriteOutcome::AlreadyRecorded(recorded) => idempotency::again(&key, recorded),
        other => Ok(answer(StatusCode::CREATED, &settled(other)?).into_response()),
    }
}

/// Look at a product
#[utoipa::path(get, path = "/api/products/{id}/", operation_id = "retrieve_product", tag = "products", params(
    ProductPath,
    IfNoneMatchHeader,
), responses(
    (status = 200, description = "The product, its version as the ETag", body = ProductShown,
        headers(("ETag" = String, description = "The version, quoted"))),
    (status = 304, description = "You have it already",
        headers(("ETag" = String, description = "The version, quoted"))),
    (status = 404, description = "There is no such product", body = Detail),
))]
async fn retrieve(State(shop): State<Shop>, uri: Uri) -> Result<Response, Refusal> {
    let id = product_id(uri.path())?;
    let product = shop.storage.get(id).await?;
    let product = product.ok_or_else(Refusal::no_product)?;
    Ok(answer(StatusCode::OK, &product).into_response())
}

/// What can be done with products
#[utoipa::path(options, path = PATH, operation_id = "products_options", tag = "products", responses(
    (status = 200, description = "The fields of a product, and how they are read", body = Object),
))]
async fn list_options() -> Response {
    axum::Json(metadata("Product List", Some("POST"))).into_response()
}

/// What can be done with a product
#[utoipa::path(options, path = "/api/products/{id}/", tag = "products", params(
    AnyPath,
), responses(
    (status = 200, description = "The fields of a product, and how they are read", body = Object),
    (status = 404, description = "This cannot be a product's id", body = Detail),
))]
async fn product_options(State(shop): State<Shop>, uri: Uri) -> Result<Response, Refusal> {
    if routes::of(uri.path()).is_none() {
        return Err(Refusal::not_found());
    }
    let there = match product_id(uri.path()) {
        Ok(id) => shop.storage.get(id).await?.is_some(),
        Err(_) => false,
    };
    let action = there.then_some("PUT");
    Ok(axum::Json(metadata("Product Instance", action)).into_response())
}

/// Whether fields may be left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Completeness {
    /// Those that are required must be there: POST, PUT.
    Whole,
    /// Any may be missing: PATCH.
    Part,
}

fn validated(fields: &Fields, completeness: Completeness) -> Result<Changes, Refusal> {
    let partial = completeness == Completeness::Part;
    let mut errors = Map::new();
    let name = Text {
        required: true,
        may_be_blank: false,
        most_characters: Some(200),
    };
    let description = Text {
        required: false,
        may_be_blank: true,
        most_characters: None,
    };
    let price = Whole::positive(true);
    let stock = Whole::positive(false);
    let changes = Changes {
        name: noted(
            "name",
            name.validate(fields.get("name"), partial),
            &mut errors,
        ),
        description: noted(
            "description",
            description.validate(fields.get("description"), partial),
            &mut errors,
        ),
        price: noted(
            "price",
            price.validate(fields.get("price"), partial),
            &mut errors,
        ),
        stock: noted(
            "stock",
            stock.validate(fields.get("stock"), partial),
            &mut errors,
        ),
    };
    if errors.is_empty() {
        Ok(changes)
    } else {
        Err(Refusal::invalid(errors))
    }
}

/// The answer that shows a product, with its entity tag.
fn answer(status: StatusCode, product: &Product) -> RecordedResponse {
    let tag = etag::etag(product.version, product.held);
    shown(status, &ProductShown::from(product.clone())).header(ETAG, tag)
}

impl From<Product> for ProductShown {
    fn from(product: Product) -> Self {
        let is_held = product.held > 0;
        let available = product.stock_levels().available();
        Self {
            id: product.id,
            name: product.name,
            description: product.description,
            price: product.price,
            stock: product.stock,
            version: product.version,
            created_at: timestamp(product.created_at),
            updated_at: timestamp(product.updated_at),
            held: is_held.then_some(product.held),
            available: is_held.then_some(available),
        }
    }
}

/// As DRF writes it: microseconds, unless there are none.
pub(crate) fn timestamp(time: DateTime<Utc>) -> String {
    let precision = match time.nanosecond() {
        0 => SecondsFormat::Secs,
        _ => SecondsFormat::Micros,
    };
    time.to_rfc3339_opts(precision, true)
}
