//! Products: `/api/products/` and `/api/products/{id}/`, with the verbs and the wire shapes
//! of a Django REST framework `ModelViewSet`.
//!
//! PUT, PATCH and DELETE go through the product's lock (`update_lock.rs`); the body is read
//! and validated before the lock is taken.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::ETAG;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, Timelike, Utc};
use serde::Serialize;
use serde_json::{Map, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::Shop;
use crate::body::{Fields, received};
use crate::document::{
    BadBody, IfMatchHeader, ListParameters, Overload, ProductGiven, ProductPage, ProductPatch,
    ProductPath, UnderLock,
};
use crate::fields::{Text, Whole, noted};
use crate::listing::Parameters;
use crate::metadata::metadata;
use crate::places::product_id;
use crate::preconditions::{self, IfMatch};
use crate::refusal::Refusal;
use crate::storage::{
    Cause, Changes, Condition, NewProduct, Origin, Product, Storage, Turn, Written,
};
use crate::update_lock::Hold;

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
    /// How many of the stock are set aside at the moment.
    #[schema(read_only, minimum = 0, example = 0)]
    held: i64,
    /// How many anybody can buy at the moment.
    #[schema(read_only, minimum = 0, example = 10)]
    available: i64,
}

/// The routes, and what the document says of them.
pub(crate) fn routes() -> OpenApiRouter<Shop> {
    OpenApiRouter::new()
        .routes(routes!(list, create, list_options))
        .routes(routes!(retrieve, replace, change, remove, product_options))
}

/// List products
#[utoipa::path(get, path = PATH, tag = "products", params(ListParameters), responses(
    (status = 200, description = "One page", body = ProductPage),
    (status = 400, description = "A filter or the search cannot be read"),
    (status = 404, description = "There is no such page"),
    Overload,
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
#[utoipa::path(post, path = PATH, tag = "products", request_body(
    content((ProductGiven = "application/json"), (ProductGiven = "application/x-www-form-urlencoded"), (ProductGiven = "multipart/form-data")),
), responses(
    (status = 201, description = "Created", body = ProductShown),
    BadBody,
    Overload,
))]
async fn create(
    State(shop): State<Shop>,
    origin: Origin,
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
    let cause = Cause { origin, once: None };
    let product = settled(shop.storage.create(new, cause).await?)?;
    Ok(shown(StatusCode::CREATED, product))
}

/// Look at a product
#[utoipa::path(get, path = "/api/products/{id}/", tag = "products", params(
    ProductPath,
    ("If-None-Match" = Option<String>, Header, description = "The ETag of what you have already"),
), responses(
    (status = 200, description = "The product, its version as the ETag", body = ProductShown,
        headers(("ETag" = String, description = "The version, quoted"))),
    (status = 304, description = "You have it already"),
    (status = 404, description = "There is no such product"),
    Overload,
))]
async fn retrieve(
    State(shop): State<Shop>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Refusal> {
    let id = product_id(uri.path())?;
    let product = shop.storage.get(id).await?;
    let product = product.ok_or_else(Refusal::no_product)?;
    if preconditions::is_known(&headers, product.version, product.held) {
        let tag = [(ETAG, preconditions::etag(product.version, product.held))];
        return Ok((StatusCode::NOT_MODIFIED, tag).into_response());
    }
    Ok(shown(StatusCode::OK, product))
}

/// Replace a product
///
/// Fields that are not required and not sent keep their values. Takes the product's lock, as
/// PATCH does.
#[utoipa::path(put, path = "/api/products/{id}/", tag = "products", params(
    ProductPath,
    IfMatchHeader,
), request_body(
    content((ProductGiven = "application/json"), (ProductGiven = "application/x-www-form-urlencoded"), (ProductGiven = "multipart/form-data")),
), responses(
    (status = 200, description = "The product as it is now", body = ProductShown),
    BadBody,
    UnderLock,
))]
async fn replace(
    State(shop): State<Shop>,
    origin: Origin,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Result<Response, Refusal> {
    update(shop, origin, headers, uri, body, Completeness::Whole).await
}

/// Change a product
///
/// Of several identical requests at once exactly one succeeds; the others get 429. Waits for
/// the product's lock, and after a success the lock is kept to the end of its lease (3 s
/// unless the server was told otherwise).
#[utoipa::path(patch, path = "/api/products/{id}/", tag = "products", params(
    ProductPath,
    IfMatchHeader,
), request_body(
    content((ProductPatch = "application/json"), (ProductPatch = "application/x-www-form-urlencoded"), (ProductPatch = "multipart/form-data")),
), responses(
    (status = 200, description = "The product as it is now", body = ProductShown),
    BadBody,
    UnderLock,
))]
async fn change(
    State(shop): State<Shop>,
    origin: Origin,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Result<Response, Refusal> {
    update(shop, origin, headers, uri, body, Completeness::Part).await
}

async fn update(
    shop: Shop,
    origin: Origin,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
    completeness: Completeness,
) -> Result<Response, Refusal> {
    let id = product_id(uri.path())?;
    let checked = async {
        let fields = received(shop.settings.body, &headers, body).await?;
        let changes = validated(&fields, completeness)?;
        Ok((changes, if_match(&shop, &headers)?))
    };
    let (changes, if_match) = match checked.await {
        Ok(checked) => checked,
        // Of a product that does not exist, that is the thing to say.
        Err(refusal) => return Err(missing_first(&shop, id, refusal).await),
    };
    exists(&shop, id).await?;
    let storage = shop.storage.clone();
    let product = shop
        .updates
        .run(id, shop.updates.hold(), async move |turn| {
            let condition = condition(&*storage, id, turn, if_match).await?;
            let cause = Cause { origin, once: None };
            settled(storage.update(id, changes, condition, cause).await?)
        });
    Ok(shown(StatusCode::OK, product.await?))
}

/// Delete a product
#[utoipa::path(delete, path = "/api/products/{id}/", tag = "products", params(
    ProductPath,
    IfMatchHeader,
), responses(
    (status = 204, description = "It is gone"),
    UnderLock,
))]
async fn remove(
    State(shop): State<Shop>,
    origin: Origin,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Refusal> {
    let id = product_id(uri.path())?;
    let if_match = match if_match(&shop, &headers) {
        Ok(if_match) => if_match,
        Err(refusal) => return Err(missing_first(&shop, id, refusal).await),
    };
    exists(&shop, id).await?;
    let storage = shop.storage.clone();
    // What is gone needs no cool-down: who comes next shall hear 404, not 429.
    let removed = shop.updates.run(id, Hold::Release, async move |turn| {
        let condition = condition(&*storage, id, turn, if_match).await?;
        settled(storage.delete(id, condition, origin).await?)
    });
    removed.await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What can be done with products
#[utoipa::path(options, path = PATH, tag = "products", responses(
    (status = 200, description = "The fields of a product, and how they are read", body = Object),
))]
async fn list_options() -> Response {
    axum::Json(metadata("Product List", Some("POST"))).into_response()
}

