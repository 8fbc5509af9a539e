//! Parameters of paths, queries and headers.

use utoipa::IntoParams;
use utoipa::openapi::schema::{AnyOfBuilder, Object, ObjectBuilder, Schema, SchemaType, Type};
use uuid::Uuid;

/// The path of a reservation.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ReservationPathParams {
    /// Id of the product.
    #[param(example = 1)]
    id: i64,
    /// Id of the reservation.
    rid: Uuid,
}

/// The path of a product.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ProductPathParams {
    /// Id of the product.
    #[param(example = 1)]
    id: i64,
}

/// The path of a product that need not exist.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct AnyProductPathParams {
    /// Id of the product. If there is none, no fields are described.
    #[param(example = "1", pattern = "^[^/.]+$")]
    id: String,
}

/// The path of a purchase.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct PurchasePathParams {
    /// Id of the purchase.
    id: Uuid,
}

/// The precondition of an update.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct IfMatchParam {
    /// The ETag of the product that the client has read, quotes included; several, or `*`.
    #[param(
        rename = "If-Match",
        pattern = r#"^(\*|(W/)?"[!#-~]+")$"#,
        required = false,
        nullable = false
    )]
    if_match: Option<String>,
}

/// The precondition of a read.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct IfNoneMatchParam {
    /// The ETag of the representation that the client has.
    #[param(rename = "If-None-Match", required = false, nullable = false)]
    if_none_match: Option<String>,
}

/// The idempotency key of a request.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct IdempotencyKeyParam {
    /// Makes it safe to repeat the request: it takes effect once, and later requests get the
    /// first response again, with `Idempotent-Replayed: true`. 1 to 255 visible ASCII
    /// characters, unique for each caller, bare or in quotes (RFC 8941).
    #[param(
        rename = "Idempotency-Key",
        min_length = 1,
        max_length = 255,
        pattern = r#"^([!#-~][!-~]*|"([!#-\[\]-~]|\\["\\])+")$"#,
        required = false,
        nullable = false
    )]
    idempotency_key: Option<String>,
}

/// The page of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageParams {
    /// Number of the page, or `last`.
    #[param(nullable = false)]
    page: Option<String>,
    /// Number of items on a page, at most 100. 20 if it is missing or not a positive number.
    #[param(schema_with = any_number)]
    page_size: Option<i64>,
}

/// The page, search, order and filters of a list of products.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListParams {
    /// Number of the page, or `last`.
    #[param(nullable = false)]
    page: Option<String>,
    /// Number of items on a page, at most 100. 20 if it is missing or not a positive number.
    #[param(schema_with = any_number)]
    page_size: Option<i64>,
    /// Words that must all occur in the name or the description, ignoring case. Quotes group
    /// words. At most 100 words and 10,000 bytes.
    #[param(nullable = false, pattern = r"^[^\u0000]*$")]
    search: Option<String>,
    /// Comma-separated, `-` for descending: id, name, price, stock, version, created_at,
    /// updated_at. Other fields are ignored.
    #[param(nullable = false)]
    ordering: Option<String>,
    /// Price equal to.
    #[param(schema_with = operand)]
    price: Option<f64>,
    /// Price greater than.
    #[param(schema_with = operand)]
    price__gt: Option<f64>,
    /// Price greater than or equal to.
    #[param(schema_with = operand)]
    price__gte: Option<f64>,
    /// Price less than.
    #[param(schema_with = operand)]
    price__lt: Option<f64>,
    /// Price less than or equal to.
    #[param(schema_with = operand)]
    price__lte: Option<f64>,
    /// Stock equal to.
    #[param(schema_with = operand)]
    stock: Option<f64>,
    /// Stock greater than.
    #[param(schema_with = operand)]
    stock__gt: Option<f64>,
    /// Stock greater than or equal to.
    #[param(schema_with = operand)]
    stock__gte: Option<f64>,
    /// Stock less than.
    #[param(schema_with = operand)]
    stock__lt: Option<f64>,
    /// Stock less than or equal to.
    #[param(schema_with = operand)]
    stock__lte: Option<f64>,
}

/// A number, or any text, which is ignored.
fn any_number() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Integer, Type::String]))
        .build()
}

/// The operand of a filter: a number, or an empty text, since forms also send empty inputs.
fn operand() -> Schema {
    let number = ObjectBuilder::new()
        .schema_type(Type::Number)
        .maximum(Some(1e50));
    let empty = ObjectBuilder::new()
        .schema_type(Type::String)
        .max_length(Some(0));
    AnyOfBuilder::new().item(number).item(empty).build().into()
}
