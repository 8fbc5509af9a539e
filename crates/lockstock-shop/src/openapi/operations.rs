//! What every operation has in common: the errors and headers that the middleware adds.

use utoipa::IntoResponses;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{Object, Type};
use utoipa::openapi::{Content, Header, OpenApi, Ref, RefOr, Response};

use super::error_responses::ErrorDetail;
use super::{has_parameter, operations};
use crate::http::routes;

/// The errors of any request to the API.
#[derive(IntoResponses)]
enum CommonErrors {
    /// The request does not name exactly one Host, or If-Match is neither `*` nor a list of entity
    /// tags (`precondition_malformed`).
    #[response(status = 400)]
    Head(ErrorDetail),
    /// The client accepts no format of the API.
    #[response(status = 406)]
    NotAcceptable(ErrorDetail),
    /// A condition of the request is not met (`precondition_failed`): If-Match names an entity tag
    /// that the resource does not have, or If-None-Match one that it has. Only products have
    /// entity tags.
    #[response(status = 412)]
    Condition(ErrorDetail),
    /// The database is unavailable or, for an update of a product, the lock store is; or too
    /// many requests are in progress. See Retry-After.
    #[response(status = 503)]
    Unavailable(ErrorDetail),
}

/// Adds the common errors and headers to every operation.
pub(super) fn add(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let allow = routes::allowed_methods(item);
        for operation in operations(item) {
            if path.starts_with("/api/") {
                add_errors(operation);
                add_headers(operation, &allow);
            }
            for (_, response) in responses(operation) {
                let id = text("The id of the request, or a new one. The log contains it too.");
                set(response, "X-Request-Id", required(id));
            }
        }
    }
}

fn add_errors(operation: &mut Operation) {
    for (status, response) in CommonErrors::responses() {
        let responses = &mut operation.responses.responses;
        responses.entry(status).or_insert(response);
    }
    for (status, response) in responses(operation) {
        if status >= 400 {
            let problem = Content::new(Some(Ref::from_schema_name("Problem")));
            let name = "application/problem+json".to_owned();
            response.content.insert(name, RefOr::T(problem));
        }
    }
}

fn add_headers(operation: &mut Operation, allow: &str) {
    let is_idempotent = has_parameter(operation, "Idempotency-Key");
    for (status, response) in responses(operation) {
        let methods = text(&format!("The methods of this route: `{allow}`"));
        // A 404 for a malformed id has no route, and so no methods.
        let (methods, varies_by) = if status < 400 {
            (required(methods), "`Accept`")
        } else {
            (methods, "`Accept` and `Accept-Language`")
        };
        set(response, "Allow", methods);
        set(response, "Vary", required(text(varies_by)));
        match status {
            429 | 503 => set(response, "Retry-After", required(seconds())),
            409 if is_idempotent => set(response, "Retry-After", seconds()),
            200..300 if is_idempotent => {
                let replayed =
                    text("`true` if this is the recorded response to an earlier request");
                set(response, "Idempotent-Replayed", replayed);
            }
            _ => {}
        }
    }
}

fn set(response: &mut Response, name: &str, header: Header) {
    response.headers.insert(name.to_owned(), header.into());
}

/// Returns the responses with their status. None of them is a reference.
fn responses(operation: &mut Operation) -> impl Iterator<Item = (u16, &mut Response)> {
    let responses = operation.responses.responses.iter_mut();
    responses.filter_map(|(status, response)| match response {
        RefOr::T(response) => Some((status.parse().ok()?, response)),
        RefOr::Ref(_) => None,
    })
}

fn text(description: &str) -> Header {
    header(Type::String, description)
}

fn seconds() -> Header {
    header(Type::Integer, "Seconds until a retry can succeed")
}

fn header(of: Type, description: &str) -> Header {
    let mut header = Header::new(Object::with_type(of));
    header.description = Some(description.to_owned());
    header
}

/// Marks a header as required. `utoipa` has no field for that, but serializes extensions beside
/// its fields.
fn required(mut header: Header) -> Header {
    header.extensions = Some(Extensions::from_iter([("required", true)]));
    header
}
