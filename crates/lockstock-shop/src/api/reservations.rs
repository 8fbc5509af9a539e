//! Reservations: `/api/products/{id}/reservations/` and what is below it.
//!
//! Stock that is set aside for somebody until a time. Whether it still is, is a question of
//! when it is asked: an expired hold frees its stock without anybody doing anything. A hold
//! becomes a purchase once. It never blocks its owner.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use lockstock_http::Record;
use serde::Serialize;
use serde_json::Map;
use utoipa::ToSchema;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::products::{not_found_or, timestamp};
use crate::api::purchases::{self, PurchaseResponse};
use crate::drf::body::parse_body;
use crate::drf::fields::collect_error;
use crate::error::ApiError;
use crate::http::idempotency;
use crate::http::idempotency::{created, json};
use crate::http::routes::{product_id, reservation_id};
use crate::openapi::{
    BodyErrors, ErrorDetail, ExtendRequest, IdempotencyErrors, KeyHeader, ProductPath,
    ReservationErrors, ReservationPath, ReservationRequest, StockErrors,
};
use crate::state::AppState;
use crate::storage::{Order, Origin, Outcome, Reservation, State as Stored, Wish};

/// A reservation, as it is shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Reservation")]
pub(crate) struct ReservationResponse {
    /// Whoever is not known by a key has nothing else to show that it is theirs.
    id: Uuid,
    /// The product's id.
    #[schema(example = 1)]
    product: i64,
    #[schema(minimum = 1, example = 1)]
    quantity: i64,
    /// `held`, `expired`, `confirmed` or `cancelled`.
    #[schema(example = "held")]
    state: &'static str,
    #[schema(format = DateTime)]
    expires_at: String,
    /// What it became when it was confirmed.
    purchase: Option<Uuid>,
    #[schema(format = DateTime)]
    created_at: String,
}

/// The routes, and what the document says of them.
pub(crate) fn routes(state: &AppState) -> OpenApiRouter<AppState> {
    let keys = state.idempotency.orders.clone();
    let buffer_body = || from_fn_with_state(state.clone(), idempotency::buffer_body);
    OpenApiRouter::new()
        .routes(routes!(reserve).layer(keys.clone()).layer(buffer_body()))
        .routes(routes!(retrieve, cancel))
        .routes(routes!(confirm).layer(keys.clone()).layer(buffer_body()))
        .routes(routes!(extend).layer(keys).layer(buffer_body()))
}

/// Set stock aside
#[utoipa::path(post, path = "/api/products/{id}/reservations/", tag = "reservations", params(
    ProductPath,
    KeyHeader,
), request_body(
    content((ReservationRequest = "application/json"), (ReservationRequest = "application/x-www-form-urlencoded"), (ReservationRequest = "multipart/form-data")),
), responses(
    (status = 201, description = "Held", body = ReservationResponse,
        headers(("Location" = String, description = "Where the reservation is")),
        links(
            ("look" = (operation_id = "retrieve_reservation", parameters(
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
    origin: Origin,
    key: idempotency::MaybeKey,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Result<Response, ApiError> {
    let product = product_id(uri.path())?;
    let (quantity, hold) = match wanted(&state, &headers, body, Asked::QuantityAndHold).await {
        Ok(wanted) => wanted,
        Err(error) => return Err(not_found_or(&state, product, error).await),
    };
    let wish = Wish::Reserve { quantity, hold };
    let order = Order {
        product,
        wish,
        origin,
        once: idempotency::idempotent_write(&key, |outcome| {
            reserve_response(outcome)
                .as_ref()
                .map(idempotency::to_bytes)
        }),
    };
    idempotency::order_response(&key, state.storage.sell(order).await?, reserve_response)
}

/// Look at a reservation
#[utoipa::path(get, path = "/api/products/{id}/reservations/{rid}/", operation_id = "retrieve_reservation", tag = "reservations", params(
    ReservationPath,
), responses(
    (status = 200, description = "The reservation", body = ReservationResponse),
    (status = 404, description = "There is no such reservation of yours", body = ErrorDetail),
))]
async fn retrieve(
    State(state): State<AppState>,
    origin: Origin,
    uri: Uri,
) -> Result<Response, ApiError> {
    let (product, id) = (product_id(uri.path())?, reservation_id(uri.path())?);
    let found = state.storage.reservation(id).await?;
    let ours = found.filter(|(reservation, _)| {
        reservation.product == product && reservation.is_of(&origin.caller)
    });
    let (reservation, is_held) = ours.ok_or_else(|| ApiError::not_found_of("Reservation"))?;
    Ok(axum::Json(ReservationResponse::new(reservation, is_held)).into_response())
}

/// Buy what is held
///
/// Once: whoever asks again is told which purchase it became.
#[utoipa::path(post, path = "/api/products/{id}/reservations/{rid}/confirm/", tag = "reservations", params(
    ReservationPath,
    KeyHeader,
), responses(
    (status = 201, description = "Bought", body = PurchaseResponse,
        headers(("Location" = String, description = "Where the purchase is"))),
    IdempotencyErrors,
    ReservationErrors,
))]
async fn confirm(
    State(state): State<AppState>,
    origin: Origin,
    key: idempotency::MaybeKey,
    uri: Uri,
) -> Result<Response, ApiError> {
    let reservation = reservation_id(uri.path())?;
    let order = Order {
        product: product_id(uri.path())?,
        wish: Wish::Confirm { reservation },
        origin,
        once: idempotency::idempotent_write(&key, purchases::purchase_record),
    };
    idempotency::order_response(
        &key,
        state.storage.sell(order).await?,
        purchases::purchase_response,
    )
}

