//! PUT, PATCH and DELETE of a product. From the outside in: the idempotency key, validation, the
//! product's lock, the write, which evaluates the preconditions.

use axum::Extension;
use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::EXPECT;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lockstock_http::{HeldLock, NothingWritten, Preconditions, TagCondition};

use super::existence::{ensure_exists, not_found_or};
use super::serializer::{self, ProductPatch, ProductRequest, ProductResponse, into_product};
use crate::drf::body::parse_body;
use crate::drf::fields::Completeness;
use crate::error::ApiError;
use crate::etag;
use crate::failpoint;
use crate::http::idempotency::{self, MaybeKey};
use crate::http::paths::ProductId;
use crate::http::preconditions;
use crate::openapi::{
    BodyErrors, IdempotencyErrors, IdempotencyKeyParam, IfMatchParam, ProductPathParams,
    UpdateErrors,
};
use crate::state::AppState;
use crate::storage::{
    self, Changes, FencedWindow, Precondition, Product, RequestContext, WriteContext, WriteOutcome,
};

/// The changes that a request asks for, validated before the lock is acquired.
#[derive(Clone)]
pub(super) struct ValidatedChanges(Changes);

/// Validates a request before the lock is acquired.
///
/// That the product exists is found by the statement that writes. It is looked up only where another
/// error would be returned instead of 404, and before a client that waits for `100 Continue` sends its
/// body. A missing `If-Match` that is required matters more than an invalid body. A recorded response
/// matters more than all of them, so a request with an idempotency key was read before.
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
    if request.headers().contains_key(EXPECT) {
        ensure_exists(&state, id).await?;
    }
    let conditions = preconditions::of_update(request.extensions());
    if state.settings.require_if_match && conditions.if_match.is_absent() {
        return Err(not_found_or(&state, id, ApiError::precondition_required()).await);
    }
    let (mut parts, body) = request.into_parts();
    if let Some(completeness) = completeness {
        match read_changes(&state, &parts, body, completeness).await {
            Ok(changes) => drop(parts.extensions.insert(ValidatedChanges(changes))),
            Err(invalid) => return Err(not_found_or(&state, id, invalid).await),
        }
    }
    let response = next.run(Request::from_parts(parts, Body::empty())).await;
    let has_no_lock = matches!(
        response.status(),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    );
    if has_no_lock && matches!(state.storage.get(id).await, Ok(None)) {
        return Err(ApiError::product_not_found());
    }
    Ok(response)
}

async fn read_changes(
    state: &AppState,
    parts: &Parts,
    body: Body,
    completeness: Completeness,
) -> Result<Changes, ApiError> {
    let fields = parse_body(state.settings.body, &parts.headers, body).await?;
    serializer::validate(&fields, completeness)
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
    conditions: Preconditions,
}

impl FromRequestParts<AppState> for LockedWrite {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let ProductId(id) = ProductId::from_request_parts(parts, state).await?;
        let held = parts.extensions.get::<HeldLock>();
        let held = held.ok_or_else(ApiError::internal)?;
        Ok(Self {
            state: state.clone(),
            id,
            window: FencedWindow {
                fence: held.fence,
                deadline: held.deadline,
            },
            conditions: preconditions::of_update(&parts.extensions),
            key: parts.extensions.get().cloned().map(Extension),
            request: RequestContext::from_request_parts(parts, state)
                .await
                .unwrap_or_default(),
        })
    }
}

/// The version that the transaction requires.
#[derive(Clone, Copy)]
enum RequiredVersion {
    Any,
    /// The only version that the client accepts.
    Only(i64),
    /// The version read just now, which the client accepts.
    Current(i64),
}

