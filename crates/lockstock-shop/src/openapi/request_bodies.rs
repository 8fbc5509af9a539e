//! The schemas of request bodies.

use utoipa::ToSchema;
use utoipa::openapi::schema::{KnownFormat, Object, ObjectBuilder, SchemaFormat, Type};

use crate::drf::fields::{CharField, Completeness, Field, IntegerField};

/// The body of a request that buys.
#[derive(ToSchema)]
pub(crate) struct PurchaseRequest {
    #[schema(minimum = 1, example = 1)]
    quantity: i64,
}

/// The body of a request that reserves stock.
#[derive(ToSchema)]
pub(crate) struct ReservationRequest {
    #[schema(minimum = 1, example = 1)]
    quantity: i64,
    /// How long the reservation lasts, in seconds.
    #[schema(minimum = 1, required = false)]
    hold: i64,
}

/// The body of a request that extends a reservation.
#[derive(ToSchema)]
pub(crate) struct ExtendRequest {
    /// How long the reservation lasts from now on, in seconds.
    #[schema(minimum = 1, required = false)]
    hold: i64,
}

/// Builds the schema of a body with these fields. Read-only fields are left out.
pub(crate) fn object(description: &str, fields: &[Field], completeness: Completeness) -> Object {
    let mut object = ObjectBuilder::new().description(Some(description));
    for field in fields {
        let (name, required, property) = match field {
            Field::Char(field) => (field.name, field.required, text(field)),
            Field::Integer(field) => (field.name, field.required, integer(field)),
            Field::ReadOnly { .. } => continue,
        };
        object = object.property(name, property);
        if required && completeness == Completeness::Full {
            object = object.required(name);
        }
    }
    object.build()
}

/// Builds the schema of an integer.
pub(crate) fn integer(field: &IntegerField) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .description(field.description)
        .minimum(Some(field.min_value))
        .maximum(Some(field.max_value))
        .examples(field.example)
        .build()
}

/// The characters that `python::strip` removes. `\s` is a different set in each language.
const SPACE: &str =
    r"\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000";

fn text(field: &CharField) -> Object {
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .examples(field.example);
    let Some(max_length) = field.max_length else {
        return text.pattern(Some(r"^[^\u0000]*$")).build();
    };
    let visible = format!(r"[^\u0000{SPACE}]");
    let inner = max_length.saturating_sub(2);
    let trimmed = format!(r"{visible}([^\u0000]{{0,{inner}}}{visible})?");
    let optional = if field.allow_blank { "?" } else { "" };
    let pattern = format!(r"^[{SPACE}]*({trimmed}){optional}[{SPACE}]*$");
    let min_length = usize::from(!field.allow_blank);
    text.pattern(Some(pattern))
        .description(Some(format!(
            "{min_length} to {max_length} characters, not counting surrounding white space."
        )))
        .build()
}
