//! What the OpenAPI document says beyond the handlers' signatures: the bodies they read in
//! three formats, their parameters, and the answers that several of them share.

#![expect(
    dead_code,
    non_snake_case,
    reason = "read by derives only; parameters are named as clients write them"
)]

mod error_responses;
mod limits;
mod operations;
mod parameters;
pub(crate) mod request_bodies;

use utoipa::openapi::path::Operation;
use utoipa::openapi::{OpenApi, PathItem, RefOr, Required};

pub(crate) use self::error_responses::{
    BodyErrors, Busy, ErrorDetail, IdempotencyErrors, OrderConflict, Problem, QueryErrors,
    ReservationErrors, Stale, StockErrors, UpdateErrors, ValidationErrors,
};
pub(crate) use self::parameters::{
    AnyProductPathParams, IdempotencyKeyParam, IfMatchParam, IfNoneMatchParam, ListParams,
    PageParams, ProductPathParams, PurchasePathParams, ReservationPathParams,
};
pub(crate) use self::request_bodies::{ExtendRequest, PurchaseRequest, ReservationRequest};
use crate::settings::Settings;

/// Adds to what the handlers say what holds for all of them, on this server.
pub(crate) fn complete(mut document: OpenApi, settings: &Settings) -> OpenApi {
    operations::add(&mut document);
    limits::add(&mut document, settings);
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        // An empty body is an empty form: none need be sent where no field is required.
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
