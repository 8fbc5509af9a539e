//! The parts of the document that depend on the settings of the server.

use std::time::Duration;

use utoipa::Number;
use utoipa::openapi::path::Parameter;
use utoipa::openapi::schema::{Object, Schema};
use utoipa::openapi::{OpenApi, RefOr};

use super::operations;
use crate::settings::Settings;

/// Adds the limits of this server.
pub(super) fn add(document: &mut OpenApi, settings: &Settings) {
    let max_quantity = settings.quantity_field().max_value;
    for body in ["PurchaseRequest", "ReservationRequest"] {
        if let Some(field) = field(document, body, "quantity") {
            field.maximum = Some(number(max_quantity));
        }
    }
    let max_ttl_secs = settings.reservation_ttl_field().max_value;
    let ttl_secs = settings.reservation_ttl.as_secs();
    for body in ["ReservationRequest", "ExtendRequest"] {
        if let Some(field) = field(document, body, "hold") {
            field.maximum = Some(number(max_ttl_secs));
            field.default = Some(ttl_secs.into());
            field.example = Some(ttl_secs.into());
        }
    }
    let retention = in_words(settings.key_retention);
    let max_bytes = settings.body.max_bytes;
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        for parameter in operation.parameters.iter_mut().flatten() {
            if let RefOr::T(parameter) = parameter
                && parameter.name == "Idempotency-Key"
            {
                append(
                    parameter,
                    &format!("The response is stored for {retention}."),
                );
            }
        }
        if let Some(RefOr::T(too_large)) = operation.responses.responses.get_mut("413") {
            too_large.description += &format!(" The limit of this server is {max_bytes} bytes.");
        }
    }
}

/// Formats a duration in the units of prose: `1 day 12 hours`.
fn in_words(duration: Duration) -> String {
    let units = [
        ("day", 86_400_000),
        ("hour", 3_600_000),
        ("minute", 60_000),
        ("second", 1000),
        ("millisecond", 1),
    ];
    let mut rest_ms = duration.as_millis();
    let mut parts = Vec::new();
    for (unit, size_ms) in units {
        let count = rest_ms / size_ms;
        rest_ms %= size_ms;
        match count {
            0 => {}
            1 => parts.push(format!("1 {unit}")),
            _ => parts.push(format!("{count} {unit}s")),
        }
    }
    parts.join(" ")
}

fn append(parameter: &mut Parameter, sentence: &str) {
    let description = parameter.description.get_or_insert_default();
    *description = format!("{description} {sentence}");
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

fn number(maximum: i64) -> Number {
    Number::Int(isize::try_from(maximum).unwrap_or(isize::MAX))
}
