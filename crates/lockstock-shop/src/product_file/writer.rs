//! Writing a file of products, which can be imported again unchanged.

use std::io::{self, Write};

use super::Format;
use crate::api::products::serializer::{FIELDS, ProductResponse};
use crate::storage::Product;
use crate::timestamp;

/// A file of products that is being written.
pub(crate) enum Writer<W: Write> {
    Csv(Box<csv::Writer<W>>),
    JsonLines(W),
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    pub(crate) fn new(output: W, format: Format) -> io::Result<Self> {
        match format {
            Format::Csv => {
                let mut writer = csv::Writer::from_writer(output);
                let names = FIELDS.iter().map(|field| field.name());
                writer.write_record(names).map_err(into_io)?;
                Ok(Self::Csv(Box::new(writer)))
            }
            Format::Jsonl => Ok(Self::JsonLines(output)),
        }
    }

    /// Writes a product. As in a response of the API, but without what reservations hold of it.
    pub(crate) fn write(&mut self, product: Product) -> io::Result<()> {
        match self {
            Self::Csv(writer) => {
                let columns = FIELDS.iter().map(|field| column(&product, field.name()));
                writer.write_record(columns).map_err(into_io)
            }
            Self::JsonLines(output) => {
                serde_json::to_writer(&mut *output, &ProductResponse::from(product))?;
                output.write_all(b"\n")
            }
        }
    }

    /// Writes what is buffered, and returns the output.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Self::Csv(writer) => writer.into_inner().map_err(|error| error.into_error()),
            Self::JsonLines(output) => Ok(output),
        }
    }
}

fn column(product: &Product, name: &str) -> String {
    match name {
        "id" => product.id.to_string(),
        "name" => product.name.clone(),
        "description" => product.description.clone(),
        "price" => product.price.to_string(),
        "stock" => product.stock.to_string(),
        "version" => product.version.to_string(),
        "created_at" => timestamp::format(product.created_at),
        "updated_at" => timestamp::format(product.updated_at),
        _ => String::new(),
    }
}

fn into_io(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}
