//! PUT, PATCH and DELETE of a product. From the outside in: the idempotency key, what the
//! request says (`checked`), its preconditions, the product's lock, the write.

use axum::Extension;
use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lockstock_http::{Held, IfMatch};

use super::{Completeness, answer, validated};
use crate::api::products::ProductResponse;
use crate::drf::body::parse_body;
use crate::error::ApiError;
use crate::etag;
use crate::failpoint;
use crate::http::idempotency;
use crate::http::routes::product_id;
use crate::openapi::{
    BodyErrors, IdempotencyErrors, IfMatchHeader, KeyHeader, ProductPatch, ProductPath,
    ProductRequest, UpdateErrors,
};
use crate::state::AppState;
use crate::storage::{Cause, Changes, Condition, Origin, Product, Turn, Written};

/// What a request is to change: read and validated before a lock is taken.
#[derive(Clone)]
pub(super) struct ValidatedChanges(Changes);

/// Reads and validates a request that changes a product, and makes sure that there is one.
pub(crate) async fn validate(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let completeness = match *request.method() {
        Method::PUT => Some(Completeness::Full),
        Method::PATCH => Some(Completeness::Partial),
        // DELETE.
        _ => None,
    };
    let id = product_id(request.uri().path())?;
    let (mut parts, body) = request.into_parts();
    if let Some(completeness) = completeness {
        let fields = parse_body(state.settings.body, &parts.headers, body).await;
        match fields.and_then(|fields| validated(&fields, completeness)) {
            Ok(changes) => drop(parts.extensions.insert(ValidatedChanges(changes))),
            // Of a product that does not exist, that is the thing to say.
            Err(error) => return Err(not_found_or(&state, id, error).await),
        }
    }
    ensure_exists(&state, id).await?;
    Ok(next.run(Request::from_parts(parts, Body::empty())).await)
}

/// Looked at before a lock is taken: there is no end of products that do not exist.
pub(crate) async fn ensure_exists(state: &AppState, id: i64) -> Result<(), ApiError> {
    let product = state.storage.get(id).await?;
    product.map(drop).ok_or_else(ApiError::product_not_found)
}

/// The refusal for a product that does not exist, or else `refusal`.
pub(crate) async fn not_found_or(state: &AppState, id: i64, error: ApiError) -> ApiError {
    ensure_exists(state, id).await.err().unwrap_or(error)
}

/// Replace a product
///
/// Fields that are not required and not sent keep their values. Takes the product's lock, as
/// PATCH does.
#[utoipa::path(put, path = "/api/products/{id}/", operation_id = "replace_product", tag = "products", params(
    ProductPath,
    IfMatchHeader,
    KeyHeader,
), request_body(
    content((ProductRequest = "application/json"), (ProductRequest = "application/x-www-form-urlencoded"), (ProductRequest = "multipart/form-data")),
), responses(
    (status = 200, description = "The product as it is now", body = ProductResponse,
        headers(("ETag" = String, description = "The version, quoted"))),
    IdempotencyErrors,
    BodyErrors,
    UpdateErrors,
))]
pub(super) async fn replace(
    write: LockedWrite,
    Extension(checked): Extension<ValidatedChanges>,
) -> Result<Response, ApiError> {
    write.update(checked.0).await
}

/// Change a product
///
/// Of several identical requests at once exactly one succeeds; the others get 429. Waits for
/// the product's lock, and after a success the lock is kept to the end of its lease (3 s
/// unless the server was told otherwise).
#[utoipa::path(patch, path = "/api/products/{id}/", operation_id = "change_product", tag = "products", params(
    ProductPath,
    IfMatchHeader,
    KeyHeader,
), request_body(
    content((ProductPatch = "application/json"), (ProductPatch = "application/x-www-form-urlencoded"), (ProductPatch = "multipart/form-data")),
), responses(
    (status = 200, description = "The product as it is now", body = ProductResponse,
        headers(("ETag" = String, description = "The version, quoted"))),
    IdempotencyErrors,
    BodyErrors,
    UpdateErrors,
))]
pub(super) async fn change(
    write: LockedWrite,
    Extension(checked): Extension<ValidatedChanges>,
) -> Result<Response, ApiError> {
    write.update(checked.0).await
}

