//! The routers: all routes, their OpenAPI document, and the middleware around them.

use std::sync::Arc;

use axum::Router;
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa::OpenApi;
use utoipa::openapi::Server;
use utoipa_axum::router::OpenApiRouter;

use crate::access::Access;
use crate::api::index::{self, Served};
use crate::api::ledger::LedgerEntryResponse;
use crate::api::{health, ledger, locks, products, purchases, reservations};
use crate::board;
use crate::error::ApiError;
use crate::http::docs_page;
use crate::http::middleware::cors::CorsOrigin;
use crate::http::middleware::{self, Middleware};
use crate::http::routes::Routes;
use crate::live::wire::{Frame, Snapshot};
use crate::openapi::{
    Busy, ErrorDetail, OrderConflict, Problem, QueryErrors, Stale, ValidationErrors, complete,
};
use crate::state::AppState;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Lockstock",
        description = "A stock API whose updates are applied exactly once. Of several identical \
            concurrent requests one succeeds; the others are rejected within milliseconds, with \
            the time at which to retry.\n\n\
            Errors are JSON with a human-readable `detail` and, unless Django REST framework \
            defines the error, a machine-readable `code`. With \
            `Accept: application/problem+json` they are RFC 9457 problem details. Messages are in \
            Korean if `Accept-Language` prefers it, and in English otherwise.\n\n\
            As in Django REST framework, a number can also be sent as a string (`\"9\"`), and a \
            string that is a number as a number; a malformed id is 404; and unknown fields and \
            parameters are ignored.",
    ),
    tags(
        (name = "products", description = "Products and their stock"),
        (name = "purchases", description = "Purchases: never more than the stock"),
        (name = "reservations", description = "Stock that is set aside until a deadline"),
        (name = "ledger", description = "Every change of a product, append-only"),
        (name = "locks", description = "Who holds, keeps and waits for the locks, now"),
        (name = "operation", description = "Health and metrics, for operators"),
    ),
    // Schemas of errors, and of the items of pages, to which no operation refers directly.
    components(schemas(
        QueryErrors,
        Busy,
        ErrorDetail,
        LedgerEntryResponse,
        ValidationErrors,
        OrderConflict,
        Problem,
        Stale,
        Frame,
        Snapshot
    )),
)]
struct Document;

/// The routers of the listeners.
pub(crate) struct Routers {
    pub(crate) api: Router,
    /// Everything, if operators have a listener of their own. The API's then has no metrics and no
    /// documentation.
    pub(crate) operation: Option<Router>,
}

/// Builds the routers of the server. Pages of `cors_origins` may call the API. `access` are the rules
/// of the API, and `operation` those of the listener for operators, if there is one.
pub(crate) fn routers(
    state: &AppState,
    cors_origins: Vec<CorsOrigin>,
    access: Access,
    operation: Option<Access>,
) -> Routers {
    let (api, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .merge(products::routes(state))
        .merge(purchases::routes(state))
        .merge(reservations::routes(state))
        .merge(ledger::routes())
        .merge(locks::routes())
        .merge(health::probes())
        .split_for_parts();
    let (metrics, of_metrics) = health::metrics_route().split_for_parts();
    document.merge(of_metrics);
    let routes = Arc::new(Routes::from_openapi(&document));
    let public_url = state.forwarding.public_url.as_ref();
    let mut document = complete(document, &state.settings, public_url, &access);
    if let (Some(_), Some(servers)) = (&operation, &mut document.servers) {
        // A page of this listener may not call another one.
        servers.insert(0, Server::new("/"));
    }
    let document = document.to_json();
    let document = document.expect("an OpenAPI document is valid JSON");
    let for_operators = metrics
        .merge(docs_page::routes(document))
        .merge(board::routes(state));
    let middleware = Middleware {
        state: state.clone(),
        routes,
        cors_origins: cors_origins.into(),
        access,
        has_pages: operation.is_none(),
    };
    let Some(access) = operation else {
        let everything = api.merge(for_operators);
        return Routers {
            api: finish(everything, Served::Everything, middleware),
            operation: None,
        };
    };
    let of_operation = Middleware {
        cors_origins: Arc::default(),
        access,
        has_pages: true,
        ..middleware.clone()
    };
    Routers {
        operation: Some(finish(
            for_operators.merge(api.clone()),
            Served::Operation,
            of_operation,
        )),
        api: finish(api, Served::Api, middleware),
    }
}

/// Adds what the routers of all listeners have.
fn finish(router: Router<AppState>, served: Served, middleware: Middleware) -> Router {
    let state = middleware.state.clone();
    let routes = middleware.routes.clone();
    let redirect = async move |uri: Uri| redirect_to_slash(&routes, &uri);
    router
        .route(
            "/",
            get(move |state, request| index::index(served, state, request)),
        )
        .fallback(redirect)
        .method_not_allowed_fallback(async |method: Method| {
            ApiError::method_not_allowed(method.as_str())
        })
        .layer(from_fn_with_state(middleware, middleware::handle))
        .with_state(state)
}

/// Redirects to the same path with a trailing slash if there is such a route. The status is 308
/// and not DRF's 301, after which most clients repeat a PATCH as a GET without its body.
fn redirect_to_slash(routes: &Routes, uri: &Uri) -> Response {
    let path = format!("{}/", uri.path());
    if !uri.path().ends_with('/') && routes.find(&path).is_some() {
        let query = uri
            .query()
            .map_or(String::new(), |query| format!("?{query}"));
        if let Ok(location) = HeaderValue::try_from(path + &query) {
            return (StatusCode::PERMANENT_REDIRECT, [(LOCATION, location)]).into_response();
        }
    }
    ApiError::not_found().into_response()
}
