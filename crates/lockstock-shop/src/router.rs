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
use crate::error::Refusal;
use crate::http::{middleware, routes};
use crate::openapi::{BadQuery, Busy, Detail, Invalid, NotSold, Problem, Stale, complete};
use crate::state::Shop;

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
    components(schemas(BadQuery, Busy, Detail, Invalid, NotSold, Problem, Stale)),
)]
struct Document;

/// Every route of the server.
pub(crate) fn router(shop: Shop) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .merge(products::routes(&shop))
        .merge(purchases::routes(&shop))
        .merge(reservations::routes(&shop))
        .merge(ledger::routes())
        .merge(health::routes())
        .split_for_parts();
    let docs = SwaggerUi::new("/docs")
        .config(Config::default().try_it_out_enabled(true))
        .url("/openapi.json", complete(document, &shop.settings));
    router
        .merge(docs)
        .fallback(elsewhere)
        .method_not_allowed_fallback(async |request: Request| {
            Refusal::method(request.method().as_str())
        })
        .layer(from_fn_with_state(shop.clone(), middleware::answer))
        .with_state(shop)
}

/// Nothing is here; but if there is something behind a slash, the client is sent on. 308 and
/// not DRF's 301, after which most clients repeat a PATCH as a GET, without its body.
async fn elsewhere(request: Request) -> Response {
    let uri = request.uri();
    let path = format!("{}/", uri.path());
    if !uri.path().ends_with('/') && routes::of(&path).is_some() {
        let query = uri
            .query()
            .map_or(String::new(), |query| format!("?{query}"));
        if let Ok(place) = HeaderValue::try_from(path + &query) {
            return (StatusCode::PERMANENT_REDIRECT, [(LOCATION, place)]).into_response();
        }
    }
    Refusal::not_found().into_response()
}