/// Delete a product
#[utoipa::path(delete, path = "/api/products/{id}/", operation_id = "delete_product", tag = "products", params(
    ProductPath,
    IfMatchHeader,
), responses(
    (status = 204, description = "It is gone"),
    UpdateErrors,
))]
pub(super) async fn remove(write: LockedWrite) -> Result<Response, ApiError> {
    write.delete().await
}

/// A write under the lock of a product, and all it depends on.
pub(super) struct LockedWrite {
    state: AppState,
    id: i64,
    origin: Origin,
    key: idempotency::MaybeKey,
    turn: Turn,
    if_match: IfMatch,
}

impl FromRequestParts<AppState> for LockedWrite {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let id = product_id(parts.uri.path())?;
        let held = parts
            .extensions
            .get::<Held>()
            .ok_or_else(ApiError::internal)?;
        let if_match = parts.extensions.get::<IfMatch>();
        Ok(Self {
            state: state.clone(),
            id,
            turn: Turn {
                fence: held.fence,
                deadline: held.deadline,
            },
            if_match: if_match.cloned().unwrap_or(IfMatch::Absent),
            key: parts.extensions.get().cloned().map(Extension),
            origin: Origin::from_request_parts(parts, state)
                .await
                .unwrap_or_default(),
        })
    }
}

impl LockedWrite {
    async fn update(self, changes: Changes) -> Result<Response, ApiError> {
        failpoint::pause("update.locked").await;
        let condition = self.condition().await?;
        let cause = Cause {
            origin: self.origin,
            once: idempotency::idempotent_write(&self.key, |product| {
                Some(idempotency::to_bytes(&answer(StatusCode::OK, product)))
            }),
        };
        let written = self
            .state
            .storage
            .update(self.id, changes, condition, cause)
            .await;
        failpoint::pause("update.written").await;
        match written? {
            Written::Recorded(recorded) => idempotency::replay(&self.key, recorded),
            other => Ok(answer(StatusCode::OK, &into_product(other)?).into_response()),
        }
    }

    async fn delete(self) -> Result<Response, ApiError> {
        failpoint::pause("update.locked").await;
        let condition = self.condition().await?;
        let written = self
            .state
            .storage
            .delete(self.id, condition, self.origin)
            .await;
        failpoint::pause("update.written").await;
        into_product(written?)?;
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    /// What the write is held to, in its own transaction.
    async fn condition(&self) -> Result<Condition, ApiError> {
        let version = match &self.if_match {
            IfMatch::Absent | IfMatch::Any => None,
            IfMatch::OneOf(tags) => {
                let versions = tags.iter().filter_map(|tag| etag::parse_version(tag));
                match versions.collect::<Vec<_>>()[..] {
                    // No version is ever 0: the write finds the product missing or stale.
                    [] => Some(0),
                    [version] => Some(version),
                    // Which of them it is can only be known by looking; the lock is held.
                    ref versions => {
                        let product = self.state.storage.get(self.id).await?;
                        let product = product.ok_or_else(ApiError::product_not_found)?;
                        let seen = versions.contains(&product.version);
                        Some(if seen { product.version } else { 0 })
                    }
                }
            }
        };
        let turn = self.turn;
        Ok(Condition { turn, version })
    }
}

/// The product, if it was written.
pub(super) fn into_product(written: Written<Product>) -> Result<Product, ApiError> {
    match written {
        Written::Done(product) => Ok(product),
        // Whoever has a key looks at that first.
        Written::Recorded(_) => Err(ApiError::key_reused()),
        Written::Missing => Err(ApiError::product_not_found()),
        Written::Stale { version } => Err(ApiError::precondition_failed(version)),
        Written::Lost => {
            tracing::warn!("lost: a write came too late and was refused");
            metrics::counter!("lockstock_fenced_writes_total").increment(1);
            Err(ApiError::lock_lost())
        }
    }
}
