//! Error responses and their bodies. The errors of every operation are in `operations.rs`.

use std::collections::HashMap;

use utoipa::{IntoResponses, ToSchema};
use uuid::Uuid;

/// An error with a human-readable message.
#[derive(ToSchema)]
pub(crate) struct ErrorDetail {
    detail: String,
    /// Machine-readable, unless Django REST framework defines the error: lock_lost, …
    #[schema(nullable = false)]
    code: Option<String>,
}

/// The messages about each field; or `detail`, and a `code` unless Django REST framework defines
/// the error.
#[derive(ToSchema)]
#[schema(example = json!({ "stock": ["A valid integer is required."] }))]
pub(crate) struct ValidationErrors(HashMap<String, Messages>);

/// One message or several.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum Messages {
    One(String),
    Several(Vec<String>),
}

/// The messages about the filters, or about the search.
#[derive(ToSchema)]
#[serde(untagged)]
pub(crate) enum QueryErrors {
    Filters(ValidationErrors),
    Search(Vec<String>),
}

/// RFC 9457 problem details, sent if `Accept` names their media type. They also have the other
/// members of the JSON error.
#[derive(ToSchema)]
pub(crate) struct Problem {
    #[schema(example = "about:blank")]
    r#type: String,
    title: String,
    status: u16,
    detail: String,
    /// Machine-readable, unless Django REST framework defines the error.
    #[schema(nullable = false)]
    code: Option<String>,
    /// The messages about each field.
    #[schema(nullable = false)]
    errors: Option<QueryErrors>,
}

/// The product has another version.
#[derive(ToSchema)]
pub(crate) struct Stale {
    detail: String,
    /// The current version.
    #[schema(minimum = 1, example = 3)]
    version: i64,
    #[schema(example = "precondition_failed")]
    code: String,
}

/// Another request holds or keeps the lock of the product (`busy`), or the caller has sent too many
/// requests (`rate_limited`).
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

/// The reason why stock was not sold or reserved.
#[derive(ToSchema)]
pub(crate) struct OrderConflict {
    detail: String,
    /// With `insufficient_stock`: how much can be bought.
    #[schema(nullable = false, minimum = 0, example = 0)]
    available: Option<i64>,
    /// With `insufficient_stock`: the stock.
    #[schema(nullable = false, minimum = 0, example = 2)]
    stock: Option<i64>,
    /// With `insufficient_stock`: how much of the stock is reserved.
    #[schema(nullable = false, minimum = 0, example = 2)]
    held: Option<i64>,
    /// With `hold_expired`: when the reservation expired.
    #[schema(nullable = false, format = DateTime)]
    expires_at: Option<String>,
    /// With `already_confirmed`: the purchase that the reservation became.
    #[schema(nullable = false)]
    purchase: Option<Uuid>,
    #[schema(example = "insufficient_stock")]
    code: String,
}

/// The errors of idempotency keys.
#[derive(IntoResponses)]
pub(crate) enum IdempotencyErrors {
    /// The Idempotency-Key is malformed.
    #[response(status = 400)]
    Malformed(ValidationErrors),
    /// A request with the Idempotency-Key is in progress (`in_flight`). See Retry-After.
    #[response(status = 409)]
    InFlight(ErrorDetail),
    /// The body, which is read for the Idempotency-Key, did not arrive in time.
    #[response(status = 408)]
    Slow(ErrorDetail),
    /// The body, which is read for the Idempotency-Key, is too large.
    #[response(status = 413)]
    TooLarge(ErrorDetail),
    /// The Idempotency-Key was used with a different request.
    #[response(status = 422)]
    Reused(ErrorDetail),
}

/// The errors of a body.
#[derive(IntoResponses)]
pub(crate) enum BodyErrors {
    /// Messages about invalid fields, or `detail` if the body or the Idempotency-Key is malformed.
    #[response(status = 400)]
    ValidationErrors(ValidationErrors),
    /// The body did not arrive in time.
    #[response(status = 408)]
    Slow(ErrorDetail),
    /// The body is too large.
    #[response(status = 413)]
    TooLarge(ErrorDetail),
    /// The media type, the charset or the content coding of the body is not supported.
    #[response(status = 415)]
    MediaType(ErrorDetail),
}

/// The errors of an update of a product.
#[derive(IntoResponses)]
pub(crate) enum UpdateErrors {
    /// The product does not exist.
    #[response(status = 404)]
    Missing(ErrorDetail),
    /// The lock was lost before the commit and nothing was written (`lock_lost`); or the product
    /// to delete has `held` items that are reserved (`product_held`); or a request with the
    /// Idempotency-Key is in progress (`in_flight`). See Retry-After.
    #[response(status = 409)]
    Lost(ErrorDetail),
    /// The product has changed since it was read, and its ETag is a different one than in If-Match;
    /// or it is one in If-None-Match.
    #[response(status = 412, headers(("ETag" = String, description = "The version, quoted")))]
    Stale(Stale),
    /// This server requires If-Match. Precedes the errors of the body.
    #[response(status = 428)]
    IfMatchRequired(ErrorDetail),
    /// Another request is updating the product, or has just updated it. See Retry-After.
    #[response(status = 429)]
    Busy(Busy),
}

/// The errors of an order that needs stock.
#[derive(IntoResponses)]
pub(crate) enum StockErrors {
    /// The product does not exist.
    #[response(status = 404)]
    Missing(ErrorDetail),
    /// There is not enough stock (`insufficient_stock`); or a request with the Idempotency-Key
    /// is in progress (`in_flight`). See Retry-After.
    #[response(status = 409)]
    Insufficient(OrderConflict),
}

/// The errors of an order that needs a reservation.
#[derive(IntoResponses)]
pub(crate) enum ReservationErrors {
    /// The caller has no such reservation.
    #[response(status = 404)]
    Missing(ErrorDetail),
    /// The reservation has expired (`hold_expired`), was confirmed or cancelled before
    /// (`already_confirmed` with the `purchase`, `already_cancelled`), or the stock was set to
    /// less than is reserved (`insufficient_stock`); or a request with the Idempotency-Key is in
    /// progress (`in_flight`). See Retry-After.
    #[response(status = 409)]
    Over(OrderConflict),
}
