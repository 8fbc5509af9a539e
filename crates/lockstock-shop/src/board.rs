//! The pages of the live board, in HTML: `/` and `/products/{id}/`, and their files.

mod files;
mod page;

use askama::Template;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    REFERRER_POLICY, VARY,
};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lockstock_http::Language;
use tracing::error;

use self::page::{Board, EntryRow, Filter, Missing, Page, Product, ProductRow};
use crate::access::Authenticated;
use crate::error::ApiError;
use crate::http::static_file::HTML;
use crate::state::AppState;
use crate::storage::{Column, Direction, EntryFilter, ProductQuery};

/// Keeps a window that another origin opens apart from the page.
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// Number of products and of ledger entries on a page.
const MAX_PRODUCTS: i64 = 500;
const MAX_ENTRIES: i64 = 100;

/// Returns the routes of the files and of all pages but `/`.
pub(crate) fn routes() -> Router<AppState> {
    files::routes().route("/products/{id}/", get(product))
}

/// Returns the board.
pub(crate) async fn board(state: &AppState, request: &Parts) -> Result<Response, ApiError> {
    let page = page(request, "./");
    let query = ProductQuery {
        order: vec![(Column::Id, Direction::Ascending)],
        ..ProductQuery::default()
    };
    let product_count = state.storage.count(&query).await?;
    let products = state.storage.list(&query, MAX_PRODUCTS, 0).await?;
    let parameter = |name| parameter(&request.uri, name).unwrap_or_default();
    let filter = Filter {
        lock: parameter("lock"),
        longer: parameter("longer"),
    };
    let board = Board {
        page: page.clone(),
        filter,
        locks: Vec::new(),
        has_all_locks: true,
        episodes: Vec::new(),
        products: products.iter().map(ProductRow::from).collect(),
        product_count,
    };
    html(StatusCode::OK, &page, &board)
}

/// Returns the page of a product.
async fn product(
    State(state): State<AppState>,
    Path(id): Path<String>,
    request: Parts,
) -> Result<Response, ApiError> {
    let page = page(&request, "../../");
    let found = match id.parse() {
        Ok(id) => state.storage.get(id).await?,
        Err(_) => None,
    };
    let Some(product) = found else {
        let missing = Missing { page: page.clone() };
        return html(StatusCode::NOT_FOUND, &page, &missing);
    };
    let entry_count = state
        .storage
        .count_entries(product.id, EntryFilter::All)
        .await?;
    let skipped = (entry_count - MAX_ENTRIES).max(0);
    let mut entries = state
        .storage
        .entries(product.id, EntryFilter::All, MAX_ENTRIES, skipped)
        .await?;
    entries.reverse();
    let product = Product {
        page: page.clone(),
        product: ProductRow::from(&product),
        description: product.description,
        entries: entries.into_iter().map(EntryRow::from).collect(),
        entry_count,
    };
    html(StatusCode::OK, &page, &product)
}

/// Returns whether the client is a browser that opens a page.
pub(crate) fn is_browser(request: &Parts) -> bool {
    let accept = request.headers.get(ACCEPT).map(HeaderValue::as_bytes);
    accept.is_some_and(|accept| accept.starts_with(b"text/html"))
}

fn page(request: &Parts, root: &'static str) -> Page {
    let chosen = parameter(&request.uri, "lang");
    let chosen = match chosen.as_deref() {
        Some("ko") => Some(Language::Korean),
        Some("en") => Some(Language::English),
        _ => None,
    };
    let language = chosen.unwrap_or_else(|| Language::preferred(&request.headers));
    let other = match language {
        Language::Korean => Language::English,
        _ => Language::Korean,
    };
    Page {
        language,
        root,
        assets: &files::VERSION,
        // A page requires a key exactly if the API does.
        needs_key: request.extensions.get::<Authenticated>().is_some(),
        chosen: chosen.map(Language::tag),
        other_query: query_in(&request.uri, other),
    }
}

/// Returns the query of the same page in another language.
fn query_in(uri: &Uri, language: Language) -> String {
    let parameters = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    form_urlencoded::Serializer::for_suffix(String::from("?"), 1)
        .extend_pairs(parameters.filter(|(name, _)| name != "lang"))
        .append_pair("lang", language.tag())
        .finish()
}

fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let mut parameters = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let (_, value) = parameters.find(|(found, _)| found == name)?;
    Some(value.into_owned())
}

fn html(status: StatusCode, page: &Page, template: &impl Template) -> Result<Response, ApiError> {
    let body = template.render().map_err(|error| {
        error!("cannot render a page: {error}");
        ApiError::internal()
    })?;
    let headers = [
        (CONTENT_TYPE, HTML),
        (CONTENT_LANGUAGE, page.language.tag()),
        (CONTENT_SECURITY_POLICY, files::SECURITY_POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (OPENER_POLICY, "same-origin"),
        (CACHE_CONTROL, "no-store"),
        (VARY, "Accept, Accept-Language"),
    ];
    Ok((status, headers, body).into_response())
}
