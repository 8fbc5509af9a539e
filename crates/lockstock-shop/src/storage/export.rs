//! Export of all products.
//!
//! Guarantee: the products are those of one moment. They are read in one transaction, by one statement,
//! whose rows arrive one after another.

use std::io;

use futures_util::TryStreamExt;
use sqlx::{PgConnection, SqliteConnection};

use super::{Product, Scheme, cannot_open, postgres, sqlite};

/// The columns of a [`Product`] without those of its reservations, which are not exported.
const SELECT: &str = "SELECT id, name, description, price, stock, version, created_at, updated_at,
         CAST(0 AS bigint) AS held
     FROM products ORDER BY id";

const COUNT: &str = "SELECT count(*) FROM products";

/// A transaction that reads the products of a database, as they are at its first statement.
pub struct Export(Connection);

enum Connection {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

impl Export {
    /// Connects to the database at `url`.
    ///
    /// # Errors
    ///
    /// One line with the cause and the remedy, without a password.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        let opened = match Scheme::of(url)? {
            Scheme::Sqlite => sqlite::export::connect(url).await.map(Connection::Sqlite),
            Scheme::Postgres => postgres::export::connect(url)
                .await
                .map(Connection::Postgres),
        };
        opened.map(Self).map_err(|error| cannot_open(url, &error))
    }

    /// Returns how many products there are.
    pub async fn count(&mut self) -> super::Result<u64> {
        let count: i64 = match &mut self.0 {
            Connection::Postgres(connection) => {
                sqlx::query_scalar(COUNT).fetch_one(connection).await?
            }
            Connection::Sqlite(connection) => {
                sqlx::query_scalar(COUNT).fetch_one(connection).await?
            }
        };
        Ok(count.unsigned_abs())
    }

    /// Calls `write` with each product, in the order of their ids. The units that reservations hold are
    /// not part of it. Ends with the first error of `write`.
    pub async fn for_each(
        &mut self,
        mut write: impl FnMut(Product) -> io::Result<()>,
    ) -> super::Result<io::Result<()>> {
        let mut products = match &mut self.0 {
            Connection::Postgres(connection) => sqlx::query_as(SELECT).fetch(connection),
            Connection::Sqlite(connection) => sqlx::query_as(SELECT).fetch(connection),
        };
        while let Some(product) = products.try_next().await? {
            if let Err(error) = write(product) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }
}
