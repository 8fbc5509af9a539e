//! The pages of the live board, in HTML: `/` and `/products/{id}/`, and their files.

mod files;
mod filter;
mod page;
mod replicas;

use askama::Template;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY,
};
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lockstock_http::Language;
use tracing::{debug, error};

use self::filter::{Filter, parameter};
use self::page::{Board, EntryRow, EpisodeRow, LockRow, Missing, Page, Product, ProductRow};
use crate::access::WritesNeedKey;
use crate::error::ApiError;
use crate::http::static_file::HTML;
use crate::state::AppState;
use crate::storage::{Column, Direction, EntryFilter, ProductQuery};

/// Keeps a window that another origin opens apart from the page.
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// Number of rows of a table.
const MAX_PRODUCTS: i64 = 500;
const MAX_ENTRIES: i64 = 100;
const MAX_EPISODES: usize = 200;

/// Returns the routes of the files and of all pages but `/`, and the route to other servers if any is
/// listed.
pub(crate) fn routes(state: &AppState) -> Router<AppState> {
    let routes = files::routes().route("/products/{id}/", get(product));
    match state.replicas {
        Some(_) => routes.merge(replicas::routes()),
        None => routes,
    }
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
    let filter = Filter::of(&request.uri);
    let products: Vec<_> = products.iter().map(ProductRow::from).collect();
    let (locks, has_all_locks) = locks(state, &filter, &products).await;
    let episodes = state.live.episodes();
    let board = Board {
        page: page.clone(),
        locks,
        has_all_locks,
        episodes: episodes
            .iter()
            .filter(|episode| filter.has_episode(episode))
            .take(MAX_EPISODES)
            .map(|episode| EpisodeRow::of(episode, &page))
            .collect(),
        filter,
        products,
        product_count,
        replicas: state.replicas.iter().flat_map(|it| it.names()).collect(),
    };
    html(StatusCode::OK, &page, &board)
}

/// Returns the locks that match the filter, and whether these are all. A lock with exactly the name of
/// the filter is found even if the list of all locks is incomplete.
async fn locks(state: &AppState, filter: &Filter, products: &[ProductRow]) -> (Vec<LockRow>, bool) {
    let mut list = state.live.list().await;
    let is_listed = list.locks.iter().any(|lock| lock.name == filter.lock);
    if !filter.lock.is_empty() && !is_listed {
        match state.live.lock(&filter.lock).await {
            Ok(found) => list.locks.extend(found.locks),
            Err(error) => debug!(%error, "a lock of the filter was not found"),
        }
    }
    let locks = list
        .locks
        .iter()
        .filter(|lock| filter.has_lock(lock, list.at));
    let locks = locks.map(|lock| LockRow::of(lock, list.at, products));
    (locks.collect(), list.complete)
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
        needs_key: request.extensions.get::<WritesNeedKey>().is_some(),
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
