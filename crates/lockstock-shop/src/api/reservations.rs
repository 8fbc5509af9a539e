//! Reservations: `/api/products/{id}/reservations/` and the routes below it.
//!
//! A reservation sets stock aside for one caller until it expires. Whether it has expired is
//! decided when it is read, so that expiry needs no background work. A reservation becomes a
//! purchase at most once. It never keeps its own caller from buying.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use lockstock_http::RecordedResponse;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::products::existence::not_found_or;
use crate::api::purchases::{PurchaseResponse, purchase_record, purchase_response};
use crate::drf::body::Fields;
use crate::drf::fields::{Completeness, Validator};
use crate::error::ApiError;
use crate::http::idempotency::{self, MaybeKey, buffer_body, buffer_ignored_body};
use crate::http::paths::{ProductId, ReservationPath};
use crate::openapi::{
    BodyErrors, ErrorDetail, ExtendRequest, IdempotencyErrors, IdempotencyKeyParam,
    ProductPathParams, ReservationErrors, ReservationPathParams, ReservationRequest, StockErrors,
};
use crate::settings::Settings;
use crate::state::AppState;
use crate::storage::{
    Order, OrderKind, OrderOutcome, RequestContext, Reservation, ReservationState,
};
use crate::timestamp;

/// A reservation in a response.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Reservation")]
pub(crate) struct ReservationResponse {
    /// For a caller without credentials, the id alone proves the ownership.
    id: Uuid,
    /// Id of the product.
    #[schema(example = 1)]
    product: i64,
    #[schema(minimum = 1, example = 1)]
    quantity: i64,
    /// `held`, `expired`, `confirmed` or `cancelled`.
    #[schema(example = "held")]
    state: &'static str,
    #[schema(format = DateTime)]
    expires_at: String,
    /// The purchase that the reservation became, if it was confirmed.
    purchase: Option<Uuid>,
    #[schema(format = DateTime)]
    created_at: String,
}

/// Returns the routes with their operations in the OpenAPI document.
pub(crate) fn routes(state: &AppState) -> OpenApiRouter<AppState> {
    let idempotency = state.idempotency.clone();
    OpenApiRouter::new()
        .routes(
            routes!(reserve)
                .layer(idempotency.clone())
                .layer(from_fn_with_state(state.clone(), buffer_body::<ProductId>)),
        )
        .routes(routes!(retrieve, cancel))
        .routes(
            routes!(confirm)
                .layer(idempotency.clone())
                .layer(from_fn_with_state(
                    state.clone(),
                    buffer_ignored_body::<ReservationPath>,
                )),
        )
        .routes(routes!(extend).layer(idempotency).layer(from_fn_with_state(
            state.clone(),
            buffer_body::<ReservationPath>,
        )))
}

/// Reserve stock
#[utoipa::path(post, path = "/api/products/{id}/reservations/", tag = "reservations", params(
    ProductPathParams,
    IdempotencyKeyParam,
), request_body(
    content((ReservationRequest = "application/json"), (ReservationRequest = "application/x-www-form-urlencoded"), (ReservationRequest = "multipart/form-data")),
), responses(
    (status = 201, description = "Reserved", body = ReservationResponse,
        headers(("Location" = String, description = "URL of the reservation")),
        links(
            ("retrieve" = (operation_id = "retrieve_reservation", parameters(
                ("id" = "$response.body#/product"), ("rid" = "$response.body#/id")))),
            ("confirm" = (operation_id = "confirm", parameters(
                ("id" = "$response.body#/product"), ("rid" = "$response.body#/id")))),
            ("extend" = (operation_id = "extend", parameters(
                ("id" = "$response.body#/product"), ("rid" = "$response.body#/id")))),
            ("cancel" = (operation_id = "cancel", parameters(
                ("id" = "$response.body#/product"), ("rid" = "$response.body#/id")))),
        )),
    IdempotencyErrors,
    BodyErrors,
    StockErrors,
))]
async fn reserve(
    State(state): State<AppState>,
    ProductId(product): ProductId,
    request: RequestContext,
    key: MaybeKey,
    fields: Result<Fields, ApiError>,
) -> Result<Response, ApiError> {
    let validated = fields.and_then(|fields| validate_reservation(&state.settings, &fields));
    let (quantity, hold) = match validated {
        Ok(validated) => validated,
        Err(error) => return Err(not_found_or(&state, product, error).await),
    };
    let order = Order {
        product,
        kind: OrderKind::Reserve {
            quantity,
            ttl: hold,
        },
        request,
        idempotency: idempotency::idempotent_write(&key, |outcome| {
            reserve_response(outcome).map(|response| response.to_bytes().into())
        }),
    };
    let outcome = state.submit_order(order).await?;
    idempotency::order_response(&key, outcome, reserve_response)
}

/// Retrieve a reservation
#[utoipa::path(get, path = "/api/products/{id}/reservations/{rid}/", operation_id = "retrieve_reservation", tag = "reservations", params(
    ReservationPathParams,
), responses(
    (status = 200, description = "The reservation", body = ReservationResponse),
    (status = 404, description = "The caller has no such reservation", body = ErrorDetail),
))]
async fn retrieve(
    State(state): State<AppState>,
    path: ReservationPath,
    request: RequestContext,
) -> Result<Response, ApiError> {
    let found = state.storage.reservation(path.reservation).await?;
    let owned = found.filter(|(reservation, _)| {
        reservation.product == path.product && reservation.is_of(&request.caller)
    });
    let (reservation, is_held) = owned.ok_or_else(|| ApiError::not_found_of("Reservation"))?;
    Ok(axum::Json(ReservationResponse::new(reservation, is_held)).into_response())
}

