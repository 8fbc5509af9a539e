//! The ledger: an append-only entry for each write to a product.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::now;
use super::product::{FencedWindow, Product};
use super::request_context::RequestContext;

/// Why a product was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The product is older than the ledger.
    Opening,
    /// The product was created.
    Created,
    /// The product was changed or replaced.
    Changed,
    /// Units were bought.
    Purchase,
    /// A reservation was confirmed.
    Confirmed,
    /// The product was deleted.
    Deleted,
}

impl Reason {
    const ALL: [Self; 6] = [
        Self::Opening,
        Self::Created,
        Self::Changed,
        Self::Purchase,
        Self::Confirmed,
        Self::Deleted,
    ];

    /// Returns the name that the database and the API use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Purchase => "purchase",
            Self::Confirmed => "confirmed",
            Self::Deleted => "deleted",
        }
    }

    /// Returns whether units were sold.
    pub fn is_purchase(self) -> bool {
        matches!(self, Self::Purchase | Self::Confirmed)
    }
}

impl TryFrom<String> for Reason {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let reason = Self::ALL.into_iter().find(|reason| reason.name() == name);
        reason.ok_or_else(|| format!("unknown reason of a ledger entry: {name}"))
    }
}

/// One write to one product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The id of the write, which is the id of the purchase if it is one.
    pub id: Uuid,
    /// The id of the product.
    pub product: i64,
    /// The version of the product after the write.
    pub version: i64,
    /// Why the product was written.
    pub reason: Reason,
    /// The change of the stock; negative for a purchase.
    pub delta: i64,
    /// The stock after the write.
    pub stock_after: i64,
    /// The price of a sold unit, in minor units.
    pub unit_price: Option<i64>,
    /// The reservation that was confirmed.
    pub reservation: Option<Uuid>,
    /// The id of the request.
    pub request: String,
    /// The name of the API key of the request, if it has one.
    pub caller: Option<String>,
    /// The fence of the lock that the writer held.
    pub fence: Option<i64>,
    /// Time of the write, to the microsecond.
    pub at: DateTime<Utc>,
}

impl LedgerEntry {
    pub(super) fn created(product: &Product, request: &RequestContext) -> Self {
        Self::of_write(product, request, Reason::Created, product.stock)
    }

    pub(super) fn changed(
        product: &Product,
        stock_before: i64,
        window: FencedWindow,
        request: &RequestContext,
    ) -> Self {
        let delta = product.stock - stock_before;
        Self {
            fence: Some(window.fence()),
            ..Self::of_write(product, request, Reason::Changed, delta)
        }
    }

    /// `product` is the product before the deletion.
    pub(super) fn deleted(
        product: &Product,
        window: FencedWindow,
        request: &RequestContext,
    ) -> Self {
        Self {
            version: product.version + 1,
            stock_after: 0,
            fence: Some(window.fence()),
            at: now(),
            ..Self::of_write(product, request, Reason::Deleted, -product.stock)
        }
    }

    fn of_write(product: &Product, request: &RequestContext, reason: Reason, delta: i64) -> Self {
        Self {
            id: Uuid::now_v7(),
            product: product.id,
            version: product.version,
            reason,
            delta,
            stock_after: product.stock,
            unit_price: None,
            reservation: None,
            request: request.request_id.to_string(),
            caller: request.key_name(),
            fence: None,
            at: product.updated_at,
        }
    }
}
