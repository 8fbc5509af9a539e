//! What the OpenAPI document says beyond the handlers' signatures: the bodies they read in
//! three formats, their parameters, and the answers that several of them share.

#![expect(
    dead_code,
    non_snake_case,
    reason = "read by derives only; parameters are named as clients write them"
)]

use utoipa::{IntoParams, IntoResponses, ToSchema};
use uuid::Uuid;

use crate::ledger::EntryShown;
use crate::products::ProductShown;
use crate::purchases::PurchaseShown;

/// What a client sends to create a product or, with PUT, to replace it.
#[derive(ToSchema)]
pub(crate) struct ProductGiven {
    #[schema(min_length = 1, max_length = 200, example = "Canvas sneakers")]
    name: String,
    #[schema(required = false)]
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
    #[schema(min_length = 1, max_length = 200, required = false)]
    name: String,
    #[schema(required = false)]
    description: String,
    /// In minor units: cents, won.
    #[schema(minimum = 0, maximum = 2147483647, required = false)]
    price: i64,
    #[schema(minimum = 0, maximum = 2147483647, required = false, example = 9)]
    stock: i64,
}

/// One page of products.
#[derive(ToSchema)]
pub(crate) struct ProductPage {
    /// How many there are on all pages.
    count: i64,
    /// The next page, if there is one.
    #[schema(format = "uri")]
    next: Option<String>,
    /// The page before, if there is one.
    #[schema(format = "uri")]
    previous: Option<String>,
    results: Vec<ProductShown>,
}

/// What a client sends to buy.
#[derive(ToSchema)]
pub(crate) struct PurchaseGiven {
    /// At most 1000, unless the server was told otherwise.
    #[schema(minimum = 1, maximum = 1000, example = 1)]
    quantity: i64,
}

/// What a client sends to set stock aside.
#[derive(ToSchema)]
pub(crate) struct ReservationGiven {
    /// At most 1000, unless the server was told otherwise.
    #[schema(minimum = 1, maximum = 1000, example = 1)]
    quantity: i64,
    /// In seconds: 600 if it is not given, and at most 86400, unless the server was told
    /// otherwise.
    #[schema(minimum = 1, maximum = 86400, required = false, example = 600)]
    hold: i64,
}

/// What a client sends to hold for longer.
#[derive(ToSchema)]
pub(crate) struct HoldGiven {
    /// In seconds from now on: as when it was reserved.
    #[schema(minimum = 1, maximum = 86400, required = false, example = 600)]
    hold: i64,
}

/// One page of purchases.
#[derive(ToSchema)]
pub(crate) struct PurchasePage {
    /// How many there are on all pages.
    count: i64,
    /// The next page, if there is one.
    #[schema(format = "uri")]
    next: Option<String>,
    /// The page before, if there is one.
    #[schema(format = "uri")]
    previous: Option<String>,
    results: Vec<PurchaseShown>,
}

/// One page of a ledger.
#[derive(ToSchema)]
pub(crate) struct LedgerPage {
    /// How many there are on all pages.
    count: i64,
    /// The next page, if there is one.
    #[schema(format = "uri")]
    next: Option<String>,
    /// The page before, if there is one.
    #[schema(format = "uri")]
    previous: Option<String>,
    results: Vec<EntryShown>,
}

/// The path of one reservation.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ReservationPath {
    /// The product's id.
    #[param(example = 1)]
    id: i64,
    /// The reservation's id.
    rid: Uuid,
}

/// The path of one product.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ProductPath {
    /// The product's id.
    #[param(example = 1)]
    id: i64,
}

/// The condition of a change.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct IfMatchHeader {
    /// The ETag of the product as you have read it.
    #[param(rename = "If-Match")]
    if_match: Option<String>,
}

/// Which page to show.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageParameters {
    /// The number of the page, or `last`.
    page: Option<String>,
    /// How many a page shows: 20 unless told, at most 100.
    page_size: Option<i64>,
}

/// Which products to list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListParameters {
    /// The number of the page, or `last`.
    page: Option<String>,
    /// How many a page shows: 20 unless told, at most 100.
    page_size: Option<i64>,
    /// Words that must all occur in the name or the description, in any case. Quotes hold
    /// words together.
    search: Option<String>,
    /// Comma separated, `-` for descending: id, name, price, stock, version, created_at,
    /// updated_at.
    ordering: Option<String>,
    /// Costs exactly this.
    price: Option<f64>,
    /// Costs more.
    price__gt: Option<f64>,
    /// Costs this or more.
    price__gte: Option<f64>,
    /// Costs less.
    price__lt: Option<f64>,
    /// Costs this or less.
    price__lte: Option<f64>,
    /// There are exactly so many.
    stock: Option<f64>,
    /// There are more.
    stock__gt: Option<f64>,
    /// There are so many or more.
    stock__gte: Option<f64>,
    /// There are fewer.
    stock__lt: Option<f64>,
    /// There are so many or fewer.
    stock__lte: Option<f64>,
}

