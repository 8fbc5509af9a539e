//! The API keys of a server that requires them: the security schemes, the scope that each
//! operation needs, and its errors.

use axum::http::Method;
use utoipa::IntoResponses;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{OpenApi, PathItem};

use super::error_responses::ErrorDetail;
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

/// Adds the security schemes, and to each operation the scope that it needs.
pub(super) fn add(document: &mut OpenApi) {
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
