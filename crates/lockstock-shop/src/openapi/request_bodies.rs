//! What clients send. No text has a NUL; of a name, the white space around it does not count,
//! and without it there are 1 to 200 characters.

use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

/// What a client sends to create a product or, with PUT, to replace it.
#[derive(ToSchema)]
pub(crate) struct ProductRequest {
    #[schema(schema_with = name)]
    name: String,
    #[schema(required = false, pattern = r"^[^\u0000]*$")]
    description: String,
    /// In minor units: cents, won.
    #[schema(minimum = 0, maximum = 2147483647, example = 49900)]
    price: i64,
    #[schema(minimum = 0, maximum = 2147483647, required = false, example = 10)]
    stock: i64,
}

/// What a client sends to change a product: any of its fields.
#[derive(ToSchema)]
pub(crate) struct ProductPatch {
    #[schema(schema_with = name, required = false)]
    name: String,
    #[schema(required = false, pattern = r"^[^\u0000]*$")]
    description: String,
    /// In minor units: cents, won.
    #[schema(minimum = 0, maximum = 2147483647, required = false)]
    price: i64,
    #[schema(minimum = 0, maximum = 2147483647, required = false, example = 9)]
    stock: i64,
}

/// What a client sends to buy.
#[derive(ToSchema)]
pub(crate) struct PurchaseRequest {
    #[schema(minimum = 1, example = 1)]
    quantity: i64,
}

/// What a client sends to set stock aside.
#[derive(ToSchema)]
pub(crate) struct ReservationRequest {
    #[schema(minimum = 1, example = 1)]
    quantity: i64,
    /// For how long, in seconds.
    #[schema(minimum = 1, required = false)]
    hold: i64,
}

/// What a client sends to hold for longer.
#[derive(ToSchema)]
pub(crate) struct ExtendRequest {
    /// In seconds from now on.
    #[schema(minimum = 1, required = false)]
    hold: i64,
}

/// What `python::strip` removes. Not `\s`, which is another set in each language.
const SPACE: &str =
    r"\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000";

fn name() -> Object {
    let seen = format!(r"[^\u0000{SPACE}]");
    let pattern = format!(r"^[{SPACE}]*{seen}([^\u0000]{{0,198}}{seen})?[{SPACE}]*$");
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(
            "1 to 200 characters, not counting white space around them.",
        ))
        .pattern(Some(pattern))
        .examples(["Canvas sneakers"])
        .build()
}
