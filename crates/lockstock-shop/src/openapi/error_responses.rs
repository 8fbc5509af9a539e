//! How requests are refused: the bodies, and the answers that several of them share. What any
//! request to the API can hear is in `operations.rs`.

use std::collections::HashMap;

use utoipa::{IntoResponses, ToSchema};
use uuid::Uuid;

/// Every refusal has at least one sentence for people.
#[derive(ToSchema)]
pub(crate) struct ErrorDetail {
    detail: String,
    /// For programs, where it is not one of Django REST framework's own: lock_lost, …
    #[schema(nullable = false)]
    code: Option<String>,
}

/// What is wrong with each field; or `detail`, and a `code` if it is not Django REST
/// framework's own.
#[derive(ToSchema)]
#[schema(example = json!({ "stock": ["A valid integer is required."] }))]
pub(crate) struct ValidationErrors(HashMap<String, Messages>);

/// One sentence or several.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum Messages {
    One(String),
    Several(Vec<String>),
}

/// What is wrong with the filters, or with the search.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum QueryErrors {
    Filters(ValidationErrors),
    Search(Vec<String>),
}

/// A refusal as RFC 9457 has it, for those who name its type in `Accept`. What else the JSON
/// has, it has too.
#[derive(ToSchema)]
pub(crate) struct Problem {
    #[schema(example = "about:blank")]
    r#type: String,
    title: String,
    status: u16,
    detail: String,
    /// For programs, where it is not one of Django REST framework's own.
    #[schema(nullable = false)]
    code: Option<String>,
    /// What is wrong with each field.
    #[schema(nullable = false)]
    errors: Option<QueryErrors>,
}

/// The product has another version.
#[derive(ToSchema)]
pub(crate) struct Stale {
    detail: String,
    /// The one that it has.
    #[schema(minimum = 1, example = 3)]
    version: i64,
    #[schema(example = "precondition_failed")]
    code: String,
}

/// It is not this request's turn.
#[derive(ToSchema)]
pub(crate) struct Busy {
    detail: String,
    #[schema(example = "Only one update every 3 seconds is allowed.")]
    error: String,
    #[schema(minimum = 0, example = 2100)]
    retry_after_ms: i64,
    #[schema(example = "busy")]
    code: String,
}

/// Why stock is not sold.
#[derive(ToSchema)]
pub(crate) struct OrderConflict {
    detail: String,
    /// Of `insufficient_stock`: how many anybody can buy.
    #[schema(nullable = false, minimum = 0, example = 0)]
    available: Option<i64>,
    /// Of `insufficient_stock`: how many there are.
    #[schema(nullable = false, minimum = 0, example = 2)]
    stock: Option<i64>,
    /// Of `insufficient_stock`: how many of them are set aside.
    #[schema(nullable = false, minimum = 0, example = 2)]
    held: Option<i64>,
    /// Of `hold_expired`: when it did.
    #[schema(nullable = false, format = DateTime)]
    expires_at: Option<String>,
    /// Of `already_confirmed`: what the reservation became.
    #[schema(nullable = false)]
    purchase: Option<Uuid>,
    #[schema(example = "insufficient_stock")]
    code: String,
}

/// How a request with an idempotency key can be refused for that.
#[derive(IntoResponses)]
pub(crate) enum IdempotencyErrors {
    /// The Idempotency-Key is none.
    #[response(status = 400)]
    Malformed(ValidationErrors),
    /// The request of that Idempotency-Key is under way (`in_flight`): see Retry-After.
    #[response(status = 409)]
    InFlight(ErrorDetail),
    /// The request's body, which is read for the Idempotency-Key, did not arrive in time.
    #[response(status = 408)]
    Slow(ErrorDetail),
    /// The request's body, which is read for the Idempotency-Key, is too large.
    #[response(status = 413)]
    TooLarge(ErrorDetail),
    /// The Idempotency-Key came with another request before.
    #[response(status = 422)]
    Reused(ErrorDetail),
}

/// What can be wrong with a body.
#[derive(IntoResponses)]
pub(crate) enum BodyErrors {
    /// What is wrong, field by field, or `detail` for a body or an Idempotency-Key that cannot
    /// be read.
    #[response(status = 400)]
    ValidationErrors(ValidationErrors),
    /// The body did not arrive in time.
    #[response(status = 408)]
    Slow(ErrorDetail),
    /// The body is too large.
    #[response(status = 413)]
    TooLarge(ErrorDetail),
    /// The body is of a type that is not read here.
    #[response(status = 415)]
    MediaType(ErrorDetail),
}

/// How a change under the product's lock can end without one.
#[derive(IntoResponses)]
pub(crate) enum UpdateErrors {
    /// There is no such product.
    #[response(status = 404)]
    Missing(ErrorDetail),
    /// The lock was lost on the way, nothing was written (`lock_lost`); or the request of that
    /// Idempotency-Key is under way (`in_flight`): see Retry-After.
    #[response(status = 409)]
    Lost(ErrorDetail),
    /// Somebody has changed the product since: its ETag is another one.
    #[response(status = 412, headers(("ETag" = String, description = "The version, quoted")))]
    Stale(Stale),
    /// This server wants If-Match.
    #[response(status = 428)]
    IfMatchRequired(ErrorDetail),
    /// Somebody is updating the product, or has just done so: see Retry-After.
    #[response(status = 429)]
    Busy(Busy),
}

/// How something that wants stock can end without it.
#[derive(IntoResponses)]
pub(crate) enum StockErrors {
    /// There is no such product.
    #[response(status = 404)]
    Missing(ErrorDetail),
    /// There is not enough left (`insufficient_stock`); or the request of that Idempotency-Key
    /// is under way (`in_flight`): see Retry-After.
    #[response(status = 409)]
    Insufficient(OrderConflict),
}

/// How something that wants a hold can end without it.
#[derive(IntoResponses)]
pub(crate) enum ReservationErrors {
    /// There is no such reservation of yours.
    #[response(status = 404)]
    Missing(ErrorDetail),
    /// It has expired (`hold_expired`), was confirmed or cancelled before
    /// (`already_confirmed` with the `purchase`, `already_cancelled`), or the stock was set to
    /// less than is held (`insufficient_stock`); or the request of that Idempotency-Key is
    /// under way (`in_flight`): see Retry-After.
    #[response(status = 409)]
    Over(OrderConflict),
}
