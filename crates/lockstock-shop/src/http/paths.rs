//! The ids in the path of a request.
//!
//! Extractors reject a malformed id as Django REST framework does: with 404, as an id that does
//! not exist.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use crate::drf::python;
use crate::error::ApiError;

/// The stream of events, which is no JSON.
pub(crate) const EVENTS: &str = "/api/locks/events";

/// The `{id}` of `/api/products/{id}/…`, parsed as Python's `int` parses it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProductId(pub(crate) i64);

/// The `{id}` of `/api/products/{id}/` in a request that needs no product to exist, and `None` if
/// no product can have it. Rejects only what DRF's router does not take for an id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnyProductId(pub(crate) Option<i64>);

/// The ids of `/api/products/{id}/reservations/{rid}/…`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReservationPath {
    pub(crate) product: i64,
    pub(crate) reservation: Uuid,
}

/// The `{id}` of `/api/purchases/{id}/`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PurchaseId(pub(crate) Uuid);

impl ProductId {
    /// Parses the id in `path`.
    pub(crate) fn parse(path: &str) -> Result<Self, ApiError> {
        let decoded = percent_decode_str(segment(path, 3)).decode_utf8_lossy();
        let id = python::int(&decoded).ok_or_else(ApiError::not_found)?;
        Ok(Self(id))
    }
}

impl<S: Sync> FromRequestParts<S> for ProductId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::parse(parts.uri.path())
    }
}

impl<S: Sync> FromRequestParts<S> for AnyProductId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let path = parts.uri.path();
        if !is_id(segment(path, 3)) {
            return Err(ApiError::not_found());
        }
        Ok(Self(ProductId::parse(path).ok().map(|ProductId(id)| id)))
    }
}

impl<S: Sync> FromRequestParts<S> for ReservationPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let path = parts.uri.path();
        let ProductId(product) = ProductId::parse(path)?;
        let reservation = uuid(path, 5, "Reservation")?;
        Ok(Self {
            product,
            reservation,
        })
    }
}

impl<S: Sync> FromRequestParts<S> for PurchaseId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        uuid(parts.uri.path(), 3, "Purchase").map(Self)
    }
}

/// Returns whether DRF's router takes a segment of a path for an id.
pub(crate) fn is_id(segment: &str) -> bool {
    let decoded = percent_decode_str(segment).decode_utf8_lossy();
    !decoded.is_empty() && !decoded.contains(['/', '.'])
}

fn uuid(path: &str, index: usize, resource: &str) -> Result<Uuid, ApiError> {
    Uuid::try_parse(segment(path, index)).map_err(|_| ApiError::not_found_of(resource))
}

/// Returns a segment of the path. The first one, before the leading slash, is empty.
fn segment(path: &str, index: usize) -> &str {
    path.split('/').nth(index).unwrap_or_default()
}
