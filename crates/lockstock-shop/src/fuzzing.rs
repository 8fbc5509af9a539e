//! What the fuzz targets in `fuzz/` check. `cargo fuzz` sets `cfg(fuzzing)`.

use lockstock_http::EntityTag;

use crate::api::products::serializer;
use crate::drf::body;
use crate::drf::fields::{Completeness, MAX_POSITIVE_INTEGER};
use crate::etag;

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
    }
}
