//! The route that relays an update of a product to another server of the shop, for the race: a page
//! may send requests to its own origin only.
//!
//! Guarantees:
//! - nothing but a PATCH of one product is relayed, and only to a server that the operator lists;
//! - of the headers only those listed here are passed on, in both directions, so no cookie is;
//! - a redirect is an error, and no request is sent twice.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    ACCEPT, ACCEPT_LANGUAGE, AUTHORIZATION, CONTENT_LANGUAGE, CONTENT_TYPE, ETAG, IF_MATCH,
    RETRY_AFTER, VARY,
};
use axum::http::{HeaderMap, HeaderName};
use axum::response::Response;
use axum::routing::patch;
use tracing::warn;

use crate::access::API_KEY;
use crate::drf::body::{self, BodyUse};
use crate::error::ApiError;
use crate::http::request_context::{REQUEST_ID, RequestId};
use crate::replicas::RELAY_PATH;
use crate::state::AppState;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The headers of a request that the other server gets, beside the id of the request.
const OF_REQUEST: [HeaderName; 7] = [
    ACCEPT,
    ACCEPT_LANGUAGE,
    AUTHORIZATION,
    CONTENT_TYPE,
    IDEMPOTENCY_KEY,
    IF_MATCH,
    API_KEY,
];

/// The headers of a response that the page gets.
const OF_RESPONSE: [HeaderName; 6] = [
    CONTENT_LANGUAGE,
    CONTENT_TYPE,
    ETAG,
    IDEMPOTENT_REPLAYED,
    RETRY_AFTER,
    VARY,
];

pub(super) fn routes() -> Router<AppState> {
    let path = format!("{RELAY_PATH}{{index}}/products/{{id}}/");
    Router::new().route(&path, patch(update))
}

/// Sends the body to the server with this index, and returns what it responds.
async fn update(
    State(state): State<AppState>,
    Path((index, id)): Path<(String, String)>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let (Some(replicas), Ok(index), Ok(id)) = (&state.replicas, index.parse(), id.parse()) else {
        return Err(ApiError::not_found());
    };
    let relayed = replicas.patch(index, id).ok_or_else(ApiError::not_found)?;
    let body = body::read(&parts.headers, body, BodyUse::Ignored, state.settings.body).await?;
    let mut headers = selected(&parts.headers, &OF_REQUEST);
    if let Some(RequestId(request_id)) = parts.extensions.get()
        && let Ok(request_id) = request_id.parse()
    {
        headers.insert(REQUEST_ID, request_id);
    }
    let response = relayed.headers(headers).body(body).send().await;
    let response = response.map_err(|error| not_relayed(index, error))?;
    if response.status().is_redirection() {
        warn!(
            replica = index,
            status = response.status().as_u16(),
            "a replica redirects"
        );
        return Err(ApiError::replica_redirects());
    }
    let (head, body) = axum::http::Response::from(response).into_parts();
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = head.status;
    *response.headers_mut() = selected(&head.headers, &OF_RESPONSE);
    Ok(response)
}

/// Returns the headers with these names.
fn selected(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let named = |name| headers.get_all(name).iter().map(move |value| (name, value));
    let found = names.iter().flat_map(named);
    found
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Logs why there is no response, and returns what it means for the client.
fn not_relayed(index: usize, error: reqwest::Error) -> ApiError {
    let relayed = if error.is_connect() {
        ApiError::replica_unreachable()
    } else if error.is_timeout() {
        ApiError::replica_timeout()
    } else {
        ApiError::replica_failed()
    };
    let error = anyhow::Error::from(error.without_url());
    warn!(
        replica = index,
        error = format!("{error:#}"),
        "a replica did not respond"
    );
    relayed
}