impl LockedWrite {
    async fn update(self, changes: Changes) -> Result<Response, ApiError> {
        failpoint::pause("update.locked").await;
        let storage = &self.state.storage;
        let update = |precondition| {
            let context = WriteContext {
                request: self.request.clone(),
                idempotency: idempotency::idempotent_write(&self.key, |product| {
                    let response = serializer::response(StatusCode::OK, product);
                    Some(response.to_bytes().into())
                }),
            };
            storage.update(self.id, changes.clone(), precondition, context)
        };
        let written = self.write(update).await?;
        failpoint::pause("update.written").await;
        let written = match written? {
            // Without a cool-down, as below: it has the extension.
            WriteOutcome::AlreadyRecorded(recorded) => {
                return idempotency::replay(&self.key, recorded);
            }
            written => into_product(written)?,
        };
        self.state.live.product_changed(self.id);
        let mut response = serializer::response(StatusCode::OK, &written).into_response();
        if changes.is_empty() {
            // No cool-down: the next update need not wait.
            response.extensions_mut().insert(NothingWritten);
        }
        Ok(response)
    }

    async fn delete(self) -> Result<Response, ApiError> {
        failpoint::pause("update.locked").await;
        let storage = &self.state.storage;
        let delete = |precondition| storage.delete(self.id, precondition, self.request.clone());
        let written = self.write(delete).await?;
        failpoint::pause("update.written").await;
        into_product(written?)?;
        self.state.live.product_changed(self.id);
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    /// Writes under the conditions of the client. If a purchase, which takes no lock, has changed the
    /// version since it was read, evaluates them again. The deadline of the lock bounds how often.
    async fn write<Attempt>(
        &self,
        attempt: impl Fn(Precondition) -> Attempt,
    ) -> Result<storage::Result<WriteOutcome<Product>>, ApiError>
    where
        Attempt: Future<Output = storage::Result<WriteOutcome<Product>>>,
    {
        loop {
            let required = self.required_version().await?;
            let precondition = self.precondition(required);
            failpoint::pause("update.compared").await;
            let written = attempt(precondition).await;
            let is_overtaken = matches!(required, RequiredVersion::Current(_))
                && matches!(written, Ok(WriteOutcome::VersionMismatch { .. }));
            if !is_overtaken {
                return Ok(written);
            }
        }
    }

    /// Returns the version that meets the conditions of the client. Reads the product only if more
    /// than one version can.
    async fn required_version(&self) -> Result<RequiredVersion, ApiError> {
        let Preconditions {
            if_match,
            if_none_match,
            ..
        } = &self.conditions;
        let required = versions(if_match);
        match (&required, if_none_match) {
            (None, TagCondition::Absent) => return Ok(RequiredVersion::Any),
            (Some(versions), TagCondition::Absent) if versions.len() == 1 => {
                return Ok(RequiredVersion::Only(versions[0]));
            }
            _ => {}
        }
        let product = self.state.storage.get(self.id).await?;
        let version = product.ok_or_else(ApiError::product_not_found)?.version;
        match required {
            Some(versions) if versions.is_empty() => return Err(ApiError::foreign_etag(version)),
            Some(versions) if !versions.contains(&version) => {
                return Err(ApiError::precondition_failed(version));
            }
            _ => {}
        }
        let is_excluded = match if_none_match {
            TagCondition::Absent => false,
            TagCondition::Any => true,
            TagCondition::OneOf(_) => {
                versions(if_none_match).is_some_and(|excluded| excluded.contains(&version))
            }
        };
        if is_excluded {
            return Err(ApiError::version_excluded(version));
        }
        Ok(RequiredVersion::Current(version))
    }

    /// Returns the precondition that the transaction checks before it writes.
    fn precondition(&self, required: RequiredVersion) -> Precondition {
        let version = match required {
            RequiredVersion::Any => None,
            RequiredVersion::Only(version) | RequiredVersion::Current(version) => Some(version),
        };
        let window = self.window;
        Precondition { window, version }
    }
}

/// Returns the versions in the tags of a condition, `None` if any version meets it.
fn versions(condition: &TagCondition) -> Option<Vec<i64>> {
    match condition {
        TagCondition::Absent | TagCondition::Any => None,
        TagCondition::OneOf(tags) => Some(tags.iter().filter_map(etag::version).collect()),
    }
}
