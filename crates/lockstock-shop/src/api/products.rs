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
use lockstock_http::Record;
use serde::Serialize;
use serde_json::{Map, json};
use tower::ServiceBuilder;
use utoipa::ToSchema;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use self::update::into_product;
pub(crate) use self::update::{ensure_exists, not_found_or};
use crate::api::page::ProductPage;
use crate::drf::body::{Fields, parse_body};
use crate::drf::fields::{CharField, IntegerField, collect_error};
use crate::drf::metadata::metadata;
use crate::drf::query::ListQuery;
use crate::error::ApiError;
use crate::etag;
use crate::http::idempotency;
use crate::http::idempotency::json;
use crate::http::preconditions;
use crate::http::routes::{self, product_id};
use crate::openapi::{
    AnyPath, BodyErrors, ErrorDetail, IdempotencyErrors, IfNoneMatchHeader, KeyHeader,
    ListParameters, ProductPath, ProductRequest, QueryErrors,
};
use crate::state::AppState;
use crate::storage::{Cause, Changes, NewProduct, Origin, Product, Written};

/// Where the products are.
pub(crate) const PATH: &str = "/api/products/";

/// A product, as it is shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Product")]
pub(crate) struct ProductResponse {
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
pub(crate) fn routes(state: &AppState) -> OpenApiRouter<AppState> {
    let buffer_body = || from_fn_with_state(state.clone(), idempotency::buffer_body);
    let creates = routes!(create)
        .layer(state.idempotency.orders.clone())
        .layer(buffer_body());
    let changes = routes!(update::replace, update::change, update::remove).layer(
        // From the outside in.
        ServiceBuilder::new()
            .layer(buffer_body())
            .layer(state.idempotency.updates.clone())
            .layer(from_fn_with_state(state.clone(), update::validate))
            .layer(match state.settings.require_if_match {
                true => preconditions::layer().require(),
                false => preconditions::layer(),
            })
            .layer(state.update_lock.clone()),
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
    (status = 400, description = "A filter or the search cannot be read", body = QueryErrors),
    (status = 404, description = "There is no such page", body = ErrorDetail),
))]
async fn list(
    State(state): State<AppState>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let parameters = ListQuery::of(&uri);
    let selection = parameters.selection()?;
    let count = state.storage.count(&selection).await?;
    let page = parameters.page(count)?;
    let products = state
        .storage
        .list(&selection, page.limit(), page.offset())
        .await?;
    let results = products
        .into_iter()
        .map(|product| json!(ProductResponse::from(product)))
        .collect();
    let answer = parameters.answer(page, count, results, &headers, uri.path());
    Ok(axum::Json(answer).into_response())
}

/// Create a product
#[utoipa::path(post, path = PATH, operation_id = "create_product", tag = "products", params(KeyHeader), request_body(
    content((ProductRequest = "application/json"), (ProductRequest = "application/x-www-form-urlencoded"), (ProductRequest = "multipart/form-data")),
), responses(
    (status = 201, description = "Created", body = ProductResponse,
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
    IdempotencyErrors,
    BodyErrors,
))]
async fn create(
    State(state): State<AppState>,
    origin: Origin,
    key: idempotency::MaybeKey,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let fields = parse_body(state.settings.body, &headers, body).await?;
    let changes = validated(&fields, Completeness::Full)?;
    let new = NewProduct {
        // Required fields, and validated: they are there.
        name: changes.name.unwrap_or_default(),
        description: changes.description.unwrap_or_default(),
        price: changes.price.unwrap_or_default(),
        stock: changes.stock.unwrap_or_default(),
    };
    let once = idempotency::idempotent_write(&key, |product| {
        Some(idempotency::to_bytes(&answer(StatusCode::CREATED, product)))
    });
    match state.storage.create(new, Cause { origin, once }).await? {
        Written::Recorded(recorded) => idempotency::replay(&key, recorded),
        other => Ok(answer(StatusCode::CREATED, &into_product(other)?).into_response()),
    }
}

/// Look at a product
#[utoipa::path(get, path = "/api/products/{id}/", operation_id = "retrieve_product", tag = "products", params(
    ProductPath,
    IfNoneMatchHeader,
), responses(
    (status = 200, description = "The product, its version as the ETag", body = ProductResponse,
        headers(("ETag" = String, description = "The version, quoted"))),
    (status = 304, description = "You have it already",
        headers(("ETag" = String, description = "The version, quoted"))),
    (status = 404, description = "There is no such product", body = ErrorDetail),
))]
async fn retrieve(State(state): State<AppState>, uri: Uri) -> Result<Response, ApiError> {
    let id = product_id(uri.path())?;
    let product = state.storage.get(id).await?;
    let product = product.ok_or_else(ApiError::product_not_found)?;
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
    (status = 404, description = "This cannot be a product's id", body = ErrorDetail),
))]
async fn product_options(State(state): State<AppState>, uri: Uri) -> Result<Response, ApiError> {
    if routes::find(uri.path()).is_none() {
        return Err(ApiError::not_found());
    }
    let there = match product_id(uri.path()) {
        Ok(id) => state.storage.get(id).await?.is_some(),
        Err(_) => false,
    };
    let action = there.then_some("PUT");
    Ok(axum::Json(metadata("Product Instance", action)).into_response())
}

/// Whether fields may be left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Completeness {
    /// Those that are required must be there: POST, PUT.
    Full,
    /// Any may be missing: PATCH.
    Partial,
}

fn validated(fields: &Fields, completeness: Completeness) -> Result<Changes, ApiError> {
    let partial = completeness == Completeness::Partial;
    let mut errors = Map::new();
    let name = CharField {
        required: true,
        allow_blank: false,
        max_length: Some(200),
    };
    let description = CharField {
        required: false,
        allow_blank: true,
        max_length: None,
    };
    let price = IntegerField::positive(true);
    let stock = IntegerField::positive(false);
    let changes = Changes {
        name: collect_error(
            "name",
            name.validate(fields.get("name"), partial),
            &mut errors,
        ),
        description: collect_error(
            "description",
            description.validate(fields.get("description"), partial),
            &mut errors,
        ),
        price: collect_error(
            "price",
            price.validate(fields.get("price"), partial),
            &mut errors,
        ),
        stock: collect_error(
            "stock",
            stock.validate(fields.get("stock"), partial),
            &mut errors,
        ),
    };
    if errors.is_empty() {
        Ok(changes)
    } else {
        Err(ApiError::invalid(errors))
    }
}

/// The answer that shows a product, with its entity tag.
fn answer(status: StatusCode, product: &Product) -> Record {
    let tag = etag::etag(product.version, product.held);
    json(status, &ProductResponse::from(product.clone())).header(ETAG, tag)
}

impl From<Product> for ProductResponse {
    fn from(product: Product) -> Self {
        let is_held = product.held > 0;
        let available = product.figures().available();
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