/// Every refusal has at least one sentence for people.
#[derive(ToSchema)]
pub(crate) struct Detail {
    detail: String,
    /// For programs: busy, lock_lost, precondition_failed, …
    code: Option<String>,
}

/// What is wrong with each field, or `detail`.
#[derive(ToSchema)]
#[schema(value_type = Object, example = json!({ "stock": ["A valid integer is required."] }))]
pub(crate) struct InvalidFields(std::collections::HashMap<String, Vec<String>>);

/// The key of a request that shall take effect once.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct KeyHeader {
    /// Makes it safe to send the request again: it takes effect once, and is answered as the
    /// first time, with `Idempotent-Replayed: true`. 1 to 255 visible ASCII characters, the
    /// caller's own. Remembered for 24 hours, unless the server was told otherwise.
    #[param(
        rename = "Idempotency-Key",
        min_length = 1,
        max_length = 255,
        pattern = "^[!-~]+$",
        required = false,
        nullable = false
    )]
    idempotency_key: Option<String>,
}

/// How a request with an idempotency key can be refused for that.
#[derive(IntoResponses)]
pub(crate) enum Keyed {
    /// The Idempotency-Key came with another request before.
    #[response(status = 422)]
    Reused(#[to_schema] Detail),
}

/// What can be wrong with a body.
#[derive(IntoResponses)]
pub(crate) enum BadBody {
    /// What is wrong, field by field, or `detail` for a body that cannot be read.
    #[response(status = 400)]
    Invalid(#[to_schema] InvalidFields),
    /// The body did not arrive in time.
    #[response(status = 408)]
    Slow(#[to_schema] Detail),
    /// The body is too large.
    #[response(status = 413)]
    TooLarge(#[to_schema] Detail),
    /// The body is of a type that is not read here.
    #[response(status = 415)]
    MediaType(#[to_schema] Detail),
}

/// How a change under the product's lock can end without one.
#[derive(IntoResponses)]
pub(crate) enum UnderLock {
    /// There is no such product.
    #[response(status = 404)]
    Missing(#[to_schema] Detail),
    /// The client reads nothing that is written here.
    #[response(status = 406)]
    NotAcceptable(#[to_schema] Detail),
    /// The lock was lost on the way; nothing was written.
    #[response(status = 409)]
    Lost(#[to_schema] Detail),
    /// Somebody has changed the product since.
    #[response(status = 412)]
    Stale(#[to_schema] Detail),
    /// This server wants If-Match.
    #[response(status = 428)]
    IfMatchRequired(#[to_schema] Detail),
    /// Somebody is updating the product, or has just done so: see Retry-After.
    #[response(status = 429)]
    Busy(#[to_schema] Detail),
    /// The locks or the database do not answer, or there is too much to do: see Retry-After.
    #[response(status = 503)]
    Unavailable(#[to_schema] Detail),
}

/// Not enough is left.
#[derive(ToSchema)]
pub(crate) struct Insufficient {
    detail: String,
    /// How many anybody can buy.
    #[schema(minimum = 0, example = 0)]
    available: i64,
    /// How many there are.
    #[schema(minimum = 0, example = 2)]
    stock: i64,
    /// How many of them are set aside.
    #[schema(minimum = 0, example = 2)]
    held: i64,
    /// `insufficient_stock`.
    #[schema(example = "insufficient_stock")]
    code: String,
}

/// How something that wants stock can end without it.
#[derive(IntoResponses)]
pub(crate) enum InStock {
    /// There is no such product.
    #[response(status = 404)]
    Missing(#[to_schema] Detail),
    /// There is not enough left.
    #[response(status = 409)]
    Insufficient(#[to_schema] Insufficient),
}

/// How something that wants a hold can end without it.
#[derive(IntoResponses)]
pub(crate) enum StillHeld {
    /// There is no such reservation of yours.
    #[response(status = 404)]
    Missing(#[to_schema] Detail),
    /// It has expired (`hold_expired`), was confirmed or cancelled before
    /// (`already_confirmed` with the `purchase`, `already_cancelled`), or the stock was set to
    /// less than is held (`insufficient_stock`).
    #[response(status = 409)]
    Over(#[to_schema] Detail),
}

/// How a request that takes no lock can fail.
#[derive(IntoResponses)]
pub(crate) enum Overload {
    /// The client reads nothing that is written here.
    #[response(status = 406)]
    NotAcceptable(#[to_schema] Detail),
    /// The database does not answer, or there is too much to do: see Retry-After.
    #[response(status = 503)]
    Unavailable(#[to_schema] Detail),
}
