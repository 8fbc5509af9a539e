//! What the fuzz targets in `fuzz/` check. `cargo fuzz` sets `cfg(fuzzing)`.

use std::io::{self, Read};

use chrono::DateTime;
use lockstock_http::EntityTag;

use crate::api::products::serializer;
use crate::drf::body;
use crate::drf::fields::{Completeness, MAX_POSITIVE_INTEGER};
use crate::etag;
use crate::product_file::{Format, Writer, read};
use crate::storage::{Changes, ExistingProducts, Product};

/// Checks the parsers of request bodies, and that a product made of one is valid.
pub fn bodies(input: &[u8]) {
    let Some(fields) = body::fuzzing::check(input) else {
        return;
    };
    for completeness in [Completeness::Full, Completeness::Partial] {
        let Ok(changes) = serializer::validate(&fields, completeness) else {
            continue;
        };
        let name = changes.name.as_deref().unwrap_or("x");
        assert!((1..=200).contains(&name.chars().count()) && !name.contains('\0'));
        assert!(!changes.description.unwrap_or_default().contains('\0'));
        for number in [changes.price, changes.stock].into_iter().flatten() {
            assert!((0..=MAX_POSITIVE_INTEGER).contains(&number));
        }
    }
}

/// Checks the entity tags of products: a tag that has a version is the one that is built for it, and
/// the other way round.
pub fn entity_tags(input: &[u8]) {
    if let Some(tag) = EntityTag::parse(input)
        && let Some(version) = etag::version(&tag)
    {
        let text = str::from_utf8(tag.opaque()).expect("a version is text");
        let held = text
            .split_once('.')
            .map_or(0, |(_, held)| held.parse().expect("a number"));
        let built = EntityTag::parse(etag::format(version, held).as_bytes()).expect("a tag");
        assert_eq!(built.opaque(), tag.opaque());
    }
    if let Some((version, rest)) = input.split_first_chunk()
        && let Some((held, _)) = rest.split_first_chunk()
    {
        let (version, held) = (i64::from_le_bytes(*version), i64::from_le_bytes(*held));
        let built = EntityTag::parse(etag::format(version, held).as_bytes()).expect("a tag");
        assert_eq!(etag::version(&built), Some(version));
    }
}

/// Checks the readers and the writer of product files: what is read does not depend on the pieces in
/// which it arrives, and the products of the rows, written and read again, are the same. The first byte
/// chooses the format and the size of the pieces.
pub fn product_files(input: &[u8]) {
    let Some((first, bytes)) = input.split_first() else {
        return;
    };
    let formats = [Format::Csv, Format::Jsonl];
    let format = formats[usize::from(first % 2)];
    let existing = match first % 4 {
        ..2 => ExistingProducts::Conflict,
        _ => ExistingProducts::Update,
    };
    let rows = |size| read(Pieces { bytes, size }, format, existing).collect::<Vec<_>>();
    let whole = rows(usize::MAX);
    let in_pieces = rows(1 + usize::from(first / 4));
    assert_eq!(format!("{whole:?}"), format!("{in_pieces:?}"));
    let products = whole.into_iter().flatten().map(|row| Product {
        id: row.id.unwrap_or(1),
        name: row.changes.name.unwrap_or_else(|| "x".to_owned()),
        description: row.changes.description.unwrap_or_default(),
        price: row.changes.price.unwrap_or_default(),
        stock: row.changes.stock.unwrap_or_default(),
        version: row.version.unwrap_or(1),
        created_at: DateTime::UNIX_EPOCH,
        updated_at: DateTime::UNIX_EPOCH,
        held: 0,
    });
    let products: Vec<_> = products.collect();
    for format in formats {
        let mut writer = Writer::new(Vec::new(), format).expect("memory is written");
        for product in &products {
            writer.write(product.clone()).expect("memory is written");
        }
        let file = writer.finish().expect("memory is written");
        let mut rows = read(&file[..], format, ExistingProducts::Conflict);
        for product in &products {
            let row = rows
                .next()
                .expect("a row")
                .expect("what was exported can be imported");
            let changes = Changes {
                name: Some(product.name.clone()),
                description: Some(product.description.clone()),
                price: Some(product.price),
                stock: Some(product.stock),
            };
            let expected = (Some(product.id), Some(product.version), changes);
            assert_eq!((row.id, row.version, row.changes), expected);
        }
        assert!(rows.next().is_none());
    }
}

/// Bytes that arrive in pieces.
struct Pieces<'a> {
    bytes: &'a [u8],
    size: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let size = self.size.min(into.len()).min(self.bytes.len());
        let (piece, rest) = self.bytes.split_at(size);
        into[..size].copy_from_slice(piece);
        self.bytes = rest;
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use lockstock_testkit::fuzz_inputs;

    #[test]
    fn inputs_of_the_fuzzer_are_read_as_they_are_written() {
        for (_, input) in fuzz_inputs("bodies") {
            super::bodies(&input);
        }
        for (_, input) in fuzz_inputs("entity_tags") {
            super::entity_tags(&input);
        }
        for (_, input) in fuzz_inputs("product_files") {
            super::product_files(&input);
        }
    }
}
