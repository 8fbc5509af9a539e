//! The SQL of an import that both databases share: see [`import`](super::super::import).

/// The tables of the staged rows, and of the products that the transaction writes, as they are before.
macro_rules! create_tables {
    ($integer:literal, $entry:literal) => {
        concat!(
            "CREATE TEMPORARY TABLE import_rows (
                 ordinal ",
            $integer,
            " PRIMARY KEY, line bigint NOT NULL, id bigint, rank bigint, name text,
                 description text, price bigint, stock bigint, version bigint",
            $entry,
            ");
             CREATE TEMPORARY TABLE import_writes (
                 ordinal ",
            $integer,
            " PRIMARY KEY, id bigint NOT NULL, stock bigint NOT NULL, version bigint NOT NULL)"
        )
    };
}
pub(in super::super) use create_tables;

/// Is true if a row changes the product `p`.
macro_rules! is_changed {
    () => {
        "(coalesce(r.name, p.name), coalesce(r.description, p.description),
          coalesce(r.price, p.price), coalesce(r.stock, p.stock))
         <> (p.name, p.description, p.price, p.stock)"
    };
}
pub(in super::super) use is_changed;

/// Selects conflicts, with their total in each row. Binds whether products are updated, and how many
/// conflicts to return. `$now` is the clock of the database.
macro_rules! select_conflicts {
    ($now:literal) => {
        concat!(
            "SELECT line, kind, detail, count(*) OVER () AS total FROM (
                 SELECT r.line, 'duplicate' AS kind, f.line AS detail
                 FROM import_rows AS r JOIN (
                         SELECT id, min(ordinal) AS ordinal FROM import_rows WHERE id IS NOT NULL
                         GROUP BY id HAVING count(*) > 1
                     ) AS d ON d.id = r.id AND d.ordinal < r.ordinal
                     JOIN import_rows AS f ON f.ordinal = d.ordinal
                 UNION ALL
                 SELECT r.line, 'exists', p.id
                 FROM import_rows AS r JOIN products AS p ON p.id = r.id
                 WHERE NOT $1
                 UNION ALL
                 SELECT r.line, 'version', p.version
                 FROM import_rows AS r JOIN products AS p ON p.id = r.id
                 WHERE $1 AND r.version <> p.version AND ",
            $crate::storage::sql::import::is_changed!(),
            "
                 UNION ALL
                 SELECT r.line, 'held', ",
            $crate::storage::sql::held_units!("p.id", $now),
            "
                 FROM import_rows AS r JOIN products AS p ON p.id = r.id
                 WHERE $1 AND r.stock < p.stock AND r.stock < ",
            $crate::storage::sql::held_units!("p.id", $now),
            "
                 UNION ALL
                 SELECT r.line, k.kind, r.id
                 FROM import_rows AS r CROSS JOIN (
                         SELECT 'deleted' AS kind
                         UNION ALL SELECT 'name'
                         UNION ALL SELECT 'price'
                     ) AS k
                 WHERE r.id IS NOT NULL
                     AND NOT EXISTS (SELECT 1 FROM products AS p WHERE p.id = r.id)
                     AND CASE k.kind
                         WHEN 'name' THEN r.name IS NULL
                         WHEN 'price' THEN r.price IS NULL
                         ELSE EXISTS (SELECT 1 FROM ledger AS l WHERE l.product = r.id)
                     END
             ) AS c ORDER BY line, kind LIMIT $2"
        )
    };
}
pub(in super::super) use select_conflicts;

/// Counts what an import does.
pub(in super::super) const COUNT: &str = concat!(
    "SELECT count(*) FILTER (WHERE p.id IS NULL) AS created,
         count(*) FILTER (WHERE p.id IS NOT NULL AND ",
    is_changed!(),
    ") AS updated,
         count(*) AS rows
     FROM import_rows AS r LEFT JOIN products AS p ON p.id = r.id"
);

/// Lists the products that rows change, as they are before.
macro_rules! list_changed {
    ($lock:literal) => {
        concat!(
            "INSERT INTO import_writes (ordinal, id, stock, version)
             SELECT r.ordinal, p.id, p.stock, p.version
             FROM import_rows AS r JOIN products AS p ON p.id = r.id
             WHERE ",
            $crate::storage::sql::import::is_changed!(),
            " ORDER BY p.id",
            $lock
        )
    };
}
pub(in super::super) use list_changed;

/// Lists the products that rows create, with a stock and a version of 0. Binds the id before the first
/// one that is assigned.
pub(in super::super) const LIST_NEW: &str =
    "INSERT INTO import_writes (ordinal, id, stock, version)
     SELECT r.ordinal, coalesce(r.id, $1 + r.rank), 0, 0
     FROM import_rows AS r
     WHERE NOT EXISTS (SELECT 1 FROM products AS p WHERE p.id = r.id)
     ORDER BY r.ordinal";

/// Inserts the ledger entries of the listed products of a step. Binds the first and the last row of the
/// step, the request, and the time.
macro_rules! insert_entries {
    ($entry:literal) => {
        concat!(
            "INSERT INTO ledger (product, version, id, reason, delta, stock_after, request, at)
             SELECT w.id, w.version + 1, ",
            $entry,
            ", CASE w.version WHEN 0 THEN 'created' ELSE 'changed' END,
                 coalesce(r.stock, w.stock) - w.stock, coalesce(r.stock, w.stock), $3, $4
             FROM import_writes AS w JOIN import_rows AS r ON r.ordinal = w.ordinal
             WHERE w.ordinal BETWEEN $1 AND $2 ORDER BY w.id"
        )
    };
}
pub(in super::super) use insert_entries;

/// Inserts the new products of a step. Binds the step and the time.
macro_rules! insert_products {
    ($overriding:literal) => {
        concat!(
            "INSERT INTO products (id, name, description, price, stock, created_at, updated_at)",
            $overriding,
            " SELECT w.id, r.name, coalesce(r.description, ''), r.price, coalesce(r.stock, 0), $3, $3
             FROM import_writes AS w JOIN import_rows AS r ON r.ordinal = w.ordinal
             WHERE w.version = 0 AND w.ordinal BETWEEN $1 AND $2 ORDER BY w.id"
        )
    };
}
pub(in super::super) use insert_products;

/// Updates the other products of a step. Binds the step and the time.
pub(in super::super) const UPDATE_PRODUCTS: &str = "UPDATE products AS p SET
         name = coalesce(r.name, p.name),
         description = coalesce(r.description, p.description),
         price = coalesce(r.price, p.price),
         stock = coalesce(r.stock, p.stock),
         version = p.version + 1,
         updated_at = $3
     FROM import_writes AS w JOIN import_rows AS r ON r.ordinal = w.ordinal
     WHERE p.id = w.id AND w.version > 0 AND w.ordinal BETWEEN $1 AND $2";
