//! What `http/middleware.rs` does to every answer, and what a request to anywhere in the API can hear.

use utoipa::IntoResponses;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{Object, Type};
use utoipa::openapi::{Content, Header, OpenApi, Ref, RefOr, Response};

use super::error_responses::ErrorDetail;
use super::{has_parameter, operations};
use crate::http::routes;

/// How any request to the API can be refused.
#[derive(IntoResponses)]
enum CommonErrors {
    /// The request does not name exactly one Host.
    #[response(status = 400)]
    Host(ErrorDetail),
    /// The client reads nothing that is written here.
    #[response(status = 406)]
    NotAcceptable(ErrorDetail),
    /// The database or, for a change of a product, the locks do not answer, or there is too
    /// much to do: see Retry-After.
    #[response(status = 503)]
    Unavailable(ErrorDetail),
}

/// Adds it to every operation.
pub(super) fn add(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let allow = routes::allowed_methods(item);
        for operation in operations(item) {
            if path.starts_with("/api/") {
                add_errors(operation);
                add_headers(operation, &allow);
            }
            for (_, response) in answers(operation) {
                let id = text("The request's own, or a new one. The log has it too.");
                set(response, "X-Request-Id", always(id));
            }
        }
    }
}

fn add_errors(operation: &mut Operation) {
    for (status, response) in CommonErrors::responses() {
        let responses = &mut operation.responses.responses;
        responses.entry(status).or_insert(response);
    }
    for (status, response) in answers(operation) {
        if status >= 400 {
            let problem = Content::new(Some(Ref::from_schema_name("Problem")));
            let name = "application/problem+json".to_owned();
            response.content.insert(name, RefOr::T(problem));
        }
    }
}

fn add_headers(operation: &mut Operation, allow: &str) {
    let keyed = has_parameter(operation, "Idempotency-Key");
    for (status, response) in answers(operation) {
        let here = text(&format!("What can be done here: `{allow}`"));
        let accept = text("`Accept`; also `Accept-Language` where what it says depends on that");
        for (name, header) in [("Allow", here), ("Vary", accept)] {
            // Where an id can be none at all, nothing is, and nothing can be done.
            let header = if status < 400 { always(header) } else { header };
            set(response, name, header);
        }
        match status {
            429 | 503 => set(response, "Retry-After", always(seconds())),
            409 if keyed => set(response, "Retry-After", seconds()),
            200..300 if keyed => {
                let again = text("`true` if this is what was answered the first time");
                set(response, "Idempotent-Replayed", again);
            }
            _ => {}
        }
    }
}

fn set(response: &mut Response, name: &str, header: Header) {
    response.headers.insert(name.to_owned(), header.into());
}

/// The answers that are written out, which all of ours are, and their status.
fn answers(operation: &mut Operation) -> impl Iterator<Item = (u16, &mut Response)> {
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
    header(Type::Integer, "In how many seconds to try again")
}

fn header(of: Type, description: &str) -> Header {
    let mut header = Header::new(Object::with_type(of));
    header.description = Some(description.to_owned());
    header
}

/// A header that is never missing. `utoipa` has no field for that, but writes extensions
/// beside the others.
fn always(mut header: Header) -> Header {
    header.extensions = Some(Extensions::from_iter([("required", true)]));
    header
}
