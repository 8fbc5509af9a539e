//! Conditions of requests: `If-Match`, `If-None-Match` (RFC 9110, section 13).
//!
//! A product has an entity tag, its version, which an update compares under the lock of the product
//! and in its transaction (`api/products/update.rs`). Nothing else has one: a POST that requires a
//! tag fails, instead of having its effect whatever the version is. No response has a
//! `Last-Modified`, so that conditions with dates do not apply.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Extensions, Method};
use axum::middleware::Next;
use axum::response::Response;
use lockstock_http::{Preconditions, Validators};

use crate::error::ApiError;
use crate::http::paths::ProductId;
use crate::http::routes::Route;
use crate::state::AppState;

/// The route whose PUT, PATCH and DELETE change a product.
const PRODUCT: &str = "/api/products/{id}/";

/// Returns the conditions of an update, which its handler evaluates.
pub(crate) fn of_update(extensions: &Extensions) -> Preconditions {
    extensions.get().cloned().unwrap_or_default()
}

/// Handles a request to a route of the API under its conditions. Passes those of an update on.
pub(crate) async fn evaluate(
    state: &AppState,
    route: &Route,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let method = request.method();
    let conditions = Preconditions::of(method, request.headers()).map_err(ApiError::from)?;
    if conditions.is_empty() || !route.allows(method) {
        return Ok(next.run(request).await);
    }
    if matches!(*method, Method::GET | Method::HEAD) {
        let response = conditions.select(next.run(request).await);
        return Ok(response.map_err(ApiError::from)?.map(Body::new));
    }
    if &*route.pattern == PRODUCT {
        request.extensions_mut().insert(conditions);
    } else if let Err(rejection) = conditions.check(Some(&Validators::default())) {
        let path = request.uri().path();
        return Err(missing_product(state, path)
            .await
            .unwrap_or_else(|| rejection.into()));
    }
    Ok(next.run(request).await)
}

/// Returns 404 if a path contains a product that does not exist: that matters more than a condition.
async fn missing_product(state: &AppState, path: &str) -> Option<ApiError> {
    if !path.starts_with("/api/products/") || path == "/api/products/" {
        return None;
    }
    let id = match ProductId::parse(path) {
        Ok(ProductId(id)) => id,
        Err(error) => return Some(error),
    };
    match state.storage.get(id).await {
        Ok(Some(_)) => None,
        Ok(None) => Some(ApiError::product_not_found()),
        Err(error) => Some(error.into()),
    }
}
