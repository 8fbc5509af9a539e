//! Conditional headers.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lockstock_http::fuzzing::conditions(input));
