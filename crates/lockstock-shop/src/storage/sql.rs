//! The text of the list's queries, which both databases read alike.
//!
//! Only names from the enums below are ever written into the text; what a client sent is
//! bound as `$1`, `$2`, ….

use super::{Column, Comparison, Direction, Entries, Selection};

/// Every column of a [`Product`](super::Product), as `SELECT` and `RETURNING` name them. `$now`
/// is the database's clock, as reservations have it.
macro_rules! product {
    ($now:literal) => {
        concat!(
            "id, name, description, price, stock, version, created_at, updated_at, ",
            "(SELECT CAST(coalesce(sum(quantity), 0) AS bigint) FROM reservations AS r ",
            "WHERE r.product = products.id AND r.state = 'held' AND r.expires_at > ",
            $now,
            ") AS held"
        )
    };
}
pub(super) use product;

/// Every column of an [`Entry`](super::Entry).
pub(super) const ENTRY: &str =
    "id, product, version, reason, delta, stock_after, unit_price, reservation, request, fence, at";

/// Every column of a [`Reservation`](super::Reservation).
pub(super) const RESERVATION: &str =
    "id, product, caller, quantity, state, expires_at, purchase, created_at";

/// Writes one entry that sells nothing.
pub(super) const INSERT_ENTRY: &str =
    "INSERT INTO ledger (product, version, id, reason, delta, stock_after, request, fence, at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";

/// How many entries of product `$1` there are. The versions of all of them have no gaps.
pub(super) fn count_entries(which: Entries) -> &'static str {
    match which {
        Entries::All => {
            "SELECT coalesce(max(version) - min(version) + 1, 0) FROM ledger WHERE product = $1"
        }
        // As the index has it.
        Entries::Purchases => {
            "SELECT count(*) FROM ledger WHERE product = $1 AND reason IN ('purchase', 'confirmed')"
        }
    }
}

/// So many entries of product `$1`, behind so many, the oldest first.
pub(super) fn entries(which: Entries, limit: i64, offset: i64) -> String {
    match which {
        Entries::All => format!(
            "SELECT {ENTRY} FROM ledger WHERE product = $1 AND version >= {offset} +
                 (SELECT min(version) FROM ledger WHERE product = $1)
             ORDER BY version LIMIT {limit}"
        ),
        Entries::Purchases => format!(
            "SELECT {ENTRY} FROM ledger WHERE product = $1 AND reason IN ('purchase', 'confirmed')
             ORDER BY version LIMIT {limit} OFFSET {offset}"
        ),
    }
}

/// A value to bind.
pub(super) enum Bind {
    Number(i64),
    Text(String),
}

/// `WHERE …` (or nothing) for a selection, and what to bind.
pub(super) fn filter(selection: &Selection) -> (String, Vec<Bind>) {
    let mut conditions = Vec::new();
    let mut binds = Vec::new();
    for term in &selection.terms {
        binds.push(Bind::Text(format!("%{}%", escaped(term))));
        let n = binds.len();
        conditions.push(format!(
            "(lower(name) LIKE lower(${n}) ESCAPE '!' OR lower(description) LIKE lower(${n}) ESCAPE '!')"
        ));
    }
    for bound in &selection.bounds {
        binds.push(Bind::Number(bound.value));
        let (column, comparison) = (column(bound.column), comparison(bound.comparison));
        conditions.push(format!("{column} {comparison} ${}", binds.len()));
    }
    let mut text = conditions.join(" AND ");
    if !text.is_empty() {
        text.insert_str(0, " WHERE ");
    }
    (text, binds)
}

/// `ORDER BY …`, always down to one order: pages must not overlap.
pub(super) fn order(selection: &Selection) -> String {
    let mut terms = selection
        .order
        .iter()
        .map(|(by, direction)| match direction {
            Direction::Ascending => column(*by).to_owned(),
            Direction::Descending => format!("{} DESC", column(*by)),
        })
        .collect::<Vec<_>>();
    terms.push("id".to_owned());
    format!(" ORDER BY {}", terms.join(", "))
}

fn escaped(term: &str) -> String {
    // '!' and not a backslash: that one has a meaning of its own in some string literals.
    term.replace('!', "!!")
        .replace('%', "!%")
        .replace('_', "!_")
}

fn column(column: Column) -> &'static str {
    match column {
        Column::Id => "id",
        Column::Name => "name",
        Column::Price => "price",
        Column::Stock => "stock",
        Column::Version => "version",
        Column::CreatedAt => "created_at",
        Column::UpdatedAt => "updated_at",
    }
}

fn comparison(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Equal => "=",
        Comparison::Greater => ">",
        Comparison::GreaterOrEqual => ">=",
        Comparison::Less => "<",
        Comparison::LessOrEqual => "<=",
    }
}