/// Hold it for longer
///
/// For so long from now on, and no shorter than it is held anyway.
#[utoipa::path(post, path = "/api/products/{id}/reservations/{rid}/extend/", tag = "reservations", params(
    ReservationPath,
    KeyHeader,
), request_body(
    content((ExtendRequest = "application/json"), (ExtendRequest = "application/x-www-form-urlencoded"), (ExtendRequest = "multipart/form-data")),
), responses(
    (status = 200, description = "Held", body = ReservationResponse),
    IdempotencyErrors,
    BodyErrors,
    ReservationErrors,
))]
async fn extend(
    State(state): State<AppState>,
    origin: Origin,
    key: idempotency::MaybeKey,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Result<Response, ApiError> {
    let product = product_id(uri.path())?;
    let reservation = reservation_id(uri.path())?;
    let hold = match wanted(&state, &headers, body, Asked::Hold).await {
        Ok((_, hold)) => hold,
        Err(error) => return Err(not_found_or(&state, product, error).await),
    };
    let wish = Wish::Extend { reservation, hold };
    let order = Order {
        product,
        wish,
        origin,
        once: idempotency::idempotent_write(&key, |outcome| {
            extend_response(outcome).as_ref().map(idempotency::to_bytes)
        }),
    };
    idempotency::order_response(&key, state.storage.sell(order).await?, extend_response)
}

/// Put it back
///
/// Also when it has expired or was put back before: it is not held.
#[utoipa::path(delete, path = "/api/products/{id}/reservations/{rid}/", tag = "reservations", params(
    ReservationPath,
), responses(
    (status = 204, description = "It is not held any more"),
    ReservationErrors,
))]
async fn cancel(
    State(state): State<AppState>,
    origin: Origin,
    uri: Uri,
) -> Result<Response, ApiError> {
    let reservation = reservation_id(uri.path())?;
    let order = Order {
        product: product_id(uri.path())?,
        wish: Wish::Cancel { reservation },
        origin,
        once: None,
    };
    match state.storage.sell(order).await? {
        Outcome::Released(_) => Ok(StatusCode::NO_CONTENT.into_response()),
        other => Err(ApiError::from(other)),
    }
}

/// Which fields a request has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    QuantityAndHold,
    Hold,
}

async fn wanted(
    state: &AppState,
    headers: &HeaderMap,
    body: Body,
    asked: Asked,
) -> Result<(i64, Duration), ApiError> {
    let fields = parse_body(state.settings.body, headers, body).await?;
    let mut errors = Map::new();
    let quantity = match asked {
        Asked::Hold => None,
        Asked::QuantityAndHold => {
            let quantity = state.settings.quantity_field();
            let quantity = quantity.validate(fields.get("quantity"), false);
            collect_error("quantity", quantity, &mut errors)
        }
    };
    let hold = state
        .settings
        .reservation_ttl_field()
        .validate(fields.get("hold"), false);
    let hold = collect_error("hold", hold, &mut errors);
    if !errors.is_empty() {
        return Err(ApiError::invalid(errors));
    }
    let seconds = hold.and_then(|hold| u64::try_from(hold).ok());
    let hold = seconds.map_or(state.settings.reservation_ttl, Duration::from_secs);
    Ok((quantity.unwrap_or_default(), hold))
}

fn reserve_response(outcome: &Outcome) -> Option<Record> {
    let reservation = held(outcome)?;
    let (product, id) = (reservation.product, reservation.id);
    let place = format!("/api/products/{product}/reservations/{id}/");
    Some(created(place, &ReservationResponse::new(reservation, true)))
}

fn extend_response(outcome: &Outcome) -> Option<Record> {
    let reservation = held(outcome)?;
    Some(json(
        StatusCode::OK,
        &ReservationResponse::new(reservation, true),
    ))
}

fn held(outcome: &Outcome) -> Option<Reservation> {
    match outcome {
        Outcome::Held(reservation) => Some(reservation.clone()),
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
                Stored::Held if !is_held => "expired",
                state => state.name(),
            },
            expires_at: timestamp(reservation.expires_at),
            purchase: reservation.purchase,
            created_at: timestamp(reservation.created_at),
        }
    }
}
