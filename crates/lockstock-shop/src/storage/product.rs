//! Products, and the conditions and outcomes of writes to them.

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::idempotency::{IdempotentWrite, ResponseRecord};
use super::request_context::RequestContext;

/// A stored product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// Assigned by the database, never reused.
    pub id: i64,
    /// 1 to 200 characters.
    pub name: String,
    /// Any text.
    pub description: String,
    /// In minor units (cents, won).
    pub price: i64,
    /// Number of units, including those set aside.
    pub stock: i64,
    /// Number of writes so far: 1 after the creation.
    pub version: i64,
    /// Time of the creation, to the microsecond.
    pub created_at: DateTime<Utc>,
    /// Time of the last write, to the microsecond.
    pub updated_at: DateTime<Utc>,
    /// Number of units set aside by reservations that have not expired.
    pub held: i64,
}

impl Product {
    /// Returns stock, held and available units.
    pub fn stock_levels(&self) -> StockLevels {
        StockLevels {
            stock: self.stock,
            held: self.held,
        }
    }
}

/// The stock of a product and how much of it is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StockLevels {
    /// Number of units.
    pub stock: i64,
    /// Number of units set aside.
    pub held: i64,
}

impl StockLevels {
    /// Returns how many units can be bought. If an update sets the stock below the held units,
    /// that is 0.
    pub fn available(self) -> i64 {
        (self.stock - self.held).max(0)
    }
}

/// The fields of a product that a client may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewProduct {
    /// See [`Product::name`].
    pub name: String,
    /// See [`Product::description`].
    pub description: String,
    /// See [`Product::price`].
    pub price: i64,
    /// See [`Product::stock`].
    pub stock: i64,
}

/// The fields that an update sets. `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// See [`Product::name`].
    pub name: Option<String>,
    /// See [`Product::description`].
    pub description: Option<String>,
    /// See [`Product::price`].
    pub price: Option<i64>,
    /// See [`Product::stock`].
    pub stock: Option<i64>,
}

impl Changes {
    /// Returns whether no field is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns what a product becomes if it is updated now.
    pub(super) fn applied_to(&self, product: &Product, now: DateTime<Utc>) -> Product {
        let text = |new: &Option<String>, old: &String| new.as_ref().unwrap_or(old).clone();
        Product {
            id: product.id,
            name: text(&self.name, &product.name),
            description: text(&self.description, &product.description),
            price: self.price.unwrap_or(product.price),
            stock: self.stock.unwrap_or(product.stock),
            version: product.version + 1,
            created_at: product.created_at,
            updated_at: now,
            held: product.held,
        }
    }
}

/// The right to write to one product, which a held lock gives: until when, and under which fence.
#[derive(Debug, Clone, Copy)]
pub struct FencedWindow {
    /// The fence of the grant. The database rejects a write whose fence is not higher than that
    /// of the last write.
    pub fence: u64,
    /// The end of the grant. A write that is not committed by then is rolled back.
    pub deadline: Instant,
}

impl FencedWindow {
    pub(super) fn has_ended(&self) -> bool {
        self.deadline <= Instant::now()
    }

    /// Returns the fence as the column stores it. No store issues a fence above its maximum.
    pub(super) fn fence(&self) -> i64 {
        i64::try_from(self.fence).unwrap_or(i64::MAX)
    }
}

/// The conditions of a write, checked in the transaction that writes.
#[derive(Debug, Clone, Copy)]
pub struct Precondition {
    /// The window of the lock that the writer holds.
    pub window: FencedWindow,
    /// The version that the product must have, if the client requires one.
    pub version: Option<i64>,
}

impl Precondition {
    /// Returns why a write under this condition touched no row, given the version and fence of
    /// the row.
    pub(super) fn rejection<T>(&self, found: Option<(i64, i64)>) -> WriteOutcome<T> {
        match found {
            None => WriteOutcome::NotFound,
            Some((_, fence)) if fence >= self.window.fence() => WriteOutcome::Fenced,
            Some((version, _)) => WriteOutcome::VersionMismatch { version },
        }
    }
}

/// The request that causes a write to a product.
#[derive(Debug, Clone, Default)]
pub struct WriteContext {
    /// The request, for the ledger.
    pub request: RequestContext,
    /// Set if the write must take effect once only.
    pub idempotency: Option<IdempotentWrite<Product>>,
}

/// The outcome of a write to a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome<T> {
    /// The write is committed.
    Done(T),
    /// The idempotency key was used before: nothing is written.
    AlreadyRecorded(ResponseRecord),
    /// The product does not exist.
    NotFound,
    /// The product has another version than the client requires.
    VersionMismatch {
        /// The version of the product.
        version: i64,
    },
    /// Units of the product are set aside: it cannot be deleted.
    Held {
        /// How many.
        held: i64,
    },
    /// The lock was lost: its window has ended, or a later holder has written.
    Fenced,
}
