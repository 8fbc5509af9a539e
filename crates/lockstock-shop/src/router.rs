//! The routes together.

use axum::Router;
use axum::extract::Request;
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::api::{health, ledger, products, purchases, reservations};
use crate::error::ApiError;
use crate::http::{middleware, routes};
use crate::openapi::{
    Busy, ErrorDetail, OrderConflict, Problem, QueryErrors, Stale, ValidationErrors, complete,
};
use crate::state::AppState;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Lockstock",
        description = "A stock API whose updates are applied exactly once. Of several identical \
            requests at once one succeeds; the others are told in milliseconds when to come back.\n\n\
            Refusals are JSON with a `detail` for people and, where it is not one of Django REST \
            framework's own, a `code` for programs; with `Accept: application/problem+json` they \
            are RFC 9457 problem details.\n\n\
            As in Django REST framework, a number can also be sent as a text (`\"9\"`), and a \
            text that is a number as a number; what is not the id of anything is 404; and \
            fields and parameters that nobody knows are passed over.",
    ),
    tags(
        (name = "products", description = "What is sold"),
        (name = "purchases", description = "What was sold: never more than there was"),
        (name = "reservations", description = "Stock set aside until a time"),
        (name = "ledger", description = "Every change of a product, append only"),
        (name = "operation", description = "For those who run the server"),
    ),
    // Those that only refusals have.
    components(schemas(QueryErrors, Busy, ErrorDetail, ValidationErrors, OrderConflict, Problem, Stale)),
)]
struct Document;

/// Every route of the server.
pub(crate) fn router(state: AppState) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .merge(products::routes(&state))
        .merge(purchases::routes(&state))
        .merge(reservations::routes(&state))
        .merge(ledger::routes())
        .merge(health::routes())
        .split_for_parts();
    let docs = SwaggerUi::new("/docs")
        .config(Config::default().try_it_out_enabled(true))
        .url("/openapi.json", complete(document, &state.settings));
    router
        .merge(docs)
        .fallback(elsewhere)
        .method_not_allowed_fallback(async |request: Request| {
            ApiError::method_not_allowed(request.method().as_str())
        })
        .layer(from_fn_with_state(state.clone(), middleware::handle))
        .with_state(state)
}

/// Nothing is here; but if there is something behind a slash, the client is sent on. 308 and
/// not DRF's 301, after which most clients repeat a PATCH as a GET, without its body.
async fn elsewhere(request: Request) -> Response {
    let uri = request.uri();
    let path = format!("{}/", uri.path());
    if !uri.path().ends_with('/') && routes::find(&path).is_some() {
        let query = uri
            .query()
            .map_or(String::new(), |query| format!("?{query}"));
        if let Ok(place) = HeaderValue::try_from(path + &query) {
            return (StatusCode::PERMANENT_REDIRECT, [(LOCATION, place)]).into_response();
        }
    }
    ApiError::not_found().into_response()
}
