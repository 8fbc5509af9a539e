//! The parts of the OpenAPI document that operations share: request bodies, parameters, error
//! responses and headers.

#![expect(
    dead_code,
    non_snake_case,
    reason = "only derives read these types; parameters have the names of the wire"
)]

mod error_responses;
mod examples;
mod limits;
mod operations;
mod parameters;
pub(crate) mod request_bodies;
mod security;

use utoipa::openapi::path::Operation;
use utoipa::openapi::{OpenApi, PathItem, RefOr, Required, Server};

pub(crate) use self::error_responses::{
    BodyErrors, Busy, ErrorDetail, IdempotencyErrors, OrderConflict, Problem, QueryErrors,
    ReservationErrors, Stale, StockErrors, UpdateErrors, ValidationErrors,
};
pub(crate) use self::parameters::{
    AnyProductPathParams, IdempotencyKeyParam, IfMatchParam, IfNoneMatchParam, ListParams,
    PageParams, ProductPathParams, PurchasePathParams, ReservationPathParams,
};
pub(crate) use self::request_bodies::{ExtendRequest, PurchaseRequest, ReservationRequest};
use crate::access::Access;
use crate::forwarding::PublicUrl;
use crate::settings::Settings;

/// Adds what applies to every operation and what depends on the settings of this server.
pub(crate) fn complete(
    mut document: OpenApi,
    settings: &Settings,
    public_url: Option<&PublicUrl>,
    access: &Access,
) -> OpenApi {
    document.servers = public_url.map(|url| vec![Server::new(url.as_str())]);
    // First: the errors of every operation get what all errors have.
    if access.keys.is_some() {
        security::add_keys(&mut document);
    }
    if access.rate_limiter.is_some() {
        security::add_rate_limit(&mut document);
    }
    operations::add(&mut document);
    limits::add(&mut document, settings);
    examples::add(&mut document, settings);
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        // An empty body is an empty form, so that it is optional if no field is required.
        if let Some(RefOr::T(body)) = &mut operation.request_body
            && ["change_product", "extend"]
                .map(Some)
                .contains(&operation.operation_id.as_deref())
        {
            body.required = Some(Required::False);
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let of_methods = [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.options,
        &mut item.patch,
    ];
    of_methods.into_iter().flatten()
}

fn has_parameter(operation: &Operation, name: &str) -> bool {
    let mut parameters = operation.parameters.iter().flatten();
    parameters.any(|parameter| matches!(parameter, RefOr::T(it) if it.name == name))
}
