//! The SQL that both databases share.
//!
//! Statements are constants; only lists are built, from the names of the enums below. Every
//! value of a client is bound.

pub(super) mod import;

use sqlx::{Database, Encode, QueryBuilder, Type};

use super::{Column, Comparison, Direction, EntryFilter, Filter, LedgerEntry, ProductQuery};

/// The units of a product that are set aside. `$now` is the clock of the database, in the format of
/// `reservations.expires_at`.
macro_rules! held_units {
    ($product:literal, $now:literal) => {
        concat!(
            "(SELECT CAST(coalesce(sum(quantity), 0) AS bigint) FROM reservations AS r ",
            "WHERE r.product = ",
            $product,
            " AND r.state = 'held' AND r.expires_at > ",
            $now,
            ")"
        )
    };
}
pub(super) use held_units;

/// The columns of a [`Product`](super::Product), for `SELECT` and `RETURNING`. `$now` as in
/// [`held_units`].
macro_rules! product_columns {
    ($now:literal) => {
        concat!(
            "id, name, description, price, stock, version, created_at, updated_at, ",
            $crate::storage::sql::held_units!("products.id", $now),
            " AS held"
        )
    };
}
pub(super) use product_columns;

/// The columns of a [`LedgerEntry`].
macro_rules! entry_columns {
    () => {
        "id, product, version, reason, delta, stock_after, unit_price, reservation, request, \
         caller, fence, at"
    };
}

/// The columns of a [`Reservation`](super::Reservation).
macro_rules! reservation_columns {
    () => {
        "id, product, caller, quantity, state, expires_at, purchase, created_at"
    };
}
pub(super) use reservation_columns;

/// Inserts a product. Binds name, description, price, stock and the current time.
macro_rules! insert_product {
    ($now:literal) => {
        concat!(
            "INSERT INTO products (name, description, price, stock, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $5) RETURNING ",
            $crate::storage::sql::product_columns!($now)
        )
    };
}
pub(super) use insert_product;

/// Updates a product. Binds name, description, price and stock, each or NULL to leave it as it
/// is; fence, the current time and the id.
macro_rules! update_product {
    ($now:literal) => {
        concat!(
            "UPDATE products SET
                 name = coalesce($1, name),
                 description = coalesce($2, description),
                 price = coalesce($3, price),
                 stock = coalesce($4, stock),
                 version = version + 1,
                 fence = $5,
                 updated_at = $6
             WHERE id = $7 RETURNING ",
            $crate::storage::sql::product_columns!($now)
        )
    };
}
pub(super) use update_product;

/// Inserts a ledger entry that sells nothing. Binds as in [`insert_entry`].
const INSERT_ENTRY: &str =
    "INSERT INTO ledger (product, version, id, reason, delta, stock_after, request, fence, at, caller)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

/// Selects a purchase by its id. The condition is that of the index.
pub(super) const SELECT_PURCHASE: &str = concat!(
    "SELECT ",
    entry_columns!(),
    " FROM ledger WHERE id = $1 AND reason IN ('purchase', 'confirmed')"
);

/// Returns the statement that inserts a ledger entry that sells nothing.
pub(super) fn insert_entry<DB: Database>(
    entry: LedgerEntry,
) -> sqlx::query::Query<'static, DB, DB::Arguments>
where
    i64: Encode<'static, DB> + Type<DB>,
    Option<i64>: Encode<'static, DB> + Type<DB>,
    &'static str: Encode<'static, DB> + Type<DB>,
    String: Encode<'static, DB> + Type<DB>,
    Option<String>: Encode<'static, DB> + Type<DB>,
    uuid::Uuid: Encode<'static, DB> + Type<DB>,
    chrono::DateTime<chrono::Utc>: Encode<'static, DB> + Type<DB>,
{
    sqlx::query(INSERT_ENTRY)
        .bind(entry.product)
        .bind(entry.version)
        .bind(entry.id)
        .bind(entry.reason.name())
        .bind(entry.delta)
        .bind(entry.stock_after)
        .bind(entry.request)
        .bind(entry.fence)
        .bind(entry.at)
        .bind(entry.caller)
}

/// Returns the statement that counts the entries in the ledger of product `$1`.
pub(super) fn count_entries(filter: EntryFilter) -> &'static str {
    match filter {
        // The versions in a ledger have no gaps.
        EntryFilter::All => {
            "SELECT coalesce(max(version) - min(version) + 1, 0) FROM ledger WHERE product = $1"
        }
        // The condition is that of the index.
        EntryFilter::Purchases => {
            "SELECT count(*) FROM ledger WHERE product = $1 AND reason IN ('purchase', 'confirmed')"
        }
    }
}

