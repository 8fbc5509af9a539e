//! Errors of orders: not enough stock, a reservation that is no longer held.

use std::time::Duration;

use axum::http::StatusCode;

use super::ApiError;
use crate::storage::{OrderOutcome, Reservation, StockLevels};
use crate::timestamp;

/// The server knows of the refusal by now: the next try runs.
const OVERTAKEN_RETRY_AFTER: Duration = Duration::from_secs(1);

impl From<OrderOutcome> for ApiError {
    fn from(outcome: OrderOutcome) -> Self {
        match outcome {
            OrderOutcome::Insufficient(figures) => Self::insufficient(figures),
            OrderOutcome::Expired(reservation) => Self::expired(&reservation),
            OrderOutcome::Settled(reservation) => Self::settled(&reservation),
            OrderOutcome::Overtaken => Self::in_flight(OVERTAKEN_RETRY_AFTER),
            OrderOutcome::NoProduct => Self::product_not_found(),
            OrderOutcome::NoReservation => Self::not_found_of("Reservation"),
            // Not errors.
            OrderOutcome::Purchased(_)
            | OrderOutcome::Held(_)
            | OrderOutcome::Released(_)
            | OrderOutcome::AlreadyRecorded(_) => Self::internal(),
        }
    }
}

impl ApiError {
    /// 409 if there is not enough stock.
    fn insufficient(figures: StockLevels) -> Self {
        let available = figures.available();
        let (english, korean) = match available {
            0 => ("Sold out.".to_owned(), "품절되었습니다.".to_owned()),
            available => (
                format!("Not enough stock: {available} available."),
                format!("재고가 부족합니다. 남은 수량은 {available}개입니다."),
            ),
        };
        Self::coded(StatusCode::CONFLICT, "insufficient_stock", english, korean)
            .with("available", available)
            .with("stock", figures.stock)
            .with("held", figures.held)
    }

    /// 409 if a product with reservations is to be deleted.
    pub(crate) fn product_held(held: i64) -> Self {
        Self::coded(
            StatusCode::CONFLICT,
            "product_held",
            format!("{held} of the product are reserved: it can be deleted when they no longer are."),
            format!("예약된 수량이 {held}개 있어 상품을 삭제할 수 없습니다. 예약이 끝난 후 다시 시도해 주세요."),
        )
        .with("held", held)
    }

    /// 409 if the reservation has expired.
    fn expired(reservation: &Reservation) -> Self {
        Self::coded(
            StatusCode::CONFLICT,
            "hold_expired",
            "The reservation has expired. Reserve again.",
            "예약이 만료되었습니다. 다시 예약해 주세요.",
        )
        .with("expires_at", timestamp::format(reservation.expires_at))
    }

    /// 409 if the reservation was confirmed or cancelled before.
    fn settled(reservation: &Reservation) -> Self {
        match reservation.purchase {
            Some(purchase) => Self::coded(
                StatusCode::CONFLICT,
                "already_confirmed",
                "The reservation was already confirmed.",
                "이미 구매가 확정된 예약입니다.",
            )
            .with("purchase", purchase.to_string()),
            None => Self::coded(
                StatusCode::CONFLICT,
                "already_cancelled",
                "The reservation was already cancelled.",
                "이미 취소된 예약입니다.",
            ),
        }
    }
}
