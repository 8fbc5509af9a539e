//! Why an order was not carried out: not enough left, a hold that is over.

use axum::http::StatusCode;

use super::Refusal;
use crate::api::products::timestamp;
use crate::storage::{OrderOutcome, Reservation, StockLevels};

/// Of an order that was not carried out.
impl From<OrderOutcome> for Refusal {
    fn from(outcome: OrderOutcome) -> Self {
        match outcome {
            OrderOutcome::Insufficient(figures) => Self::insufficient(figures),
            OrderOutcome::Expired(reservation) => Self::expired(&reservation),
            OrderOutcome::Settled(reservation) => Self::settled(&reservation),
            OrderOutcome::NoProduct => Self::no_product(),
            OrderOutcome::NoReservation => Self::none_of("Reservation"),
            // Done: nothing to refuse.
            OrderOutcome::Purchased(_)
            | OrderOutcome::Held(_)
            | OrderOutcome::Released(_)
            | OrderOutcome::AlreadyRecorded(_) => Self::defect(),
        }
    }
}

impl Refusal {
    /// 409: there is not enough left.
    fn insufficient(figures: StockLevels) -> Self {
        let available = figures.available();
        let (english, korean) = match available {
            0 => ("Sold out.".to_owned(), "품절되었습니다.".to_owned()),
            some => (
                format!("There is not enough left: {some} can be had."),
                format!("재고가 부족합니다. 남은 수량은 {some}개입니다."),
            ),
        };
        Self::coded(StatusCode::CONFLICT, "insufficient_stock", english, korean)
            .with("available", available)
            .with("stock", figures.stock)
            .with("held", figures.held)
    }

    /// 409: the hold is over.
    fn expired(reservation: &Reservation) -> Self {
        Self::coded(
            StatusCode::CONFLICT,
            "hold_expired",
            "The hold has expired. Reserve again.",
            "예약이 만료되었습니다. 다시 예약해 주세요.",
        )
        .with("expires_at", timestamp(reservation.expires_at))
    }

    /// 409: what was reserved is bought or put back already.
    fn settled(reservation: &Reservation) -> Self {
        match reservation.purchase {
            Some(purchase) => Self::coded(
                StatusCode::CONFLICT,
                "already_confirmed",
                "The reservation was confirmed before.",
                "이미 구매가 확정된 예약입니다.",
            )
            .with("purchase", purchase.to_string()),
            None => Self::coded(
                StatusCode::CONFLICT,
                "already_cancelled",
                "The reservation was cancelled before.",
                "이미 취소된 예약입니다.",
            ),
        }
    }
}
