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
use lockstock_http::RecordedResponse;
use serde::Serialize;
use serde_json::Map;
use utoipa::ToSchema;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::products::{missing_first, timestamp};
use crate::api::purchases::{self, PurchaseShown};
use crate::drf::body::received;
use crate::drf::fields::noted;
use crate::error::Refusal;
use crate::http::idempotency;
use crate::http::idempotency::{created, shown};
use crate::http::routes::{product_id, reservation_id};
use crate::openapi::{
    BadBody, Detail, HoldGiven, InStock, KeyHeader, Keyed, ProductPath, ReservationGiven,
    ReservationPath, StillHeld,
};
use crate::state::Shop;
use crate::storage::{
    Order, OrderKind, OrderOutcome, RequestContext, Reservation, ReservationState,
};

/// A reservation, as it is shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Reservation")]
pub(crate) struct ReservationShown {
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
pub(crate) fn routes(shop: &Shop) -> OpenApiRouter<Shop> {
    let keys = shop.keys.of_orders.clone();
    let collected = || from_fn_with_state(shop.clone(), idempotency::collected);
    OpenApiRouter::new()
        .routes(routes!(reserve).layer(keys.clone()).layer(collected()))
        .routes(routes!(retrieve, cancel))
        .routes(routes!(confirm).layer(keys.clone()).layer(collected()))
        .routes(routes!(extend).layer(keys).layer(collected()))
}

/// Set stock aside
#[utoipa::path(post, path = "/api/products/{id}/reservations/", tag = "reservations", params(
    ProductPath,
    KeyHeader,
), request_body(
    content((ReservationGiven = "application/json"), (ReservationGiven = "application/x-www-form-urlencoded"), (ReservationGiven = "multipart/form-data")),
), responses(
    (status = 201, description = "Held", body = ReservationShown,
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
    Keyed,
    BadBody,
    InStock,
))]
async fn reserve(
    State(shop): State<Shop>,
    request: RequestContext,
    key: idempotency::Given,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Result<Response, Refusal> {
    let product = product_id(uri.path())?;
    let (quantity, hold) = match wanted(&shop, &headers, body, Asked::QuantityAndHold).await {
        Ok(wanted) => wanted,
        Err(refusal) => return Err(missing_first(&shop, product, refusal).await),
    };
    let kind = OrderKind::Reserve {
        quantity,
        ttl: hold,
    };
    let order = Order {
        product,
        kind,
        request,
        idempotency: idempotency::once(&key, |outcome| {
            answer_to_reserve(outcome).as_ref().map(idempotency::bytes)
        }),
    };
    idempotency::answered(
        &key,
        shop.storage.submit_order(order).await?,
        answer_to_reserve,
    )
}

/// Look at a reservation
#[utoipa::path(get, path = "/api/products/{id}/reservations/{rid}/", operation_id = "retrieve_reservation", tag = "reservations", params(
    ReservationPath,
), responses(
    (status = 200, description = "The reservation", body = ReservationShown),
    (status = 404, description = "There is no such reservation of yours", body = Detail),
))]
async fn retrieve(
    State(shop): State<Shop>,
    request: RequestContext,
    uri: Uri,
) -> Result<Response, Refusal> {
    let (product, id) = (product_id(uri.path())?, reservation_id(uri.path())?);
    let found = shop.storage.reservation(id).await?;
    let ours = found.filter(|(reservation, _)| {
        reservation.product == product && reservation.is_of(&request.caller)
    });
    let (reservation, is_held) = ours.ok_or_else(|| Refusal::none_of("Reservation"))?;
    Ok(axum::Json(ReservationShown::new(reservation, is_held)).into_response())
}

/// Buy what is held
///
/// Once: whoever asks again is told which purchase it became.
#[utoipa::path(post, path = "/api/products/{id}/reservations/{rid}/confirm/", tag = "reservations", params(
    ReservationPath,
    KeyHeader,
), responses(
    (status = 201, description = "Bought", body = PurchaseShown,
        headers(("Location" = String, description = "Where the purchase is"))),
    Keyed,
    StillHeld,
))]
async fn confirm(
    State(shop): State<Shop>,
    request: RequestContext,
    key: idempotency::Given,
    uri: Uri,
) -> Result<Response, Refusal> {
    let reservation = reservation_id(uri.path())?;
    let order = Order {
        product: product_id(uri.path())?,
        kind: OrderKind::Confirm { reservation },
        request,
        idempotency: idempotency::once(&key, purchases::recorded),
    };
    idempotency::answered(
        &key,
        shop.storage.submit_order(order).await?,
        purchases::answer,
    )
}

