//! The header `Idempotency-Key`, and recorded responses.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lockstock_http::fuzzing::idempotency(input));
