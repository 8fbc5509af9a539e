//! Request bodies: JSON, forms, multipart.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lockstock_shop::fuzzing::bodies(input));
