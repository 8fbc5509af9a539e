//! PUT, PATCH and DELETE of a product. From the outside in: the idempotency key, validation,
//! the preconditions, the product's lock, the write.

use axum::Extension;
use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lockstock_http::{HeldLock, IfMatch};

use super::existence::{ensure_exists, not_found_or};
use super::serializer::{self, ProductPatch, ProductRequest, ProductResponse, into_product};
use crate::drf::body::parse_body;
use crate::drf::fields::Completeness;
use crate::error::ApiError;
use crate::etag;
use crate::failpoint;
use crate::http::idempotency::{self, MaybeKey};
use crate::http::paths::ProductId;
use crate::openapi::{
    BodyErrors, IdempotencyErrors, IdempotencyKeyParam, IfMatchParam, ProductPathParams,
    UpdateErrors,
};
use crate::state::AppState;
use crate::storage::{
    Changes, FencedWindow, Precondition, RequestContext, WriteContext, WriteOutcome,
};

/// The changes that a request asks for, validated before the lock is acquired.
#[derive(Clone)]
pub(super) struct ValidatedChanges(Changes);

/// Validates a request before the lock is acquired, and fails if the product does not exist.
pub(super) async fn validate(
    State(state): State<AppState>,
    ProductId(id): ProductId,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let completeness = match *request.method() {
        Method::PUT => Some(Completeness::Full),
        Method::PATCH => Some(Completeness::Partial),
        // DELETE has no body.
        _ => None,
    };
    let (mut parts, body) = request.into_parts();
    if let Some(completeness) = completeness {
        let fields = parse_body(state.settings.body, &parts.headers, body).await;
        match fields.and_then(|fields| serializer::validate(&fields, completeness)) {
            Ok(changes) => drop(parts.extensions.insert(ValidatedChanges(changes))),
            // A product that does not exist matters more than an invalid body.
            Err(error) => return Err(not_found_or(&state, id, error).await),
        }
    }
    ensure_exists(&state, id).await?;
    Ok(next.run(Request::from_parts(parts, Body::empty())).await)
}

/// Replace a product
///
/// Optional fields that are missing keep their values. Acquires the product's lock, as PATCH
/// does.
#[utoipa::path(put, path = "/api/products/{id}/", operation_id = "replace_product", tag = "products", params(
    ProductPathParams,
    IfMatchParam,
    IdempotencyKeyParam,
), request_body(
    content((ProductRequest = "application/json"), (ProductRequest = "application/x-www-form-urlencoded"), (ProductRequest = "multipart/form-data")),
), responses(
    (status = 200, description = "The updated product", body = ProductResponse,
        headers(("ETag" = String, description = "The version, quoted"))),
    IdempotencyErrors,
    BodyErrors,
    UpdateErrors,
))]
pub(super) async fn replace(
    write: LockedWrite,
    Extension(ValidatedChanges(changes)): Extension<ValidatedChanges>,
) -> Result<Response, ApiError> {
    write.update(changes).await
}

/// Change a product
///
/// Of several identical concurrent requests exactly one succeeds; the others fail with 429.
/// Waits for the product's lock. After a success the lock is kept until the end of its lease:
/// 3 s, unless the server is configured otherwise.
#[utoipa::path(patch, path = "/api/products/{id}/", operation_id = "change_product", tag = "products", params(
    ProductPathParams,
    IfMatchParam,
    IdempotencyKeyParam,
), request_body(
    content((ProductPatch = "application/json"), (ProductPatch = "application/x-www-form-urlencoded"), (ProductPatch = "multipart/form-data")),
), responses(
    (status = 200, description = "The updated product", body = ProductResponse,
        headers(("ETag" = String, description = "The version, quoted"))),
    IdempotencyErrors,
    BodyErrors,
    UpdateErrors,
))]
pub(super) async fn change(
    write: LockedWrite,
    Extension(ValidatedChanges(changes)): Extension<ValidatedChanges>,
) -> Result<Response, ApiError> {
    write.update(changes).await
}

/// Delete a product
///
/// Not while items of it are reserved: set its stock to 0, so that no more can be, and delete it
/// when the reservations have been confirmed, cancelled or have expired.
#[utoipa::path(delete, path = "/api/products/{id}/", operation_id = "delete_product", tag = "products", params(
    ProductPathParams,
    IfMatchParam,
), responses(
    (status = 204, description = "Deleted"),
    UpdateErrors,
))]
pub(super) async fn remove(write: LockedWrite) -> Result<Response, ApiError> {
    write.delete().await
}

/// A write under the lock of a product.
pub(super) struct LockedWrite {
    state: AppState,
    id: i64,
    request: RequestContext,
    key: MaybeKey,
    window: FencedWindow,
    if_match: IfMatch,
}

impl FromRequestParts<AppState> for LockedWrite {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let ProductId(id) = ProductId::from_request_parts(parts, state).await?;
        let held = parts.extensions.get::<HeldLock>();
        let held = held.ok_or_else(ApiError::internal)?;
        let if_match = parts.extensions.get::<IfMatch>();
        Ok(Self {
            state: state.clone(),
            id,
            window: FencedWindow {
                fence: held.fence,
                deadline: held.deadline,
            },
            if_match: if_match.cloned().unwrap_or(IfMatch::Absent),
            key: parts.extensions.get().cloned().map(Extension),
            request: RequestContext::from_request_parts(parts, state)
                .await
                .unwrap_or_default(),
        })
    }
}

impl LockedWrite {
    async fn update(self, changes: Changes) -> Result<Response, ApiError> {
        failpoint::pause("update.locked").await;
        let precondition = self.precondition().await?;
        let context = WriteContext {
            request: self.request,
            idempotency: idempotency::idempotent_write(&self.key, |product| {
                let response = serializer::response(StatusCode::OK, product);
                Some(response.to_bytes().into())
            }),
        };
        let written = self
            .state
            .storage
            .update(self.id, changes, precondition, context)
            .await;
        failpoint::pause("update.written").await;
        match written? {
            WriteOutcome::AlreadyRecorded(recorded) => idempotency::replay(&self.key, recorded),
            written => {
                let product = into_product(written)?;
                Ok(serializer::response(StatusCode::OK, &product).into_response())
            }
        }
    }

    async fn delete(self) -> Result<Response, ApiError> {
        failpoint::pause("update.locked").await;
        let precondition = self.precondition().await?;
        let written = self
            .state
            .storage
            .delete(self.id, precondition, self.request)
            .await;
        failpoint::pause("update.written").await;
        into_product(written?)?;
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    /// Returns the precondition that the transaction checks before it writes.
    async fn precondition(&self) -> Result<Precondition, ApiError> {
        let version = match &self.if_match {
            IfMatch::Absent | IfMatch::Any => None,
            IfMatch::OneOf(tags) => {
                let versions = tags.iter().filter_map(|tag| etag::parse_version(tag));
                match versions.collect::<Vec<_>>()[..] {
                    // No product has version 0: the write fails as not found or as stale.
                    [] => Some(0),
                    [version] => Some(version),
                    // The transaction compares one version: pick the one that the product has.
                    // The lock is held, so it does not change in between.
                    ref versions => {
                        let product = self.state.storage.get(self.id).await?;
                        let product = product.ok_or_else(ApiError::product_not_found)?;
                        let is_listed = versions.contains(&product.version);
                        Some(if is_listed { product.version } else { 0 })
                    }
                }
            }
        };
        let window = self.window;
        Ok(Precondition { window, version })
    }
}