/// What can be done with a product
#[utoipa::path(options, path = "/api/products/{id}/", tag = "products", params(
    ProductPath,
), responses(
    (status = 200, description = "The fields of a product, and how they are read", body = Object),
    Overload,
))]
async fn product_options(State(shop): State<Shop>, uri: Uri) -> Result<Response, Refusal> {
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

fn if_match(shop: &Shop, headers: &HeaderMap) -> Result<IfMatch, Refusal> {
    let if_match = IfMatch::of(headers);
    if if_match == IfMatch::Absent && shop.settings.require_if_match {
        return Err(Refusal::if_match_required());
    }
    Ok(if_match)
}

/// Looked at before a lock is taken: a lock leaves a counter in the store, and there is no
/// end of products that do not exist.
pub(crate) async fn exists(shop: &Shop, id: i64) -> Result<(), Refusal> {
    let product = shop.storage.get(id).await?;
    product.map(drop).ok_or_else(Refusal::no_product)
}

/// The refusal for a product that does not exist, or else `refusal`.
pub(crate) async fn missing_first(shop: &Shop, id: i64, refusal: Refusal) -> Refusal {
    exists(shop, id).await.err().unwrap_or(refusal)
}

/// What the write is held to, in its own transaction.
async fn condition(
    storage: &dyn Storage,
    id: i64,
    turn: Turn,
    if_match: IfMatch,
) -> Result<Condition, Refusal> {
    let version = match if_match {
        IfMatch::Absent | IfMatch::Any => None,
        IfMatch::OneOf(versions) => match versions[..] {
            // No version is ever 0: the write finds the product missing or stale.
            [] => Some(0),
            [version] => Some(version),
            // Which of them it is can only be known by looking; the lock is held.
            _ => {
                let product = storage.get(id).await?.ok_or_else(Refusal::no_product)?;
                let seen = versions.contains(&product.version);
                Some(if seen { product.version } else { 0 })
            }
        },
    };
    Ok(Condition { turn, version })
}

fn settled(written: Written<Product>) -> Result<Product, Refusal> {
    match written {
        Written::Done(product) => Ok(product),
        // Nobody asks here with a key.
        Written::Recorded(_) => Err(Refusal::defect()),
        Written::Missing => Err(Refusal::no_product()),
        Written::Stale { version } => Err(Refusal::stale(version)),
        Written::Lost => {
            tracing::warn!("lost: a write came too late and was refused");
            metrics::counter!("lockstock_fenced_writes_total").increment(1);
            Err(Refusal::lock_lost())
        }
    }
}

fn shown(status: StatusCode, product: Product) -> Response {
    let tag = [(ETAG, preconditions::etag(product.version, product.held))];
    (status, tag, axum::Json(ProductShown::from(product))).into_response()
}

impl From<Product> for ProductShown {
    fn from(product: Product) -> Self {
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
            held: product.held,
            available,
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
