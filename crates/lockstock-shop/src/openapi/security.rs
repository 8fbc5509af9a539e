//! The rules of access of a server: the security schemes of its API keys, the scope that each
//! operation needs, its rate limit, and the errors of both.

use axum::http::Method;
use utoipa::IntoResponses;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{OpenApi, PathItem};

use super::error_responses::{Busy, ErrorDetail};
use crate::access::Requirement;

const BEARER: &str = "bearer";
const API_KEY: &str = "apiKey";

/// The errors of requests without a sufficient key.
#[derive(IntoResponses)]
enum AccessErrors {
    /// The request has no valid API key.
    #[response(status = 401, headers(("WWW-Authenticate" = String, description = "`Bearer`")))]
    NoKey(ErrorDetail),
    /// The scope of the API key does not include the operation.
    #[response(status = 403)]
    Scope(ErrorDetail),
}

/// The errors of too many requests.
#[derive(IntoResponses)]
enum RateErrors {
    /// The caller has sent too many requests (`rate_limited`). See Retry-After.
    #[response(status = 429)]
    TooMany(Busy),
}

/// Adds the errors of the rate limit.
pub(super) fn add_rate_limit(document: &mut OpenApi) {
    let items = document.paths.paths.iter_mut();
    for (_, item) in items.filter(|(path, _)| path.starts_with("/api/")) {
        for (_, operation) in operations(item) {
            for (status, response) in RateErrors::responses() {
                // An update has this status for its own reason already, with the same members.
                let responses = &mut operation.responses.responses;
                responses.entry(status).or_insert(response);
            }
        }
    }
}

/// Adds the security schemes, and to each operation the scope that it needs.
pub(super) fn add_keys(document: &mut OpenApi) {
    let components = document.components.get_or_insert_default();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "The secret of an API key. The scheme may also be `Token`.",
        ))
        .build();
    components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
    let header = ApiKeyValue::with_description("X-API-Key", "The secret of an API key.");
    components.add_security_scheme(API_KEY, SecurityScheme::ApiKey(ApiKey::Header(header)));
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            require(operation, Requirement::of(&method, path, true));
        }
    }
}

fn require(operation: &mut Operation, requirement: Requirement) {
    let Some(scope) = requirement.scope() else {
        return;
    };
    // The names of roles, which OpenAPI 3.1 allows for schemes that are not OAuth.
    let schemes = [BEARER, API_KEY];
    let requirements = schemes.map(|scheme| SecurityRequirement::new(scheme, [scope.name()]));
    operation.security = Some(requirements.into());
    for (status, response) in AccessErrors::responses() {
        operation.responses.responses.insert(status, response);
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let of_methods = [
        (Method::GET, &mut item.get),
        (Method::PUT, &mut item.put),
        (Method::POST, &mut item.post),
        (Method::DELETE, &mut item.delete),
        (Method::OPTIONS, &mut item.options),
        (Method::PATCH, &mut item.patch),
    ];
    let of_methods = of_methods.into_iter();
    of_methods.filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}
