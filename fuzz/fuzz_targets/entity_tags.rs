//! Entity tags of products.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lockstock_shop::fuzzing::entity_tags(input));
