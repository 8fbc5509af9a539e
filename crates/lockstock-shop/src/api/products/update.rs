//! PUT, PATCH and DELETE of a product. From the outside in: the idempotency key, what the
//! request says (`checked`), its preconditions, the product's lock, the write.

use axum::Extension;
use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lockstock_http::{HeldLock, IfMatch};

use super::{Completeness, answer, validated};
use crate::api::products::ProductShown;
use crate::drf::body::received;
use crate::error::Refusal;
use crate::etag;
use crate::failpoint;
use crate::http::idempotency;
use crate::http::routes::product_id;
use crate::openapi::{
    BadBody, IfMatchHeader, KeyHeader, Keyed, ProductGiven, ProductPatch, ProductPath, UnderLock,
};
use crate::state::Shop;
use crate::storage::{
    Changes, FencedWindow, Precondition, Product, RequestContext, WriteContext, WriteOutcome,
};

/// What a request is to change: read and validated before a lock is taken.
#[derive(Clone)]
pub(super) struct Checked(Changes);

/// Reads and validates a request that changes a product, and makes sure that there is one.
pub(crate) async fn checked(
    State(shop): State<Shop>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let completeness = match *request.method() {
        Method::PUT => Some(Completeness::Whole),
        Method::PATCH => Some(Completeness::Part),
        // DELETE.
        _ => None,
    };
    let id = product_id(request.uri().path())?;
    let (mut parts, body) = request.into_parts();
    if let Some(completeness) = completeness {
        let fields = received(shop.settings.body, &parts.headers, body).await;
        match fields.and_then(|fields| validated(&fields, completeness)) {
            Ok(changes) => drop(parts.extensions.insert(Checked(changes))),
            // Of a product that does not exist, that is the thing to say.
            Err(refusal) => return Err(missing_first(&shop, id, refusal).await),
        }
    }
    exists(&shop, id).await?;
    Ok(next.run(Request::from_parts(parts, Body::empty())).await)
}

/// Looked at before a lock is taken: there is no end of products that do not exist.
pub(crate) async fn exists(shop: &Shop, id: i64) -> Result<(), Refusal> {
    let product = shop.storage.get(id).await?;
    product.map(drop).ok_or_else(Refusal::no_product)
}

/// The refusal for a product that does not exist, or else `refusal`.
pub(crate) async fn missing_first(shop: &Shop, id: i64, refusal: Refusal) -> Refusal {
    exists(shop, id).await.err().unwrap_or(refusal)
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
    content((ProductGiven = "application/json"), (ProductGiven = "application/x-www-form-urlencoded"), (ProductGiven = "multipart/form-data")),
), responses(
    (status = 200, description = "The product as it is now", body = ProductShown,
        headers(("ETag" = String, description = "The version, quoted"))),
    Keyed,
    BadBody,
    UnderLock,
))]
pub(super) async fn replace(
    write: Write,
    Extension(checked): Extension<Checked>,
) -> Result<Response, Refusal> {
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
    (status = 200, description = "The product as it is now", body = ProductShown,
        headers(("ETag" = String, description = "The version, quoted"))),
    Keyed,
    BadBody,
    UnderLock,
))]
pub(super) async fn change(
    write: Write,
    Extension(checked): Extension<Checked>,
) -> Result<Response, Refusal> {
    write.update(checked.0).await
}

/// Delete a product
#[utoipa::path(delete, path = "/api/products/{id}/", operation_id = "delete_product", tag = "products", params(
    ProductPath,
    IfMatchHeader,
), responses(
    (status = 204, description = "It is gone"),
    UnderLock,
))]
pub(super) async fn remove(write: Write) -> Result<Response, Refusal> {
    write.delete().await
}

/// A write under the lock of a product, and all it depends on.
pub(super) struct Write {
    shop: Shop,
    id: i64,
    request: RequestContext,
    key: idempotency::Given,
    window: FencedWindow,
    if_match: IfMatch,
}

impl FromRequestParts<Shop> for Write {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, shop: &Shop) -> Result<Self, Refusal> {
        let id = product_id(parts.uri.path())?;
        let held = parts
            .extensions
            .get::<HeldLock>()
            .ok_or_else(Refusal::defect)?;
        let if_match = parts.extensions.get::<IfMatch>();
        Ok(Self {
            shop: shop.clone(),
            id,
            window: FencedWindow {
                fence: held.fence,
                deadline: held.deadline,
            },
            if_match: if_match.cloned().unwrap_or(IfMatch::Absent),
            key: parts.extensions.get().cloned().map(Extension),
            request: RequestContext::from_request_parts(parts, shop)
                .await
                .unwrap_or_default(),
        })
    }
}

impl Write {
    async fn update(self, changes: Changes) -> Result<Response, Refusal> {
        failpoint::pause("update.locked").await;
        let precondition = self.precondition().await?;
        let context = WriteContext {
            request: self.request,
            idempotency: idempotency::once(&self.key, |product| {
                Some(idempotency::bytes(&answer(StatusCode::OK, product)))
            }),
        };
        let written = self
            .shop
            .storage
            .update(self.id, changes, precondition, context)
            .await;
        failpoint::pause("update.written").await;
        match written? {
            WriteOutcome::AlreadyRecorded(recorded) => idempotency::again(&self.key, recorded),
            other => Ok(answer(StatusCode::OK, &settled(other)?).into_response()),
        }
    }

    async fn delete(self) -> Result<Response, Refusal> {
        failpoint::pause("update.locked").await;
        let precondition = self.precondition().await?;
        let written = self
            .shop
            .storage
            .delete(self.id, precondition, self.request)
            .await;
        failpoint::pause("update.written").await;
        settled(written?)?;
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    /// What the write is held to, in its own transaction.
    async fn precondition(&self) -> Result<Precondition, Refusal> {
        let version = match &self.if_match {
            IfMatch::Absent | IfMatch::Any => None,
            IfMatch::OneOf(tags) => {
                let versions = tags.iter().filter_map(|tag| etag::version(tag));
                match versions.collect::<Vec<_>>()[..] {
                    // No version is ever 0: the write finds the product missing or stale.
                    [] => Some(0),
                    [version] => Some(version),
                    // Which of them it is can only be known by looking; the lock is held.
                    ref versions => {
                        let product = self.shop.storage.get(self.id).await?;
                        let product = product.ok_or_else(Refusal::no_product)?;
                        let seen = versions.contains(&product.version);
                        Some(if seen { product.version } else { 0 })
                    }
                }
            }
        };
        let window = self.window;
        Ok(Precondition { window, version })
    }
}

/// The product, if it was written.
pub(super) fn settled(written: WriteOutcome<Product>) -> Result<Product, Refusal> {
    match written {
        WriteOutcome::Done(product) => Ok(product),
        // Whoever has a key looks at that first.
        WriteOutcome::AlreadyRecorded(_) => Err(Refusal::key_reused()),
        WriteOutcome::NotFound => Err(Refusal::no_product()),
        WriteOutcome::VersionMismatch { version } => Err(Refusal::stale(version)),
        WriteOutcome::Fenced => {
            tracing::warn!("lost: a write came too late and was refused");
            metrics::counter!("lockstock_fenced_writes_total").increment(1);
            Err(Refusal::lock_lost())
        }
    }
}
