//! What the settings of this server make of the document.

use utoipa::Number;
use utoipa::openapi::path::Parameter;
use utoipa::openapi::schema::{Object, Schema};
use utoipa::openapi::{OpenApi, RefOr};

use super::operations;
use crate::settings::Settings;

/// Says what this server allows at most.
pub(super) fn add(document: &mut OpenApi, settings: &Settings) {
    let quantity = settings.quantity_field().max_value;
    for body in ["PurchaseRequest", "ReservationRequest"] {
        if let Some(field) = field(document, body, "quantity") {
            field.maximum = Some(number(quantity));
        }
    }
    let hold = settings.reservation_ttl_field().max_value;
    let usual = settings.reservation_ttl.as_secs();
    for body in ["ReservationRequest", "ExtendRequest"] {
        if let Some(field) = field(document, body, "hold") {
            field.maximum = Some(number(hold));
            field.default = Some(usual.into());
            field.example = Some(usual.into());
        }
    }
    let retention = humantime::format_duration(settings.key_retention);
    let bytes = settings.body.max_bytes;
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        for parameter in operation.parameters.iter_mut().flatten() {
            if let RefOr::T(parameter) = parameter
                && parameter.name == "Idempotency-Key"
            {
                say(parameter, &format!("Remembered for {retention}."));
            }
        }
        if let Some(RefOr::T(too_large)) = operation.responses.responses.get_mut("413") {
            too_large.description += &format!(" This server reads {bytes} bytes.");
        }
    }
}

fn say(parameter: &mut Parameter, more: &str) {
    let said = parameter.description.get_or_insert_default();
    *said = format!("{said} {more}");
}

fn field<'a>(document: &'a mut OpenApi, body: &str, name: &str) -> Option<&'a mut Object> {
    let schemas = &mut document.components.as_mut()?.schemas;
    let RefOr::T(Schema::Object(body)) = schemas.get_mut(body)? else {
        return None;
    };
    match body.properties.get_mut(name)? {
        RefOr::T(Schema::Object(field)) => Some(field),
        _ => None,
    }
}

fn number(most: i64) -> Number {
    Number::Int(isize::try_from(most).unwrap_or(isize::MAX))
}
