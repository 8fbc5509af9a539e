//! What stands in paths, queries and headers.

use utoipa::IntoParams;
use utoipa::openapi::schema::{AnyOfBuilder, Object, ObjectBuilder, Schema, SchemaType, Type};
use uuid::Uuid;

/// The path of one reservation.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ReservationPathParams {
    /// The product's id.
    #[param(example = 1)]
    id: i64,
    /// The reservation's id.
    rid: Uuid,
}

/// The path of one product.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ProductPathParams {
    /// The product's id.
    #[param(example = 1)]
    id: i64,
}

/// The path of what may be a product.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct AnyProductPathParams {
    /// The product's id. What is no product has no fields to tell of, and is no mistake.
    #[param(example = "1", pattern = "^[^/.]+$")]
    id: String,
}

/// The path of one purchase.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct PurchasePathParams {
    /// The purchase's id.
    id: Uuid,
}

/// The condition of a change.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct IfMatchParam {
    /// The ETag of the product as you have read it.
    #[param(rename = "If-Match", required = false, nullable = false)]
    if_match: Option<String>,
}

/// What the client has already.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct IfNoneMatchParam {
    /// The ETag of what you have already.
    #[param(rename = "If-None-Match", required = false, nullable = false)]
    if_none_match: Option<String>,
}

/// The key of a request that shall take effect once.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct IdempotencyKeyParam {
    /// Makes it safe to send the request again: it takes effect once, and is answered as the
    /// first time, with `Idempotent-Replayed: true`. 1 to 255 visible ASCII characters, the
    /// caller's own, bare or in quotes (RFC 8941).
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

/// Which page to show.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageParams {
    /// The number of the page, or `last`.
    #[param(nullable = false)]
    page: Option<String>,
    /// How many a page shows, at most 100. 20 if it is not given or no number above 0.
    #[param(schema_with = any_number)]
    page_size: Option<i64>,
}

/// Which products to list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListParams {
    /// The number of the page, or `last`.
    #[param(nullable = false)]
    page: Option<String>,
    /// How many a page shows, at most 100. 20 if it is not given or no number above 0.
    #[param(schema_with = any_number)]
    page_size: Option<i64>,
    /// Words that must all occur in the name or the description, in any case. Quotes hold
    /// words together. At most 100 words and 10,000 bytes.
    #[param(nullable = false, pattern = r"^[^\u0000]*$")]
    search: Option<String>,
    /// Comma separated, `-` for descending: id, name, price, stock, version, created_at,
    /// updated_at. Others are passed over.
    #[param(nullable = false)]
    ordering: Option<String>,
    /// Costs exactly this.
    #[param(schema_with = bound)]
    price: Option<f64>,
    /// Costs more.
    #[param(schema_with = bound)]
    price__gt: Option<f64>,
    /// Costs this or more.
    #[param(schema_with = bound)]
    price__gte: Option<f64>,
    /// Costs less.
    #[param(schema_with = bound)]
    price__lt: Option<f64>,
    /// Costs this or less.
    #[param(schema_with = bound)]
    price__lte: Option<f64>,
    /// There are exactly so many.
    #[param(schema_with = bound)]
    stock: Option<f64>,
    /// There are more.
    #[param(schema_with = bound)]
    stock__gt: Option<f64>,
    /// There are so many or more.
    #[param(schema_with = bound)]
    stock__gte: Option<f64>,
    /// There are fewer.
    #[param(schema_with = bound)]
    stock__lt: Option<f64>,
    /// There are so many or fewer.
    #[param(schema_with = bound)]
    stock__lte: Option<f64>,
}

/// A number, and no mistake if it is none.
fn any_number() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Integer, Type::String]))
        .build()
}

/// What prices and stocks are compared with: a form sends its empty inputs too.
fn bound() -> Schema {
    let number = ObjectBuilder::new()
        .schema_type(Type::Number)
        .maximum(Some(1e50));
    let nothing = ObjectBuilder::new()
        .schema_type(Type::String)
        .max_length(Some(0));
    AnyOfBuilder::new()
        .item(number)
        .item(nothing)
        .build()
        .into()
}
