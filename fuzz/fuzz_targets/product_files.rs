//! Files of products that are imported and exported: CSV and JSON lines.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lockstock_shop::fuzzing::product_files(input));
