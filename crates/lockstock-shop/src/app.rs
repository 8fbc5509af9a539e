//! The shop as one thing: what every handler sees, and the routes together.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use lockstock::Store;
use lockstock_http::LockLayer;
use metrics_exporter_prometheus::PrometheusHandle;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::body::BodyLimits;
use crate::document::{BadQuery, Busy, Detail, Invalid, NotSold, Problem, Stale, complete};
use crate::fields::Whole;
use crate::keys::Keys;
use crate::refusal::Refusal;
use crate::storage::Storage;
use crate::{docs_page, face, ledger, operate, places, products, purchases, reservations};

/// What every handler sees. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shop(Arc<Parts>);

pub(crate) struct Parts {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) store: Store,
    /// Whose turn it is to change a product.
    pub(crate) turns: LockLayer<Body>,
    pub(crate) keys: Keys,
    pub(crate) settings: Settings,
    pub(crate) metrics: PrometheusHandle,
    /// Told to stop: still serving, but not to be sent more.
    pub(crate) draining: AtomicBool,
    /// API requests under way.
    pub(crate) in_flight: AtomicUsize,
}

/// How requests are treated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) body: BodyLimits,
    pub(crate) request_timeout: Duration,
    pub(crate) most_in_flight: usize,
    pub(crate) require_if_match: bool,
    /// How many of a product one request may ask for.
    pub(crate) most_quantity: i64,
    /// For how long stock is set aside if the request does not say, and at most.
    pub(crate) usual_hold: Duration,
    pub(crate) most_hold: Duration,
    /// For how long an idempotency key is remembered.
    pub(crate) key_retention: Duration,
}

impl Settings {
    /// How a quantity is read.
    pub(crate) fn quantity(&self) -> Whole {
        Whole {
            required: true,
            least: 1,
            most: self.most_quantity,
        }
    }

    /// How a hold is read, in seconds.
    pub(crate) fn hold(&self) -> Whole {
        Whole {
            required: false,
            least: 1,
            most: i64::try_from(self.most_hold.as_secs()).unwrap_or(i64::MAX),
        }
    }
}

impl Shop {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Deref for Shop {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

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
        .merge(operate::routes())
        .split_for_parts();
    let document = complete(document, &shop.settings).to_json();
    let document = document.expect("an OpenAPI document is valid JSON");
    router
        .merge(docs_page::routes(document))
        .fallback(elsewhere)
        .method_not_allowed_fallback(async |request: Request| {
            Refusal::method(request.method().as_str())
        })
        .layer(middleware::from_fn_with_state(shop.clone(), face::answer))
        .with_state(shop)
}

/// Nothing is here; but if there is something behind a slash, the client is sent on. 308 and
/// not DRF's 301, after which most clients repeat a PATCH as a GET, without its body.
async fn elsewhere(request: Request) -> Response {
    let uri = request.uri();
    let path = format!("{}/", uri.path());
    if !uri.path().ends_with('/') && places::of(&path).is_some() {
        let query = uri
            .query()
            .map_or(String::new(), |query| format!("?{query}"));
        if let Ok(place) = HeaderValue::try_from(path + &query) {
            return (StatusCode::PERMANENT_REDIRECT, [(LOCATION, place)]).into_response();
        }
    }
    Refusal::not_found().into_response()
}
