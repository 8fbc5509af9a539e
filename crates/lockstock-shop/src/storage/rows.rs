//! Reading rows: written by hand, because sqlx's derive would compile all of sqlx, SQLite and
//! ring for the host as well.

use chrono::{DateTime, Utc};
use sqlx::{ColumnIndex, Decode, FromRow, Result, Row, Type};
use uuid::Uuid;

use super::{LedgerEntry, Product, Reservation};

impl<'r, R> FromRow<'r, R> for Product
where
    R: Row,
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    DateTime<Utc>: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            description: row.try_get("description")?,
            price: row.try_get("price")?,
            stock: row.try_get("stock")?,
            version: row.try_get("version")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            held: row.try_get("held")?,
        })
    }
}

impl<'r, R> FromRow<'r, R> for LedgerEntry
where
    R: Row,
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    Option<i64>: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    Option<String>: Decode<'r, R::Database> + Type<R::Database>,
    DateTime<Utc>: Decode<'r, R::Database> + Type<R::Database>,
    Uuid: Decode<'r, R::Database> + Type<R::Database>,
    Option<Uuid>: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            product: row.try_get("product")?,
            version: row.try_get("version")?,
            reason: parsed(row, "reason")?,
            delta: row.try_get("delta")?,
            stock_after: row.try_get("stock_after")?,
            unit_price: row.try_get("unit_price")?,
            reservation: row.try_get("reservation")?,
            request: row.try_get("request")?,
            caller: row.try_get("caller")?,
            fence: row.try_get("fence")?,
            at: row.try_get("at")?,
        })
    }
}

impl<'r, R> FromRow<'r, R> for Reservation
where
    R: Row,
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    DateTime<Utc>: Decode<'r, R::Database> + Type<R::Database>,
    Uuid: Decode<'r, R::Database> + Type<R::Database>,
    Option<Uuid>: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            product: row.try_get("product")?,
            caller: row.try_get("caller")?,
            quantity: row.try_get("quantity")?,
            state: parsed(row, "state")?,
            expires_at: row.try_get("expires_at")?,
            purchase: row.try_get("purchase")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

/// Reads a column that stores the name of an enum's variant.
fn parsed<'r, R, T>(row: &'r R, column: &'static str) -> Result<T>
where
    R: Row,
    &'static str: ColumnIndex<R>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    T: TryFrom<String, Error = String>,
{
    let name: String = row.try_get(column)?;
    T::try_from(name).map_err(|why| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: why.into(),
    })
}