/// Hold it for longer
///
/// For so long from now on, and no shorter than it is held anyway.
#[utoipa::path(post, path = "/api/products/{id}/reservations/{rid}/extend/", tag = "reservations", params(
    ReservationPath,
    KeyHeader,
), request_body(
    content((HoldGiven = "application/json"), (HoldGiven = "application/x-www-form-urlencoded"), (HoldGiven = "multipart/form-data")),
), responses(
    (status = 200, description = "Held", body = ReservationShown),
    Keyed,
    BadBody,
    StillHeld,
))]
async fn extend(
    State(shop): State<Shop>,
    request: RequestContext,
    key: idempotency::Given,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Result<Response, Refusal> {
    let product = product_id(uri.path())?;
    let reservation = reservation_id(uri.path())?;
    let hold = match wanted(&shop, &headers, body, Asked::Hold).await {
        Ok((_, hold)) => hold,
        Err(refusal) => return Err(missing_first(&shop, product, refusal).await),
    };
    let kind = OrderKind::Extend {
        reservation,
        ttl: hold,
    };
    let order = Order {
        product,
        kind,
        request,
        idempotency: idempotency::once(&key, |outcome| {
            answer_to_extend(outcome).as_ref().map(idempotency::bytes)
        }),
    };
    idempotency::answered(
        &key,
        shop.storage.submit_order(order).await?,
        answer_to_extend,
    )
}

/// Put it back
///
/// Also when it has expired or was put back before: it is not held.
#[utoipa::path(delete, path = "/api/products/{id}/reservations/{rid}/", tag = "reservations", params(
    ReservationPath,
), responses(
    (status = 204, description = "It is not held any more"),
    StillHeld,
))]
async fn cancel(
    State(shop): State<Shop>,
    request: RequestContext,
    uri: Uri,
) -> Result<Response, Refusal> {
    let reservation = reservation_id(uri.path())?;
    let order = Order {
        product: product_id(uri.path())?,
        kind: OrderKind::Cancel { reservation },
        request,
        idempotency: None,
    };
    match shop.storage.submit_order(order).await? {
        OrderOutcome::Released(_) => Ok(StatusCode::NO_CONTENT.into_response()),
        other => Err(Refusal::from(other)),
    }
}

/// Which fields a request has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    QuantityAndHold,
    Hold,
}

async fn wanted(
    shop: &Shop,
    headers: &HeaderMap,
    body: Body,
    asked: Asked,
) -> Result<(i64, Duration), Refusal> {
    let fields = received(shop.settings.body, headers, body).await?;
    let mut errors = Map::new();
    let quantity = match asked {
        Asked::Hold => None,
        Asked::QuantityAndHold => {
            let quantity = shop.settings.quantity();
            let quantity = quantity.validate(fields.get("quantity"), false);
            noted("quantity", quantity, &mut errors)
        }
    };
    let hold = shop.settings.hold().validate(fields.get("hold"), false);
    let hold = noted("hold", hold, &mut errors);
    if !errors.is_empty() {
        return Err(Refusal::invalid(errors));
    }
    let seconds = hold.and_then(|hold| u64::try_from(hold).ok());
    let hold = seconds.map_or(shop.settings.usual_hold, Duration::from_secs);
    Ok((quantity.unwrap_or_default(), hold))
}

fn answer_to_reserve(outcome: &OrderOutcome) -> Option<RecordedResponse> {
    let reservation = held(outcome)?;
    let (product, id) = (reservation.product, reservation.id);
    let place = format!("/api/products/{product}/reservations/{id}/");
    Some(created(place, &ReservationShown::new(reservation, true)))
}

fn answer_to_extend(outcome: &OrderOutcome) -> Option<RecordedResponse> {
    let reservation = held(outcome)?;
    Some(shown(
        StatusCode::OK,
        &ReservationShown::new(reservation, true),
    ))
}

fn held(outcome: &OrderOutcome) -> Option<Reservation> {
    match outcome {
        OrderOutcome::Held(reservation) => Some(reservation.clone()),
        _ => None,
    }
}

impl ReservationShown {
    fn new(reservation: Reservation, is_held: bool) -> Self {
        Self {
            id: reservation.id,
            product: reservation.product,
            quantity: reservation.quantity,
            state: match reservation.state {
                ReservationState::Held if !is_held => "expired",
                state => state.name(),
            },
            expires_at: timestamp(reservation.expires_at),
            purchase: reservation.purchase,
            created_at: timestamp(reservation.created_at),
        }
    }
}