/// Returns the query for entries in the ledger of a product, the oldest first.
pub(super) fn list_entries<DB: Database>(
    product: i64,
    filter: EntryFilter,
    limit: i64,
    offset: i64,
) -> QueryBuilder<DB>
where
    i64: for<'q> Encode<'q, DB> + Type<DB>,
{
    const SELECT: &str = concat!("SELECT ", entry_columns!(), " FROM ledger WHERE product = ");
    let mut query = QueryBuilder::new(SELECT);
    query.push_bind(product);
    match filter {
        EntryFilter::All => query
            .push(format_args!(
                " AND version >= {offset} + (SELECT min(version) FROM ledger WHERE product = "
            ))
            .push_bind(product)
            .push(format_args!(") ORDER BY version LIMIT {limit}")),
        EntryFilter::Purchases => query.push(format_args!(
            " AND reason IN ('purchase', 'confirmed') ORDER BY version LIMIT {limit} OFFSET {offset}"
        )),
    };
    query
}

/// Returns the query for the number of products that match.
pub(super) fn count_products<DB: Database>(products: &ProductQuery) -> QueryBuilder<DB>
where
    i64: for<'q> Encode<'q, DB> + Type<DB>,
    String: for<'q> Encode<'q, DB> + Type<DB>,
{
    let mut query = QueryBuilder::new("SELECT count(*) FROM products");
    push_filters(&mut query, products);
    query
}

/// Returns the query for the products that match; `select` names the columns.
pub(super) fn list_products<DB: Database>(
    select: &'static str,
    products: &ProductQuery,
    limit: i64,
    offset: i64,
) -> QueryBuilder<DB>
where
    i64: for<'q> Encode<'q, DB> + Type<DB>,
    String: for<'q> Encode<'q, DB> + Type<DB>,
{
    let mut query = QueryBuilder::new(select);
    push_filters(&mut query, products);
    query.push(" ORDER BY ");
    for (column, direction) in &products.order {
        query.push(column_name(*column)).push(match direction {
            Direction::Ascending => ", ",
            Direction::Descending => " DESC, ",
        });
    }
    // Makes the order total: pages must not overlap.
    query.push(format_args!("id LIMIT {limit} OFFSET {offset}"));
    query
}

fn push_filters<DB: Database>(query: &mut QueryBuilder<DB>, products: &ProductQuery)
where
    i64: for<'q> Encode<'q, DB> + Type<DB>,
    String: for<'q> Encode<'q, DB> + Type<DB>,
{
    let mut conjunctions = std::iter::once(" WHERE ").chain(std::iter::repeat(" AND "));
    for (term, conjunction) in products.terms.iter().zip(&mut conjunctions) {
        let pattern = format!("%{}%", escape(term));
        query
            .push(conjunction)
            .push("(lower(name) LIKE lower(")
            .push_bind(pattern.clone())
            .push(") ESCAPE '!' OR lower(description) LIKE lower(")
            .push_bind(pattern)
            .push(") ESCAPE '!')");
    }
    for (filter, conjunction) in products.filters.iter().zip(conjunctions) {
        let Filter {
            column,
            comparison,
            value,
        } = *filter;
        query
            .push(conjunction)
            .push(column_name(column))
            .push(operator(comparison))
            .push_bind(value);
    }
}

/// Escapes the wildcards of `LIKE`.
fn escape(term: &str) -> String {
    // Not with a backslash, which has a meaning of its own in some string literals.
    term.replace('!', "!!")
        .replace('%', "!%")
        .replace('_', "!_")
}

fn column_name(column: Column) -> &'static str {
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

fn operator(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::Equal => " = ",
        Comparison::Greater => " > ",
        Comparison::GreaterOrEqual => " >= ",
        Comparison::Less => " < ",
        Comparison::LessOrEqual => " <= ",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::{Postgres, Sqlite};

    #[test]
    fn lists_bind_every_value_and_order_totally() {
        let query = ProductQuery {
            terms: vec!["100%".to_owned(), "red".to_owned()],
            filters: vec![Filter {
                column: Column::Price,
                comparison: Comparison::LessOrEqual,
                value: 300,
            }],
            order: vec![
                (Column::Stock, Direction::Descending),
                (Column::Name, Direction::Ascending),
            ],
        };
        let list = list_products::<Postgres>("SELECT id FROM products", &query, 10, 20);
        let like = |first, second| {
            format!(
                "(lower(name) LIKE lower(${first}) ESCAPE '!' \
                 OR lower(description) LIKE lower(${second}) ESCAPE '!')"
            )
        };
        assert_eq!(
            list.into_string(),
            format!(
                "SELECT id FROM products WHERE {} AND {} AND price <= $5 \
                 ORDER BY stock DESC, name, id LIMIT 10 OFFSET 20",
                like(1, 2),
                like(3, 4)
            )
        );
        let all = ProductQuery::default();
        let count = count_products::<Sqlite>(&all);
        assert_eq!(count.into_string(), "SELECT count(*) FROM products");
        let list = list_products::<Sqlite>("SELECT id FROM products", &all, 1, 0);
        assert_eq!(
            list.into_string(),
            "SELECT id FROM products ORDER BY id LIMIT 1 OFFSET 0"
        );
        assert_eq!(escape("5_%!"), "5!_!%!!");
    }
}