/// Buy the reserved stock
///
/// At most idempotency: later requests fail with 409 and the id of the purchase.
#[utoipa::path(post, path = "/api/products/{id}/reservations/{rid}/confirm/", tag = "reservations", params(
    ReservationPathParams,
    IdempotencyKeyParam,
), responses(
    (status = 201, description = "Bought", body = PurchaseResponse,
        headers(("Location" = String, description = "URL of the purchase"))),
    IdempotencyErrors,
    ReservationErrors,
))]
async fn confirm(
    State(state): State<AppState>,
    path: ReservationPath,
    request: RequestContext,
    key: MaybeKey,
) -> Result<Response, ApiError> {
    let order = Order {
        product: path.product,
        kind: OrderKind::Confirm {
            reservation: path.reservation,
        },
        request,
        idempotency: idempotency::idempotent_write(&key, purchase_record),
    };
    let outcome = state.submit_order(order).await?;
    idempotency::order_response(&key, outcome, purchase_response)
}

/// Extend a reservation
///
/// The new lifetime counts from now on. It never ends a reservation earlier than before.
#[utoipa::path(post, path = "/api/products/{id}/reservations/{rid}/extend/", tag = "reservations", params(
    ReservationPathParams,
    IdempotencyKeyParam,
), request_body(
    content((ExtendRequest = "application/json"), (ExtendRequest = "application/x-www-form-urlencoded"), (ExtendRequest = "multipart/form-data")),
), responses(
    (status = 200, description = "Extended", body = ReservationResponse),
    IdempotencyErrors,
    BodyErrors,
    ReservationErrors,
))]
async fn extend(
    State(state): State<AppState>,
    path: ReservationPath,
    request: RequestContext,
    key: MaybeKey,
    fields: Result<Fields, ApiError>,
) -> Result<Response, ApiError> {
    let validated = fields.and_then(|fields| validate_extension(&state.settings, &fields));
    let hold = match validated {
        Ok(hold) => hold,
        Err(error) => return Err(not_found_or(&state, path.product, error).await),
    };
    let order = Order {
        product: path.product,
        kind: OrderKind::Extend {
            reservation: path.reservation,
            ttl: hold,
        },
        request,
        idempotency: idempotency::idempotent_write(&key, |outcome| {
            extend_response(outcome).map(|response| response.to_bytes().into())
        }),
    };
    let outcome = state.submit_order(order).await?;
    idempotency::order_response(&key, outcome, extend_response)
}

/// Cancel a reservation
///
/// Also succeeds if it has expired or was cancelled before.
#[utoipa::path(delete, path = "/api/products/{id}/reservations/{rid}/", tag = "reservations", params(
    ReservationPathParams,
), responses(
    (status = 204, description = "The stock is no longer reserved"),
    ReservationErrors,
))]
async fn cancel(
    State(state): State<AppState>,
    path: ReservationPath,
    request: RequestContext,
) -> Result<Response, ApiError> {
    let order = Order {
        product: path.product,
        kind: OrderKind::Cancel {
            reservation: path.reservation,
        },
        request,
        idempotency: None,
    };
    match state.submit_order(order).await? {
        OrderOutcome::Released(_) => Ok(StatusCode::NO_CONTENT.into_response()),
        outcome => Err(ApiError::from(outcome)),
    }
}

fn validate_reservation(settings: &Settings, fields: &Fields) -> Result<(i64, Duration), ApiError> {
    let mut validator = Validator::new(fields, Completeness::Full);
    let quantity = validator.integer(&settings.quantity_field());
    let seconds = validator.integer(&settings.reservation_ttl_field());
    validator.finish((
        quantity.unwrap_or_default(),
        reservation_ttl(settings, seconds),
    ))
}

fn validate_extension(settings: &Settings, fields: &Fields) -> Result<Duration, ApiError> {
    let mut validator = Validator::new(fields, Completeness::Full);
    let seconds = validator.integer(&settings.reservation_ttl_field());
    validator.finish(reservation_ttl(settings, seconds))
}

fn reservation_ttl(settings: &Settings, seconds: Option<i64>) -> Duration {
    seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(settings.reservation_ttl, Duration::from_secs)
}

fn reserve_response(outcome: &OrderOutcome) -> Option<RecordedResponse> {
    let reservation = reservation_of(outcome)?;
    let (product, id) = (reservation.product, reservation.id);
    let location = format!("/api/products/{product}/reservations/{id}/");
    let response = ReservationResponse::new(reservation, true);
    Some(idempotency::created(location, &response))
}

fn extend_response(outcome: &OrderOutcome) -> Option<RecordedResponse> {
    let response = ReservationResponse::new(reservation_of(outcome)?, true);
    Some(idempotency::json(StatusCode::OK, &response))
}

fn reservation_of(outcome: &OrderOutcome) -> Option<Reservation> {
    match outcome {
        OrderOutcome::Held(reservation) => Some(reservation.clone()),
        _ => None,
    }
}

impl ReservationResponse {
    fn new(reservation: Reservation, is_held: bool) -> Self {
        Self {
            id: reservation.id,
            product: reservation.product,
            quantity: reservation.quantity,
            state: match reservation.state {
                ReservationState::Held if !is_held => "expired",
                state => state.name(),
            },
            expires_at: timestamp::format(reservation.expires_at),
            purchase: reservation.purchase,
            created_at: timestamp::format(reservation.created_at),
        }
    }
}
