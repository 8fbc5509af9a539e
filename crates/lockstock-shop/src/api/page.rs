//! Pages of a product's ledger.

use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::api::products::existence::ensure_exists;
use crate::drf::query::ListQuery;
use crate::error::ApiError;
use crate::state::AppState;
use crate::storage::{EntryFilter, LedgerEntry};

/// Returns one page of the ledger of `product`, each entry as a `T`.
pub(crate) async fn ledger_page<T: From<LedgerEntry> + Serialize>(
    state: &AppState,
    query: &ListQuery,
    product: i64,
    filter: EntryFilter,
) -> Result<Response, ApiError> {
    let count = state.storage.count_entries(product, filter).await?;
    if count == 0 {
        ensure_exists(state, product).await?;
    }
    let range = query.range(count)?;
    let entries = state
        .storage
        .entries(product, filter, range.limit(), range.offset())
        .await?;
    let results = entries.into_iter().map(T::from).collect();
    Ok(axum::Json(query.page(range, count, results)).into_response())
}
