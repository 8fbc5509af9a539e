//! Products: `/api/products/` and `/api/products/{id}/`, with the methods and the JSON of a
//! Django REST framework `ModelViewSet`.
//!
//! PUT, PATCH and DELETE hold the product's lock: see `products/update.rs`.

pub(crate) mod existence;
pub(crate) mod serializer;
mod update;

use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use tower::ServiceBuilder;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use self::serializer::{FIELDS, ProductRequest, ProductResponse, into_product};
use crate::drf::body::Fields;
use crate::drf::fields::Completeness;
use crate::drf::metadata::metadata;
use crate::drf::query::{ListQuery, Page};
use crate::error::ApiError;
use crate::http::idempotency::{self, MaybeKey, buffer_body};
use crate::http::paths::{AnyProductId, ProductId};
use crate::http::request_context::MayWrite;
use crate::openapi::{
    AnyProductPathParams, BodyErrors, ErrorDetail, IdempotencyErrors, IdempotencyKeyParam,
    IfNoneMatchParam, ListParams, ProductPathParams, QueryErrors,
};
use crate::state::AppState;
use crate::storage::{NewProduct, RequestContext, WriteContext, WriteOutcome};

/// Returns the routes with their operations in the OpenAPI document.
pub(crate) fn routes(state: &AppState) -> OpenApiRouter<AppState> {
    let create = routes!(create)
        .layer(state.idempotency.clone())
        .layer(from_fn_with_state(state.clone(), buffer_body::<()>));
    let update = routes!(update::replace, update::change, update::remove).layer(
        // From the outside in.
        ServiceBuilder::new()
            .layer(from_fn_with_state(state.clone(), buffer_body::<ProductId>))
            .layer(state.idempotency.clone())
            .layer(from_fn_with_state(state.clone(), update::validate))
            .layer(state.update_lock.clone()),
    );
    OpenApiRouter::new()
        .routes(routes!(list, list_options))
        .routes(create)
        .routes(routes!(product_options))
        .routes(routes!(retrieve))
        .routes(update)
}

/// List products
#[utoipa::path(get, path = "/api/products/", operation_id = "list_products", tag = "products", params(ListParams), responses(
    (status = 200, description = "One page", body = Page<ProductResponse>),
    (status = 400, description = "A filter or the search is malformed", body = QueryErrors),
    (status = 404, description = "The page does not exist", body = ErrorDetail),
))]
async fn list(State(state): State<AppState>, query: ListQuery) -> Result<Response, ApiError> {
    let selection = query.selection()?;
    let count = state.storage.count(&selection).await?;
    let range = query.range(count)?;
    let products = state
        .storage
        .list(&selection, range.limit(), range.offset())
        .await?;
    let results = products.into_iter().map(ProductResponse::from).collect();
    Ok(axum::Json(query.page(range, count, results)).into_response())
}

/// Create a product
#[utoipa::path(post, path = "/api/products/", operation_id = "create_product", tag = "products", params(IdempotencyKeyParam), request_body(
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
    request: RequestContext,
    key: MaybeKey,
    fields: Fields,
) -> Result<Response, ApiError> {
    let changes = serializer::validate(&fields, Completeness::Full)?;
    let product = NewProduct {
        // The defaults are those of the optional fields; required fields are present.
        name: changes.name.unwrap_or_default(),
        description: changes.description.unwrap_or_default(),
        price: changes.price.unwrap_or_default(),
        stock: changes.stock.unwrap_or_default(),
    };
    let idempotency = idempotency::idempotent_write(&key, |product| {
        let response = serializer::response(StatusCode::CREATED, product);
        Some(response.to_bytes().into())
    });
    let context = WriteContext {
        request,
        idempotency,
    };
    match state.storage.create(product, context).await? {
        WriteOutcome::AlreadyRecorded(recorded) => idempotency::replay(&key, recorded),
        written => {
            let product = into_product(written)?;
            state.live.product_changed(product.id);
            Ok(serializer::response(StatusCode::CREATED, &product).into_response())
        }
    }
}

/// Retrieve a product
#[utoipa::path(get, path = "/api/products/{id}/", operation_id = "retrieve_product", tag = "products", params(
    ProductPathParams,
    IfNoneMatchParam,
), responses(
    (status = 200, description = "The product, its version as the ETag", body = ProductResponse,
        headers(("ETag" = String, description = "The version, quoted"))),
    (status = 304, description = "The product still has the ETag of the request",
        headers(("ETag" = String, description = "The version, quoted"))),
    (status = 404, description = "The product does not exist", body = ErrorDetail),
))]
async fn retrieve(
    State(state): State<AppState>,
    ProductId(id): ProductId,
) -> Result<Response, ApiError> {
    let product = state.storage.get(id).await?;
    let product = product.ok_or_else(ApiError::product_not_found)?;
    Ok(serializer::response(StatusCode::OK, &product).into_response())
}

/// Describe the list of products
#[utoipa::path(options, path = "/api/products/", operation_id = "products_options", tag = "products", responses(
    (status = 200, description = "The fields of a product and their rules", body = Object),
))]
async fn list_options(MayWrite(may_write): MayWrite) -> Response {
    let action = may_write.then_some("POST");
    axum::Json(metadata("Product List", action, FIELDS)).into_response()
}

/// Describe a product
#[utoipa::path(options, path = "/api/products/{id}/", tag = "products", params(
    AnyProductPathParams,
), responses(
    (status = 200, description = "The fields of a product and their rules", body = Object),
    (status = 404, description = "The id is not one that a product can have", body = ErrorDetail),
))]
async fn product_options(
    State(state): State<AppState>,
    AnyProductId(id): AnyProductId,
    MayWrite(may_write): MayWrite,
) -> Result<Response, ApiError> {
    let exists = match id {
        Some(id) if may_write => state.storage.get(id).await?.is_some(),
        _ => false,
    };
    let action = exists.then_some("PUT");
    Ok(axum::Json(metadata("Product Instance", action, FIELDS)).into_response())
}
