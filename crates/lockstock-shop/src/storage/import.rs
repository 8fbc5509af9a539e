//! Import of products: rows are staged, checked together, and written in one transaction.
//!
//! The rows are first copied into a temporary table, which no server sees and no lock protects.
//! The transaction that writes then only moves them, so that it keeps servers waiting for as
//! short a time as possible.
//!
//! Guarantees:
//! - either all rows are written or none;
//! - each written product is one ledger entry, and one version more;
//! - stock does not fall below what reservations hold, and no id of a deleted product is used again.
//!
//! An import holds no update lock and writes no fence. It is safe beside servers because it locks the
//! rows that it changes before it reads them, and every write of a server compares the version, or
//! reads the stock, of the row in the statement that writes: an update with `If-Match` gets 412, and a
//! sale takes from the imported stock.

use async_trait::async_trait;
use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};

use super::{Changes, Result};

/// Maximum number of conflicts that are named.
pub const MAX_CONFLICTS: u32 = 20;

/// Number of rows that one statement of the transaction writes: progress can be shown in between.
pub(super) const ROWS_A_STEP: i64 = 20_000;

/// One row of a file of products.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportRow {
    /// The line at which the row begins.
    pub line: u64,
    /// The product to create or to update. `None` creates one whose id the database assigns.
    pub id: Option<i64>,
    /// The values of the row.
    pub changes: Changes,
    /// The version that the product must have if it exists and the row changes it.
    pub version: Option<i64>,
}

/// What an import does with a product that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExistingProducts {
    /// It is a conflict.
    Conflict,
    /// It is updated.
    Update,
}

/// Why a row cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The line of the row.
    pub line: u64,
    /// The reason.
    pub kind: ConflictKind,
}

/// The reason of a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictKind {
    /// Another row has the same id.
    Duplicate {
        /// The line of the first row with the id.
        first_line: i64,
    },
    /// The product exists.
    Exists {
        /// Its id.
        id: i64,
    },
    /// A deleted product had the id.
    Deleted {
        /// The id.
        id: i64,
    },
    /// The product has another version.
    VersionMismatch {
        /// The version of the product.
        version: i64,
    },
    /// The stock would fall below what reservations hold.
    Held {
        /// The number of units that they hold.
        held: i64,
    },
    /// The product does not exist, and the row has no name.
    MissingName,
    /// The product does not exist, and the row has no price.
    MissingPrice,
}

/// What an import does, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportCounts {
    /// Number of products that it creates.
    pub created: u64,
    /// Number of products that it updates.
    pub updated: u64,
    /// Number of products that have the values of their rows.
    pub unchanged: u64,
}

/// The conflicts of an import with the database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conflicts {
    /// The first ones, in the order of their lines.
    pub first: Vec<Conflict>,
    /// How many there are.
    pub total: u64,
}

/// The outcome of the transaction that writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportOutcome {
    /// Everything is committed.
    Written(ImportCounts),
    /// Nothing is written.
    Rejected(Conflicts),
}

/// Receives the number of rows that are written so far.
pub type OnProgress<'a> = &'a mut (dyn FnMut(u64) + Send);

/// An import into one database.
#[async_trait]
pub trait Import: Send {
    /// Stages rows.
    async fn stage(&mut self, rows: Vec<ImportRow>) -> Result<()>;
    /// Compares the staged rows with each other and with the products, and locks nothing.
    async fn check(&mut self) -> Result<(Conflicts, ImportCounts)>;
    /// Checks again and writes all staged rows, in one transaction. `request` is for the ledger. Called
    /// after [`check`](Self::check).
    async fn write(&mut self, request: &str, on_progress: OnProgress<'_>) -> Result<ImportOutcome>;
    /// Closes the connection, and drops the staged rows.
    async fn close(self: Box<Self>);
}

/// How many rows are staged.
#[derive(Default)]
pub(super) struct Staging {
    /// Number of rows staged so far.
    pub(super) rows: i64,
    /// Number of them whose ids the database assigns.
    pub(super) without_id: i64,
}

/// A row with its position in the file.
pub(super) struct StagedRow {
    /// Counts the rows, from 1.
    pub(super) ordinal: i64,
    /// Counts the rows without an id, from 1. `None` for a row with one.
    pub(super) rank: Option<i64>,
    pub(super) line: i64,
    pub(super) row: ImportRow,
}

impl Staging {
    /// Returns the row with the next position.
    pub(super) fn place(&mut self, row: ImportRow) -> StagedRow {
        self.rows += 1;
        let has_id = row.id.is_some();
        self.without_id += i64::from(!has_id);
        StagedRow {
            ordinal: self.rows,
            rank: (!has_id).then_some(self.without_id),
            line: i64::try_from(row.line).unwrap_or(i64::MAX),
            row,
        }
    }

    /// Returns whether rows can be in conflict with each other or with products.
    pub(super) fn has_ids(&self) -> bool {
        self.without_id < self.rows
    }

    /// Returns the steps in which the transaction writes: the first and the last row of each.
    pub(super) fn steps(&self) -> impl Iterator<Item = (i64, i64)> + use<> {
        let rows = self.rows;
        (0..)
            .map(|step| step * ROWS_A_STEP)
            .take_while(move |before| *before < rows)
            .map(move |before| (before + 1, (before + ROWS_A_STEP).min(rows)))
    }
}

/// A row of [`select_conflicts`](super::sql::select_conflicts).
pub(super) struct FoundConflict(Conflict, u64);

impl<'r, R> FromRow<'r, R> for FoundConflict
where
    R: Row,
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        let kind: String = row.try_get("kind")?;
        let detail: i64 = row.try_get("detail")?;
        let kind = match &*kind {
            "duplicate" => ConflictKind::Duplicate { first_line: detail },
            "exists" => ConflictKind::Exists { id: detail },
            "deleted" => ConflictKind::Deleted { id: detail },
            "version" => ConflictKind::VersionMismatch { version: detail },
            "held" => ConflictKind::Held { held: detail },
            "name" => ConflictKind::MissingName,
            _ => ConflictKind::MissingPrice,
        };
        let line = unsigned(row.try_get("line")?);
        let total = unsigned(row.try_get("total")?);
        Ok(Self(Conflict { line, kind }, total))
    }
}

impl FromIterator<FoundConflict> for Conflicts {
    fn from_iter<I: IntoIterator<Item = FoundConflict>>(found: I) -> Self {
        let mut conflicts = Self::default();
        for FoundConflict(conflict, total) in found {
            conflicts.first.push(conflict);
            conflicts.total = total;
        }
        conflicts
    }
}

impl ImportCounts {
    /// Adds what a step has written. `rows` counts those of all steps so far.
    pub(super) fn add_step(&mut self, created: u64, updated: u64, rows: i64) {
        self.created += created;
        self.updated += updated;
        self.unchanged = unsigned(rows).saturating_sub(self.created + self.updated);
    }
}

impl<'r, R> FromRow<'r, R> for ImportCounts
where
    R: Row,
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        let [created, updated, rows] = ["created", "updated", "rows"].map(|name| row.try_get(name));
        let (created, updated) = (unsigned(created?), unsigned(updated?));
        Ok(Self {
            created,
            updated,
            unchanged: unsigned(rows?).saturating_sub(created + updated),
        })
    }
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}
