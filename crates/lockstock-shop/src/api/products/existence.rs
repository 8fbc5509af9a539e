//! Whether a product exists.

use crate::error::ApiError;
use crate::state::AppState;

/// Fails with 404 if the product does not exist. Called before a lock is acquired, so that
/// requests for products that do not exist create no locks.
pub(crate) async fn ensure_exists(state: &AppState, id: i64) -> Result<(), ApiError> {
    let product = state.storage.get(id).await?;
    product.map(drop).ok_or_else(ApiError::product_not_found)
}

/// Returns 404 if the product does not exist, and otherwise `error`.
pub(crate) async fn not_found_or(state: &AppState, id: i64, error: ApiError) -> ApiError {
    ensure_exists(state, id).await.err().unwrap_or(error)
}
